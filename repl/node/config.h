/* The configuration: one YAML file per volume, the same file on every node, and one for a witness
 * (docs/man/lockstep.yaml.5).
 *
 * Everything in here was checked: whoever gets a volume_config may rely on the ranges below. All values are plain, so
 * that it can be copied; nothing in it is owned. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "blockdev/disk/disk.h"
#include "repl/base/err.h"
#include "repl/core/names.h"
#include "repl/link/link.h"

#define CONFIG_NODES_MAX 2
#define CONFIG_PATHS_MAX SESSION_PATHS_MAX
#define CONFIG_FILE_BYTES_MAX (256 * KIB)
#define CONFIG_VOLUMES_MAX 256
#define CONFIG_PATH_BYTES 256     /* of a file's name, with the final NUL */
#define CONFIG_ADDRESS_BYTES 272  /* "HOST:PORT" with a host name of up to 253 characters, with the final NUL */
#define CONFIG_WITNESS_BYTES 2560 /* of a register's URL, with the final NUL: of an etcd with all its members */
#define CONFIG_SOCKET_BYTES 108   /* of a unix socket's name, with the final NUL: sun_path */

#define CONFIG_SIZE_BYTES_MAX (64 * TIB)
#define CONFIG_DEAD_AFTER_NS_MIN (100 * NS_PER_MS)
#define CONFIG_DEAD_AFTER_NS_MAX (600 * NS_PER_S)
#define CONFIG_DEAD_AFTER_NS_DEFAULT (2 * NS_PER_S)
#define CONFIG_FAIL_AFTER_NS_MAX (UINT64_C(7) * 86400 * NS_PER_S) /* and longer than dead-after */
#define CONFIG_HOOK_NS_MIN (1 * NS_PER_S)
#define CONFIG_HOOK_NS_MAX (600 * NS_PER_S)
#define CONFIG_HOOK_NS_DEFAULT (30 * NS_PER_S)
#define CONFIG_ACTIVITY_LOG_BYTES_MIN (256 * MIB)
#define CONFIG_ACTIVITY_LOG_BYTES_MAX (1 * TIB)
#define CONFIG_ACTIVITY_LOG_BYTES_DEFAULT (256 * GIB)
#define CONFIG_ACTIVITY_LOG_BYTES_STEP (4 * MIB)
#define CONFIG_RATE_BYTES_MIN (1 * MIB) /* a second */
#define CONFIG_RATE_BYTES_MAX (1 * TIB)
#define CONFIG_VERIFY_EVERY_NS_MIN (UINT64_C(3600) * NS_PER_S)
#define CONFIG_VERIFY_EVERY_NS_MAX (UINT64_C(366) * 86400 * NS_PER_S)
#define CONFIG_ANY_TIME (-1)
#define CONFIG_TEST_DELAY_NS_MAX (600 * NS_PER_S)

#define CONFIG_RUN_DIR "/run/lockstep" /* where control.sock and the devices of `device: auto` are */

#define CONFIG_STATE_DIR "/var/lib/lockstep" /* what is kept of split brains, unless the order says where */

/* What the primary does with writes while the peer is away. In this order also in the hello. */
enum when_alone {
    ALONE_STRICT,   /* wait, unless the witness agrees. Without a witness: wait */
    ALONE_SUSPEND,  /* wait */
    ALONE_CONTINUE, /* go on alone, without asking anybody, once it counts as lost. Never with a witness */
};

static inline const char *when_alone_name(enum when_alone w)
{
    switch (w) {
    case ALONE_STRICT: return "strict";
    case ALONE_SUSPEND: return "suspend";
    case ALONE_CONTINUE: return "continue";
    }
    return "?";
}

/* What becomes of the requests of a primary that is deposed, and of those that come later on the same connections. */
enum when_deposed {
    DEPOSED_FAIL, /* they fail, and the connections are closed */
    DEPOSED_WAIT, /* they are never answered, and never carried out: the connections stay, until somebody ends that */
};

static inline const char *failover_name(bool automatic) { return automatic ? "automatic" : "manual"; }

struct config_node {
    char name[NAME_BYTES_MAX];
    char backing[CONFIG_PATH_BYTES];                    /* as seen from where the daemon was started */
    char metadata[CONFIG_PATH_BYTES];                   /* "": internal, at the end of the backing */
    char device[CONFIG_ADDRESS_BYTES];                  /* as the front takes it: "unix:/path" or "HOST:PORT" */
    bool device_is_open;                                /* a TCP address that others than this machine reach */
    unsigned path_count;                                /* 0 only where the volume has a single node */
    char paths[CONFIG_PATHS_MAX][CONFIG_ADDRESS_BYTES]; /* "HOST:PORT" or "[V6]:PORT", in order of preference */
};

