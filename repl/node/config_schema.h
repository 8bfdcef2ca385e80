/* The shape of a volume's file, and of a witness's: which keys there are, loaded by libcyaml into strings, and the
 * words for what each key expects. What the strings mean is for config*.c. */
#pragma once

#include <stdint.h>

#include "repl/base/err.h"
#include "repl/node/yaml_doc.h"

/* As libcyaml fills it in: every value a string, NULL where a key that may be left out was. Its own number parser takes
 * "4x" for 4, so even numbers come as strings and are parsed by repl/node/quantity.h. */
struct raw_node {
    char *name;
    char *backing;
    char *metadata;
    char *device;
    char **paths;
    unsigned paths_count;
};

struct raw_tls {
    char *ca;
    char *cert;
    char *key;
};

struct raw_link {
    char *transport;
    char *tls_word;      /* `tls: none` ... */
    struct raw_tls *tls; /* ... or a mapping */
    char *dead_after;
};

struct raw_witness_tls {
    char *ca;
    char *cert;
    char *key;
};

struct raw_hooks {
    char *promote;
    char *demote;
    char *freeze;
    char *thaw;
};

struct raw_offsite {
    char *store;
    char *at;
    char *keep;
    char *continuous;
    char *key;
};

struct raw_verify {
    char *every;
    char *at;
};

struct raw_test_disk {
    char *seed;
    char *error;
    char *read_errors;
    char *write_errors;
    char *discard_errors;
    char *zeroes_errors;
    char *flush_errors;
    char *short_transfers;
    char *error_offset;
    char *error_length;
    char *error_after;
    char *delay_min;
    char *delay_max;
    char *record;
};

struct raw_test_link {
    char *seed;
    char *drop;
    char *corrupt;
    char *cut;
    char *delay_min;
    char *delay_max;
    char *stall;
};

struct raw_test {
    char *node;
    char *boot;
    struct raw_test_disk *disk;
    struct raw_test_link *link;
};

struct raw_volume {
    char *volume;
    char *size;
    struct raw_node *nodes;
    unsigned nodes_count;
    struct raw_link *link;
    char *witness;
    struct raw_witness_tls *witness_tls;
    char *when_alone;
    char *when_deposed;
    char *activity_log;
    char *failover;
    char *fail_after;
    char *resync_rate;
    char *verify_rate;
    struct raw_verify *verify;
    struct raw_hooks *hooks;
    char *hook_timeout;
    struct raw_offsite *offsite;
    struct raw_test *test;
};

struct raw_witness {
    char *listen;
    char *state;
    char *tls_word;      /* `tls: none` ... */
    struct raw_tls *tls; /* ... or a mapping */
};

/* A file that makes a witness of the daemon. */
struct raw_witness_file {
    struct raw_witness *witness;
};

/* Where in which file we are; what every message needs. */
struct config_place {
    const char *file;
    struct yaml_doc doc;
};

/* Returns 0, or -EINVAL with the one line of text. `out` is freed by config_schema_free(). */
int config_schema_load(struct config_place *place, const uint8_t *text, size_t bytes, struct raw_volume **out,
                       struct err *err);
void config_schema_free(struct config_place *place, struct raw_volume *raw);

/* The same, of a witness's file. */
int config_schema_load_witness(struct config_place *place, const uint8_t *text, size_t bytes,
                               struct raw_witness_file **out, struct err *err);
void config_schema_free_witness(struct config_place *place, struct raw_witness_file *raw);

/* "FILE:LINE: KEY: expected (what the key expects), found (what is there)". `path` as in yaml_doc.h. Returns -EINVAL.
 */
int config_unexpected(struct config_place *place, const char *path, struct err *err);

/* "FILE:LINE: KEY: (text)". Returns -EINVAL. */
int config_wrong(struct config_place *place, const char *path, struct err *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
