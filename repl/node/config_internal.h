/* What the files share that read a configuration: config.c (a volume's), config_failover.c and config_faults.c (parts
 * of that) and config_witness.c (a witness's). */
#pragma once

#include "repl/node/config.h"
#include "repl/node/config_schema.h"

#define KEY_PATH_BYTES 64 /* of "nodes[1].paths[0]" and the like */

/* The file being read: the loaded strings, and where they go. */
struct reading {
    struct config_place place;
    const struct config_options *options;
    struct raw_volume *raw;
    struct volume_config *out;
    struct err *err;
};

/* A file's name, relative names being relative to the configuration file. False: too long. */
bool config_join_path(const struct reading *r, const char *name, char *out, size_t out_bytes);

/* Which of the words (the last is NULL) the value is. Like all here that return an int: or -EINVAL, with `r->err` set.
 */
int config_one_of(struct reading *r, const char *path, const char *value, const char *const *words);

int config_unsupported(struct reading *r, const char *path, const char *what, const char *instead);

/* "on", "off", and the other words of YAML for them. False: neither. */
bool config_switch_value(const char *text, bool *on);

/* `witness` and `witness-tls`. */
int config_read_register(struct reading *r);

/* `failover` and `fail-after`; after the register and `when-alone`. */
int config_read_failover(struct reading *r);

/* `test`; last, when it is known which node this is. */
int config_read_test(struct reading *r);