/* The register that says who may serve, and how to reach it. */
struct config_witness {
    char url[CONFIG_WITNESS_BYTES];   /* lockstep://ADDRESS, etcd+https://ADDRESS,... or etcd+http://ADDRESS,...;
                                         "": none */
    bool is_open;                     /* leaves this machine without TLS: worth a warning */
    char tls_ca[CONFIG_PATH_BYTES];   /* files; "": none. Only of etcd+https */
    char tls_cert[CONFIG_PATH_BYTES]; /* set together with the key */
    char tls_key[CONFIG_PATH_BYTES];
};

/* An operator's programs that are run when this node has begun, or ended, to serve. */
struct config_hooks {
    char promote[CONFIG_PATH_BYTES]; /* files, "": none */
    char demote[CONFIG_PATH_BYTES];
    uint64_t ns_max; /* how long each may take */
};

/* Faults, delays and records that tests and the benchmark ask for; never set unless the daemon was told to allow them.
 */
struct config_test {
    uint64_t boot; /* another number than the last time: the machine is taken to have been started anew */
    char disk_record[CONFIG_PATH_BYTES]; /* log of all changes that reach the backing; "": none */
    bool disk_fault_on;
    bool disk_delay_on;
    bool link_fault_on;
    struct disk_fault_config disk_fault;
    struct disk_delay_config disk_delay;
    struct transport_fault_config link_fault;
};

struct volume_config {
    char file[CONFIG_PATH_BYTES]; /* it came from */
    unsigned line;                /* of `volume:` in it */
    char volume[NAME_BYTES_MAX];
    uint64_t size_bytes; /* a multiple of BLOCK_BYTES; 0: the smallest backing decides */
    unsigned size_line;  /* of `size:` in `file`; 0: there is none */
    unsigned node_count; /* 1 ... CONFIG_NODES_MAX; of two, both have the same path_count, at least 1 */
    struct config_node nodes[CONFIG_NODES_MAX];
    unsigned self; /* this node's index in nodes */
    uint64_t dead_after_ns;
    enum when_alone when_alone;
    enum when_deposed when_deposed;
    struct config_witness witness;
    bool failover_automatic; /* only with a witness */
    uint64_t fail_after_ns;  /* of requests that wait, with a witness; above dead_after_ns. 0: they wait for ever */
    struct config_hooks hooks;
    uint64_t activity_log_bytes; /* how much of the volume may be hot at a time */
    uint64_t resync_bytes_per_s; /* 0: no limit */
    uint64_t verify_bytes_per_s; /* likewise */
    uint64_t verify_every_ns;    /* 0: when somebody orders it */
    int32_t verify_at_minute;    /* of the day, local time; CONFIG_ANY_TIME */
    bool tls_missing;            /* neither written out nor needed, as all paths are on loopback: worth a warning */
    bool link_is_open;           /* `tls: none`, and a path that leaves this machine: likewise */
    struct config_test test;
};

static inline const struct config_node *config_self(const struct volume_config *c) { return &c->nodes[c->self]; }

static inline bool config_has_witness(const struct volume_config *c) { return c->witness.url[0] != 0; }

/* NULL: the volume has a single node. */
static inline const struct config_node *config_peer(const struct volume_config *c)
{
    return c->node_count < 2 ? NULL : &c->nodes[1 - c->self];
}

struct config_options {
    const char *node;       /* who we are; NULL: the host name, in full or up to its first dot */
    bool allow_test_faults; /* else a `test:` section is an error */
    const char *directory;  /* put in front of names that are still relative; NULL: they stay so */
};

/* One file's text. `file` is its name, for messages and for what is relative to it. Returns 0 or -EINVAL with the one
 * line "FILE:LINE: KEY: what was expected, and what was found". */
int config_parse(const uint8_t *text, size_t bytes, const char *file, const struct config_options *options,
                 struct volume_config *out, struct err *err);

/* What makes a witness of this daemon; a file of its own, on the machine that is it. */
struct witness_config {
    char file[CONFIG_PATH_BYTES];
    char listen[CONFIG_ADDRESS_BYTES]; /* "HOST:PORT" */
    char state[CONFIG_PATH_BYTES];     /* directory */
    bool is_open;                      /* others than this machine reach it, and `tls: none`: worth a warning */
    bool tls_missing;                  /* neither written out nor needed, as it is on loopback: likewise */
};

/* Whether the text is such a file. One that is none at all is not. */
bool config_is_witness(const uint8_t *text, size_t bytes, const char *file);
int config_parse_witness(const uint8_t *text, size_t bytes, const char *file, const struct config_options *options,
                         struct witness_config *out, struct err *err);

struct config {
    unsigned count;
    struct volume_config *volumes; /* owned */
    bool has_witness;
    struct witness_config witness;
};

/* A file, or a directory whose *.yaml and *.yml files are read in the order of their names. Besides what is wrong
 * within a file, two volumes of one name, backing, device or path on this node are errors, and two witnesses. A
 * directory without such files gives no volumes. On an error nothing needs to be freed. */
int config_load(const char *path, const struct config_options *options, struct config *out, struct err *err);
void config_free(struct config *c);
