/* The configuration: what the strings of a volume's file mean, and whether they make sense together. */
#include "repl/node/config.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repl/base/scoped.h"
#include "repl/node/config_schema.h"
#include "repl/node/printable.h"
#include "repl/node/quantity.h"
#include "repl/witness/etcd_url.h"

#define SIZE_STEP_BYTES (4 * KIB)
#define HOST_NAME_BYTES 256
#define WITNESS_STATE_BYTES 201 /* of its directory's name, with the final NUL: with room for the files in it */
#define KEY_PATH_BYTES 64       /* of "nodes[1].paths[0]" and the like */

static_assert(sizeof("etcd+https://") + ETCD_ENDPOINTS_MAX * (ETCD_ENDPOINT_BYTES_MAX + 1) <= CONFIG_WITNESS_BYTES &&
                  sizeof("lockstep://") + CONFIG_ADDRESS_BYTES <= CONFIG_WITNESS_BYTES,
              "whatever is a register's URL fits");

/* The file being read: the loaded strings, and where they go. */
struct reading {
    struct config_place place;
    const struct config_options *options;
    struct raw_volume *raw;
    struct volume_config *out;
    struct err *err;
};

/* Letters, digits, '.', '_' and '-' only: names become parts of file names and of "VOLUME@DATE". */
static bool name_is_valid(const char *name)
{
    size_t bytes = strlen(name);
    if (bytes == 0 || bytes >= NAME_BYTES_MAX)
        return false;
    for (size_t i = 0; i < bytes; i++) {
        bool word = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= 'A' && name[i] <= 'Z') ||
                    (name[i] >= '0' && name[i] <= '9');
        if (!word && (i == 0 || !strchr("._-", name[i])))
            return false;
    }
    return true;
}

/* A file's name, relative names being relative to the configuration file. False: too long. */
static bool join_path(const struct reading *r, const char *name, char *out, size_t out_bytes)
{
    const char *slash = strrchr(r->place.file, '/');
    size_t dir_bytes = *name == '/' || !slash ? 0 : (size_t)(slash - r->place.file) + 1;
    bool relative = *name != '/' && r->place.file[0] != '/' && r->options->directory;
    int n = snprintf(out, out_bytes, "%s%s%.*s%s", relative ? r->options->directory : "", relative ? "/" : "",
                     (int)dir_bytes, r->place.file, name);
    return n > 0 && (size_t)n < out_bytes;
}

static int unsupported(struct reading *r, const char *path, const char *what, const char *instead)
{
    return config_wrong(&r->place, path, r->err, "%s is not supported by this version: %s", what, instead);
}

/* Which of the words (the last is NULL) the value is, or -EINVAL. */
static int one_of(struct reading *r, const char *path, const char *value, const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(words[i], value) == 0)
            return i;
    return config_unexpected(&r->place, path, r->err);
}

static int read_device(struct reading *r, const char *path, const char *value, struct config_node *node)
{
    char *out = node->device;
    bool loopback = true;
    const char *nbd = strncmp(value, "nbd:", 4) == 0 ? value + 4 : NULL;
    uint64_t number;
    int n;
    if (strcmp(value, "auto") == 0) {
        n = snprintf(out, CONFIG_ADDRESS_BYTES, "unix:" CONFIG_RUN_DIR "/%s.sock", r->out->volume);
        assert(n < CONFIG_SOCKET_BYTES);
    } else if (strcmp(value, "ublk") == 0 ||
               (strncmp(value, "ublk:", 5) == 0 && quantity_number(value + 5, UINT16_MAX, &number))) {
        return unsupported(r, path, "ublk", "use nbd:unix:/PATH or auto");
    } else if (nbd && strncmp(nbd, "unix:", 5) == 0 && nbd[5]) {
        char file[CONFIG_SOCKET_BYTES];
        if (!join_path(r, nbd + 5, file, sizeof(file)))
            return config_unexpected(&r->place, path, r->err);
        snprintf(out, CONFIG_ADDRESS_BYTES, "unix:%s", file);
    } else if (nbd && quantity_address(nbd, &loopback)) {
        n = snprintf(out, CONFIG_ADDRESS_BYTES, "%s", nbd);
        assert(n < CONFIG_ADDRESS_BYTES);
    } else {
        return config_unexpected(&r->place, path, r->err);
    }
    node->device_is_open = !loopback;
    return 0;
}

/* Whether an address stands already in what was read of the nodes before it. */
static bool path_is_taken(const struct volume_config *c, const char *address)
{
    for (unsigned n = 0; n < c->node_count; n++)
        for (unsigned p = 0; p < c->nodes[n].path_count; p++)
            if (strcmp(c->nodes[n].paths[p], address) == 0)
                return true;
    return false;
}

static int read_paths(struct reading *r, unsigned index, bool *all_loopback)
{
    const struct raw_node *raw = &r->raw->nodes[index];
    struct config_node *node = &r->out->nodes[index];
    char path[KEY_PATH_BYTES];
    snprintf(path, sizeof(path), "nodes[%u].paths", index);
    bool written = yaml_doc_find(&r->place.doc, path) != NULL; /* libcyaml gives an empty list as none */
    if (written && (raw->paths_count == 0 || raw->paths_count > CONFIG_PATHS_MAX))
        return config_unexpected(&r->place, path, r->err);
    for (unsigned p = 0; p < raw->paths_count; p++) {
        snprintf(path, sizeof(path), "nodes[%u].paths[%u]", index, p);
        bool loopback;
        if (!raw->paths[p] || !quantity_address(raw->paths[p], &loopback))
            return config_unexpected(&r->place, path, r->err);
        if (path_is_taken(r->out, raw->paths[p]))
            return config_wrong(&r->place, path, r->err, "expected every address once, found \"%s\" a second time",
                                raw->paths[p]);
        *all_loopback &= loopback;
        snprintf(node->paths[p], sizeof(node->paths[p]), "%s", raw->paths[p]);
        node->path_count++;
    }
    return 0;
}

static int read_node(struct reading *r, unsigned index, bool *all_loopback)
{
    const struct raw_node *raw = &r->raw->nodes[index];
    struct config_node *node = &r->out->nodes[index];
    char path[KEY_PATH_BYTES];

    snprintf(path, sizeof(path), "nodes[%u].name", index);
    if (!name_is_valid(raw->name))
        return config_unexpected(&r->place, path, r->err);
    for (unsigned before = 0; before < index; before++)
        if (strcmp(r->out->nodes[before].name, raw->name) == 0)
            return config_wrong(&r->place, path, r->err,
                                "expected a name of its own for each node, found \"%s\" a second time", raw->name);
    snprintf(node->name, sizeof(node->name), "%s", raw->name);
    r->out->node_count = index + 1;

    snprintf(path, sizeof(path), "nodes[%u].backing", index);
    if (!*raw->backing || !join_path(r, raw->backing, node->backing, sizeof(node->backing)))
        return config_unexpected(&r->place, path, r->err);

    snprintf(path, sizeof(path), "nodes[%u].metadata", index);
    if (raw->metadata && strcmp(raw->metadata, "internal") != 0) {
        if (!*raw->metadata || !join_path(r, raw->metadata, node->metadata, sizeof(node->metadata)))
            return config_unexpected(&r->place, path, r->err);
        if (strcmp(node->metadata, node->backing) == 0)
            return config_wrong(&r->place, path, r->err,
                                "expected internal, or another file or device than the backing, found the backing");
    }

    snprintf(path, sizeof(path), "nodes[%u].device", index);
    int rc = read_device(r, path, raw->device ? raw->device : "auto", node);
    return rc ? rc : read_paths(r, index, all_loopback);
}

static int read_nodes(struct reading *r, bool *all_loopback)
{
    unsigned count = r->raw->nodes_count;
    if (count < 1 || count > CONFIG_NODES_MAX)
        return config_wrong(&r->place, "nodes", r->err, "expected one or two nodes, found %u", count);
    *all_loopback = true;
    for (unsigned i = 0; i < count; i++) {
        int rc = read_node(r, i, all_loopback);
        if (rc)
            return rc;
    }
    const struct config_node *nodes = r->out->nodes;
    if (count == 1) {
        /* Both say that a peer is meant, and forgetting it would leave the volume without its second copy. */
        const char *sign = r->raw->link ? "link" : nodes[0].path_count ? "nodes[0].paths" : NULL;
        return sign ? config_wrong(&r->place, "nodes", r->err,
                                   "expected a second node, the peer, as there is %s; found one node (a volume of a "
                                   "single node has neither link nor paths)",
                                   sign)
                    : 0;
    }
    for (unsigned i = 0; i < count; i++) {
        char path[KEY_PATH_BYTES];
        snprintf(path, sizeof(path), "nodes[%u].paths", i);
        if (nodes[i].path_count == 0)
            return config_unexpected(&r->place, path, r->err);
        if (nodes[i].path_count != nodes[0].path_count)
            return config_wrong(&r->place, path, r->err,
                                "expected as many paths as %s has, since they are used in pairs: %u, found %u",
                                nodes[0].name, nodes[0].path_count, nodes[i].path_count);
    }
    return 0;
}

static int read_self(struct reading *r)
{
    char host[HOST_NAME_BYTES] = "";
    const char *me = r->options->node;
    if (!me) {
        if (gethostname(host, sizeof(host)) < 0)
            return config_wrong(&r->place, "nodes", r->err, "this machine has no host name: use --node");
        host[sizeof(host) - 1] = 0;
        me = host;
    }
    char names[sizeof(r->err->text)] = "";
    size_t used = 0;
    for (unsigned i = 0; i < r->out->node_count; i++) {
        if (strcmp(r->out->nodes[i].name, me) == 0) {
            r->out->self = i;
            return 0;
        }
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i ? " and " : "", r->out->nodes[i].name);
    }
    if (me == host) { /* a machine may call itself by its full name, where the file has the short one */
        host[strcspn(host, ".")] = 0;
        for (unsigned i = 0; i < r->out->node_count; i++) {
            if (strcmp(r->out->nodes[i].name, host) == 0) {
                r->out->self = i;
                return 0;
            }
        }
    }
    return config_wrong(&r->place, "nodes", r->err, "expected this node, \"%s\", among the nodes, found %s: %s", me,
                        names, me == host ? "say which one this is with --node NAME" : "--node names one of them");
}

static int read_link(struct reading *r, bool all_loopback)
{
    const struct raw_link *link = r->raw->link;
    if (link && link->transport) {
        static const char *const words[] = { "auto", "tcp", "rdma", NULL };
        int rc = one_of(r, "link.transport", link->transport, words);
        if (rc < 0)
            return rc;
        if (strcmp(link->transport, "rdma") == 0)
            return unsupported(r, "link.transport", "rdma", "use auto or tcp");
    }

    if (link && link->tls)
        return unsupported(r, "link.tls", "TLS", "write none, and keep the link on a network of its own");
    if (link && link->tls_word) {
        if (strcmp(link->tls_word, "none") != 0)
            return config_unexpected(&r->place, "link.tls", r->err);
        r->out->link_is_open = r->out->node_count > 1 && !all_loopback;
    } else if (r->out->node_count > 1) {
        if (!all_loopback)
            return config_wrong(&r->place, "link.tls", r->err,
                                "missing, expected none to be written out, as the link leaves this machine "
                                "unencrypted and unauthenticated");
        r->out->tls_missing = true;
    }

    r->out->dead_after_ns = CONFIG_DEAD_AFTER_NS_DEFAULT;
    if (link && link->dead_after) {
        uint64_t *ns = &r->out->dead_after_ns;
        if (!quantity_time(link->dead_after, ns) || *ns < CONFIG_DEAD_AFTER_NS_MIN || *ns > CONFIG_DEAD_AFTER_NS_MAX)
            return config_unexpected(&r->place, "link.dead-after", r->err);
    }
    return 0;
}

static const char witness_embedded[] = "lockstep://";
static const char witness_etcd[] = "etcd+https://";

static bool begins_with(const char *text, const char *with) { return strncmp(text, with, strlen(with)) == 0; }

static int read_register_tls(struct reading *r)
{
    const struct raw_witness_tls *raw = r->raw->witness_tls;
    struct config_witness *w = &r->out->witness;
    if (!raw)
        return 0;
    if (!begins_with(w->url, witness_etcd))
        return config_wrong(&r->place, "witness-tls", r->err, "expected only with a witness of %s", witness_etcd);
    const struct {
        const char *path;
        const char *name;
        char *out;
    } files[] = {
        { "witness-tls.ca", raw->ca, w->tls_ca },
        { "witness-tls.cert", raw->cert, w->tls_cert },
        { "witness-tls.key", raw->key, w->tls_key },
    };
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        if (files[i].name && (!*files[i].name || !join_path(r, files[i].name, files[i].out, CONFIG_PATH_BYTES)))
            return config_unexpected(&r->place, files[i].path, r->err);
    if (!raw->cert != !raw->key)
        return config_wrong(&r->place, "witness-tls", r->err, "expected cert and key, or neither; found one of them");
    return 0;
}

static bool leaves_this_machine(const char *address)
{
    bool loopback;
    return !quantity_address(address, &loopback) || !loopback;
}

/* Whatever a register's client takes, and nothing that it refuses when the daemon starts. */
static int read_register(struct reading *r)
{
    const char *url = r->raw->witness;
    struct config_witness *w = &r->out->witness;
    if (!url)
        return read_register_tls(r);
    if (begins_with(url, witness_embedded)) {
        const char *address = url + strlen(witness_embedded);
        if (!quantity_address(address, NULL))
            return config_unexpected(&r->place, "witness", r->err);
        w->is_open = leaves_this_machine(address);
    } else if (begins_with(url, "etcd+")) {
        struct etcd_url etcd;
        char error[sizeof(r->err->text)];
        if (etcd_url_parse(&etcd, url, error, sizeof(error)))
            return config_wrong(&r->place, "witness", r->err, "%s", error);
        for (unsigned i = 0; i < etcd.count; i++)
            w->is_open |= !etcd.tls && leaves_this_machine(etcd.endpoints[i]);
    } else {
        return config_unexpected(&r->place, "witness", r->err);
    }
    int n = snprintf(w->url, sizeof(w->url), "%s", url);
    assert(n > 0 && (size_t)n < sizeof(w->url));
    return read_register_tls(r);
}

/* What only has a meaning where a register says who serves. */
static int read_failover(struct reading *r)
{
    const struct raw_volume *raw = r->raw;
    bool has_witness = config_has_witness(r->out);
    r->out->failover_automatic = has_witness;
    if (raw->failover) {
        static const char *const words[] = { "manual", "automatic", NULL };
        int rc = one_of(r, "failover", raw->failover, words);
        if (rc < 0)
            return rc;
        r->out->failover_automatic = rc == 1;
        if (rc == 1 && !has_witness)
            return config_wrong(&r->place, "failover", r->err,
                                "automatic needs a witness, which says who may serve: add one, or write manual");
    }
    if (has_witness && r->out->when_alone == ALONE_CONTINUE)
        return config_wrong(&r->place, "when-alone", r->err,
                            "continue does not go with a witness, which would not know of a primary that goes on "
                            "without asking it, and let the peer take over: write strict, or leave the witness out");
    if (!raw->fail_after)
        return 0;
    if (!has_witness)
        return config_wrong(&r->place, "fail-after", r->err, "expected only with a witness");
    if (r->out->when_alone == ALONE_SUSPEND)
        return config_wrong(&r->place, "fail-after", r->err,
                            "does not go with `when-alone: suspend`, where writes wait however long it takes");
    uint64_t *ns = &r->out->fail_after_ns;
    if (!quantity_time(raw->fail_after, ns) || *ns <= r->out->dead_after_ns || *ns > CONFIG_FAIL_AFTER_NS_MAX)
        return config_unexpected(&r->place, "fail-after", r->err);
    return 0;
}

static int read_policy(struct reading *r)
{
    const struct raw_volume *raw = r->raw;
    int rc = read_register(r);
    if (rc < 0)
        return rc;
    r->out->when_alone = ALONE_STRICT;
    if (raw->when_alone) {
        static const char *const words[] = { "strict", "suspend", "continue", NULL };
        rc = one_of(r, "when-alone", raw->when_alone, words);
        if (rc < 0)
            return rc;
        r->out->when_alone = strcmp(raw->when_alone, "continue") == 0  ? ALONE_CONTINUE
                             : strcmp(raw->when_alone, "suspend") == 0 ? ALONE_SUSPEND
                                                                       : ALONE_STRICT;
    }
    r->out->when_deposed = DEPOSED_FAIL;
    if (raw->when_deposed) {
        static const char *const words[] = { "fail", "wait", NULL };
        rc = one_of(r, "when-deposed", raw->when_deposed, words);
        if (rc < 0)
            return rc;
        r->out->when_deposed = rc == 1 ? DEPOSED_WAIT : DEPOSED_FAIL;
    }
    r->out->activity_log_bytes = CONFIG_ACTIVITY_LOG_BYTES_DEFAULT;
    if (raw->activity_log) {
        uint64_t *bytes = &r->out->activity_log_bytes;
        if (!quantity_size(raw->activity_log, bytes) || *bytes < CONFIG_ACTIVITY_LOG_BYTES_MIN ||
            *bytes > CONFIG_ACTIVITY_LOG_BYTES_MAX || *bytes % CONFIG_ACTIVITY_LOG_BYTES_STEP)
            return config_unexpected(&r->place, "activity-log", r->err);
    }
    return read_failover(r);
}

static int read_hooks(struct reading *r)
{
    const struct raw_hooks *raw = r->raw->hooks;
    struct config_hooks *hooks = &r->out->hooks;
    hooks->ns_max = CONFIG_HOOK_NS_DEFAULT;
    const char *timeout = r->raw->hook_timeout;
    if (timeout && (!quantity_time(timeout, &hooks->ns_max) || hooks->ns_max < CONFIG_HOOK_NS_MIN ||
                    hooks->ns_max > CONFIG_HOOK_NS_MAX))
        return config_unexpected(&r->place, "hook-timeout", r->err);
    if (!raw)
        return 0;
    if (raw->freeze)
        return unsupported(r, "hooks.freeze", "freeze", "leave it out; there are no snapshots yet");
    if (raw->thaw)
        return unsupported(r, "hooks.thaw", "thaw", "leave it out; there are no snapshots yet");
    if (raw->promote && (!*raw->promote || !join_path(r, raw->promote, hooks->promote, sizeof(hooks->promote))))
        return config_unexpected(&r->place, "hooks.promote", r->err);
    if (raw->demote && (!*raw->demote || !join_path(r, raw->demote, hooks->demote, sizeof(hooks->demote))))
        return config_unexpected(&r->place, "hooks.demote", r->err);
    return 0;
}

static bool time_of_day_is_valid(const char *t)
{
    return strlen(t) == 5 && t[0] >= '0' && t[0] <= '2' && t[1] >= '0' && t[1] <= '9' && t[2] == ':' && t[3] >= '0' &&
           t[3] <= '5' && t[4] >= '0' && t[4] <= '9' && (t[0] < '2' || t[1] <= '3');
}

static int read_rate(struct reading *r, const char *key, const char *text, uint64_t *bytes_per_s)
{
    if (!text)
        return 0;
    if (!quantity_size(text, bytes_per_s) || *bytes_per_s < CONFIG_RATE_BYTES_MIN ||
        *bytes_per_s > CONFIG_RATE_BYTES_MAX)
        return config_unexpected(&r->place, key, r->err);
    return 0;
}

static int read_upkeep(struct reading *r)
{
    int rc = read_rate(r, "resync-rate", r->raw->resync_rate, &r->out->resync_bytes_per_s);
    if (rc == 0)
        rc = read_rate(r, "verify-rate", r->raw->verify_rate, &r->out->verify_bytes_per_s);
    const struct raw_verify *verify = r->raw->verify;
    r->out->verify_at_minute = CONFIG_ANY_TIME;
    if (rc < 0 || !verify)
        return rc;
    uint64_t *every_ns = &r->out->verify_every_ns;
    if (!quantity_time(verify->every, every_ns) || *every_ns < CONFIG_VERIFY_EVERY_NS_MIN ||
        *every_ns > CONFIG_VERIFY_EVERY_NS_MAX)
        return config_unexpected(&r->place, "verify.every", r->err);
    const char *at = verify->at;
    if (!at)
        return 0;
    if (!time_of_day_is_valid(at))
        return config_unexpected(&r->place, "verify.at", r->err);
    r->out->verify_at_minute = ((at[0] - '0') * 10 + at[1] - '0') * 60 + (at[3] - '0') * 10 + at[4] - '0';
    return 0;
}

static bool switch_value(const char *text, bool *on)
{
    if (strcmp(text, "on") == 0 || strcmp(text, "true") == 0 || strcmp(text, "yes") == 0)
        *on = true;
    else if (strcmp(text, "off") == 0 || strcmp(text, "false") == 0 || strcmp(text, "no") == 0)
        *on = false;
    else
        return false;
    return true;
}

/* Checked though this version has no snapshots, so that a wrong file is not called right by leaving a
 * section out and putting it back. */
static int read_later(struct reading *r)
{
    const struct raw_offsite *offsite = r->raw->offsite;
    if (offsite) {
        uint64_t keep_ns;
        bool on;
        static const char file[] = "file:///";
        static const char s3[] = "s3+https://";
        if (strncmp(offsite->store, file, strlen(file)) != 0 &&
            (strncmp(offsite->store, s3, strlen(s3)) != 0 || !offsite->store[strlen(s3)]))
            return config_unexpected(&r->place, "offsite.store", r->err);
        if (offsite->at && !time_of_day_is_valid(offsite->at))
            return config_unexpected(&r->place, "offsite.at", r->err);
        if (offsite->keep && !quantity_time(offsite->keep, &keep_ns))
            return config_unexpected(&r->place, "offsite.keep", r->err);
        if (offsite->continuous && !switch_value(offsite->continuous, &on))
            return config_unexpected(&r->place, "offsite.continuous", r->err);
        if (offsite->key && !*offsite->key)
            return config_unexpected(&r->place, "offsite.key", r->err);
        return unsupported(r, "offsite", "offsite", "leave the section out; there are no snapshots yet");
    }
    return 0;
}

/* The table-driven part of `test:`; every value may be left out. */
struct number_key {
    const char *path;
    const char *value;
    uint64_t max;
    uint64_t *out;
};

static int read_numbers(struct reading *r, const struct number_key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (keys[i].value && !quantity_number(keys[i].value, keys[i].max, keys[i].out))
            return config_unexpected(&r->place, keys[i].path, r->err);
    return 0;
}

static int read_delay(struct reading *r, const char *section, const char *min, const char *max, uint64_t *min_ns,
                      uint64_t *max_ns)
{
    char path[KEY_PATH_BYTES];
    snprintf(path, sizeof(path), "%s.delay-min", section);
    if (min && (!quantity_time(min, min_ns) || *min_ns > CONFIG_TEST_DELAY_NS_MAX))
        return config_unexpected(&r->place, path, r->err);
    *max_ns = *min_ns;
    snprintf(path, sizeof(path), "%s.delay-max", section);
    if (max && (!quantity_time(max, max_ns) || *max_ns > CONFIG_TEST_DELAY_NS_MAX || *max_ns < *min_ns))
        return config_unexpected(&r->place, path, r->err);
    return 0;
}

#define PER_MILLION UINT64_C(1000000)

static int read_test_disk(struct reading *r, const struct raw_test_disk *raw, struct config_test *test)
{
    uint64_t seed = 0;
    uint64_t rates[OP_FLUSH + 1] = { 0 };
    uint64_t shorts = 0;
    struct disk_fault_config *fault = &test->disk_fault;
    const struct number_key numbers[] = {
        { "test.disk.seed", raw->seed, UINT64_MAX, &seed },
        { "test.disk.read-errors-per-million", raw->read_errors, PER_MILLION, &rates[OP_READ] },
        { "test.disk.write-errors-per-million", raw->write_errors, PER_MILLION, &rates[OP_WRITE] },
        { "test.disk.discard-errors-per-million", raw->discard_errors, PER_MILLION, &rates[OP_DISCARD] },
        { "test.disk.zeroes-errors-per-million", raw->zeroes_errors, PER_MILLION, &rates[OP_WRITE_ZEROES] },
        { "test.disk.flush-errors-per-million", raw->flush_errors, PER_MILLION, &rates[OP_FLUSH] },
        { "test.disk.short-transfers-per-million", raw->short_transfers, PER_MILLION, &shorts },
        { "test.disk.error-after-requests", raw->error_after, UINT64_MAX, &fault->error_after_requests },
    };
    int rc = read_numbers(r, numbers, ARRAY_LEN(numbers));
    if (rc)
        return rc;
    fault->seed = seed;
    fault->short_per_million = (unsigned)shorts;
    bool any = shorts > 0;
    for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
        fault->error_per_million[i] = (unsigned)rates[i];
        any |= rates[i] > 0;
    }
    test->disk_fault_on = any;

    static const char *const words[] = { "EIO", "ENOSPC", "EROFS", "EREMOTEIO", NULL };
    static const int errors[] = { -EIO, -ENOSPC, -EROFS, -EREMOTEIO };
    int error = raw->error ? one_of(r, "test.disk.error", raw->error, words) : 0;
    if (error < 0)
        return error;
    fault->error = errors[error];

    if (raw->error_offset && !quantity_size(raw->error_offset, &fault->error_offset_bytes))
        return config_unexpected(&r->place, "test.disk.error-offset", r->err);
    if (raw->error_length && !quantity_size(raw->error_length, &fault->error_length_bytes))
        return config_unexpected(&r->place, "test.disk.error-length", r->err);

    if (raw->record && (!*raw->record || !join_path(r, raw->record, test->disk_record, sizeof(test->disk_record))))
        return config_unexpected(&r->place, "test.disk.record", r->err);

    test->disk_delay_on = raw->delay_min || raw->delay_max;
    test->disk_delay.seed = seed;
    return read_delay(r, "test.disk", raw->delay_min, raw->delay_max, &test->disk_delay.min_ns,
                      &test->disk_delay.max_ns);
}

static int read_test_link(struct reading *r, const struct raw_test_link *raw, struct config_test *test)
{
    struct transport_fault_config *fault = &test->link_fault;
    uint64_t drop = 0;
    uint64_t corrupt = 0;
    uint64_t cut = 0;
    const struct number_key numbers[] = {
        { "test.link.seed", raw->seed, UINT64_MAX, &fault->seed },
        { "test.link.drop-per-million", raw->drop, PER_MILLION, &drop },
        { "test.link.corrupt-per-million", raw->corrupt, PER_MILLION, &corrupt },
        { "test.link.cut-per-million", raw->cut, PER_MILLION, &cut },
    };
    int rc = read_numbers(r, numbers, ARRAY_LEN(numbers));
    if (rc)
        return rc;
    fault->drop_per_million = (unsigned)drop;
    fault->corrupt_per_million = (unsigned)corrupt;
    fault->cut_per_million = (unsigned)cut;
    if (raw->stall && !switch_value(raw->stall, &fault->stall))
        return config_unexpected(&r->place, "test.link.stall", r->err);
    test->link_fault_on = true;
    return read_delay(r, "test.link", raw->delay_min, raw->delay_max, &fault->delay_min_ns, &fault->delay_max_ns);
}

static int read_test(struct reading *r)
{
    const struct raw_test *raw = r->raw->test;
    if (!raw)
        return 0;
    if (!r->options->allow_test_faults)
        return config_wrong(&r->place, "test", r->err,
                            "injects faults for tests: leave it out, or start lockstepd with --allow-test-faults");
    struct config_test test = { 0 };
    if (raw->boot && !quantity_number(raw->boot, UINT64_MAX, &test.boot))
        return config_unexpected(&r->place, "test.boot", r->err);
    int rc = raw->disk ? read_test_disk(r, raw->disk, &test) : 0;
    if (!rc && raw->link)
        rc = read_test_link(r, raw->link, &test);
    if (rc)
        return rc;
    bool known = !raw->node;
    for (unsigned i = 0; i < r->out->node_count && !known; i++)
        known = strcmp(r->out->nodes[i].name, raw->node) == 0;
    if (!known)
        return config_unexpected(&r->place, "test.node", r->err);
    if (!raw->node || strcmp(raw->node, config_self(r->out)->name) == 0)
        r->out->test = test;
    return 0;
}

static int read_volume(struct reading *r)
{
    if (!name_is_valid(r->raw->volume))
        return config_unexpected(&r->place, "volume", r->err);
    snprintf(r->out->volume, sizeof(r->out->volume), "%s", r->raw->volume);
    r->out->line = yaml_doc_line(&r->place.doc, "volume");
    snprintf(r->out->file, sizeof(r->out->file), "%s", r->place.file);

    if (r->raw->size) {
        uint64_t *bytes = &r->out->size_bytes;
        if (!quantity_size(r->raw->size, bytes) || *bytes == 0 || *bytes > CONFIG_SIZE_BYTES_MAX ||
            *bytes % SIZE_STEP_BYTES)
            return config_unexpected(&r->place, "size", r->err);
        r->out->size_line = yaml_doc_line(&r->place.doc, "size");
    }
    bool all_loopback = false;
    int rc = read_nodes(r, &all_loopback);
    if (!rc)
        rc = read_link(r, all_loopback);
    if (!rc)
        rc = read_policy(r);
    if (rc == 0)
        rc = read_hooks(r);
    if (rc == 0)
        rc = read_upkeep(r);
    if (!rc)
        rc = read_later(r);
    if (!rc)
        rc = read_self(r);
    if (!rc)
        rc = read_test(r);
    return rc;
}

/* Kinds of file that other versions have: told apart before the schema calls their keys unknown. */
static int check_kind(struct reading *r)
{
    if (yaml_doc_find(&r->place.doc, "volume"))
        return 0;
    if (yaml_doc_find(&r->place.doc, "metrics"))
        return unsupported(r, "metrics", "metrics", "leave it out");
    return 0;
}

int config_parse(const uint8_t *text, size_t bytes, const char *file, const struct config_options *options,
                 struct volume_config *out, struct err *err)
{
    struct reading r = { .place = { .file = file }, .options = options, .out = out, .err = err };
    memset(out, 0, sizeof(*out));
    if (strlen(file) >= sizeof(out->file))
        return err_set(err, -EINVAL, "%.200s...: expected a file name of at most %zu bytes", file,
                       sizeof(out->file) - 1);
    int rc = yaml_doc_open(&r.place.doc, text, bytes, file, err);
    if (rc)
        return rc;
    rc = check_kind(&r);
    if (!rc)
        rc = config_schema_load(&r.place, text, bytes, &r.raw, err);
    if (!rc)
        rc = read_volume(&r);
    if (r.raw)
        config_schema_free(&r.place, r.raw);
    yaml_doc_close(&r.place.doc);
    return rc;
}

/* ---- a witness's file ---- */

static bool doc_is_witness(struct yaml_doc *doc)
{
    const yaml_node_t *witness = yaml_doc_find(doc, "witness");
    return witness && witness->type == YAML_MAPPING_NODE && !yaml_doc_find(doc, "volume");
}

bool config_is_witness(const uint8_t *text, size_t bytes, const char *file)
{
    struct yaml_doc doc;
    struct err ignored;
    if (yaml_doc_open(&doc, text, bytes, file, &ignored))
        return false;
    bool is_witness = doc_is_witness(&doc);
    yaml_doc_close(&doc);
    return is_witness;
}

static int read_witness(struct reading *r, const struct raw_witness *raw, struct witness_config *out)
{
    bool loopback;
    if (!quantity_address(raw->listen, &loopback))
        return config_unexpected(&r->place, "witness.listen", r->err);
    snprintf(out->listen, sizeof(out->listen), "%s", raw->listen);
    if (!*raw->state || !join_path(r, raw->state, out->state, WITNESS_STATE_BYTES))
        return config_unexpected(&r->place, "witness.state", r->err);
    if (raw->tls)
        return unsupported(r, "witness.tls", "TLS", "write none, and keep the witness on a network of its own");
    if (raw->tls_word && strcmp(raw->tls_word, "none") != 0)
        return config_unexpected(&r->place, "witness.tls", r->err);
    if (!raw->tls_word && !loopback)
        return config_wrong(&r->place, "witness.tls", r->err,
                            "missing, expected none to be written out, as nodes reach the witness unencrypted and "
                            "unauthenticated");
    out->is_open = !loopback;
    out->tls_missing = !raw->tls_word;
    return 0;
}

int config_parse_witness(const uint8_t *text, size_t bytes, const char *file, const struct config_options *options,
                         struct witness_config *out, struct err *err)
{
    struct reading r = { .place = { .file = file }, .options = options, .err = err };
    memset(out, 0, sizeof(*out));
    if (strlen(file) >= sizeof(out->file))
        return err_set(err, -EINVAL, "%.200s...: expected a file name of at most %zu bytes", file,
                       sizeof(out->file) - 1);
    snprintf(out->file, sizeof(out->file), "%s", file);
    int rc = yaml_doc_open(&r.place.doc, text, bytes, file, err);
    if (rc)
        return rc;
    struct raw_witness_file *raw = NULL;
    rc = config_schema_load_witness(&r.place, text, bytes, &raw, err);
    if (!rc)
        rc = read_witness(&r, raw->witness, out);
    if (raw)
        config_schema_free_witness(&r.place, raw);
    yaml_doc_close(&r.place.doc);
    return rc;
}

static int add_witness(struct config *config, const uint8_t *text, size_t bytes, const char *file,
                       const struct config_options *options, struct err *err)
{
    if (config->has_witness)
        return err_set(err, -EINVAL, "%s:1: witness: expected one witness in a daemon, found another in %s", file,
                       config->witness.file);
    config->has_witness = true;
    return config_parse_witness(text, bytes, file, options, &config->witness, err);
}

static int read_file(const char *file, uint8_t **text, size_t *bytes, struct err *err)
{
    CLEANUP_CLOSE int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* never wait for a FIFO */
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set(err, -EINVAL, "%s: cannot be read: %s", file, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(err, -EINVAL, "%s: expected a YAML file, found something that is no regular file", file);
    CLEANUP_FREE uint8_t *buffer = malloc(CONFIG_FILE_BYTES_MAX + 1);
    if (!buffer)
        return err_set(err, -ENOMEM, "%s: out of memory", file);
    size_t used = 0;
    while (used <= CONFIG_FILE_BYTES_MAX) {
        ssize_t n = read(fd, buffer + used, CONFIG_FILE_BYTES_MAX + 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, -EINVAL, "%s: cannot be read: %s", file, strerror(errno));
        if (n == 0)
            break;
        used += (size_t)n;
    }
    if (used > CONFIG_FILE_BYTES_MAX)
        return err_set(err, -EINVAL, "%s: expected a file of at most %u KiB", file,
                       (unsigned)(CONFIG_FILE_BYTES_MAX / KIB));
    *text = buffer;
    *bytes = used;
    buffer = NULL;
    return 0;
}

/* What two volumes on one node must not share. NULL: nothing is shared. `what` gets the words for it. */
static const char *shared_with(const struct volume_config *a, const struct volume_config *b, const char **what)
{
    *what = "the name";
    if (strcmp(a->volume, b->volume) == 0)
        return a->volume;
    const struct config_node *x = config_self(a);
    const struct config_node *y = config_self(b);
    *what = "the backing";
    if (strcmp(x->backing, y->backing) == 0)
        return x->backing;
    *what = "the metadata";
    if (x->metadata[0] && strcmp(x->metadata, y->metadata) == 0)
        return x->metadata;
    *what = "the device";
    if (strcmp(x->device, y->device) == 0)
        return x->device;
    *what = "the path";
    for (unsigned i = 0; i < x->path_count; i++)
        for (unsigned j = 0; j < y->path_count; j++)
            if (strcmp(x->paths[i], y->paths[j]) == 0)
                return x->paths[i];
    return NULL;
}

static int add_file(struct config *config, const char *file, const struct config_options *options, struct err *err)
{
    if (config->count == CONFIG_VOLUMES_MAX)
        return err_set(err, -EINVAL, "%s: expected at most %u volumes", file, CONFIG_VOLUMES_MAX);
    CLEANUP_FREE uint8_t *text = NULL;
    size_t bytes = 0;
    int rc = read_file(file, &text, &bytes, err);
    if (rc)
        return rc;
    if (config_is_witness(text, bytes, file))
        return add_witness(config, text, bytes, file, options, err);
    struct volume_config *grown = realloc(config->volumes, (config->count + 1) * sizeof(*grown));
    if (!grown)
        return err_set(err, -ENOMEM, "%s: out of memory", file);
    config->volumes = grown;
    struct volume_config *added = &grown[config->count];
    rc = config_parse(text, bytes, file, options, added, err);
    if (rc)
        return rc;
    for (unsigned i = 0; i < config->count; i++) {
        const char *what;
        const char *shared = shared_with(added, &grown[i], &what);
        if (shared)
            return err_set(err, -EINVAL,
                           "%s:%u: volume: expected every volume of this node to have its own, found %s "
                           "%s also in %s:%u",
                           file, added->line, what, shared, grown[i].file, grown[i].line);
    }
    config->count++;
    return 0;
}

static int is_config_file(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return entry->d_name[0] != '.' && dot && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0);
}

static int add_directory(struct config *config, const char *path, const struct config_options *options, struct err *err)
{
    struct dirent **entries = NULL;
    int count = scandir(path, &entries, is_config_file, alphasort);
    if (count < 0)
        return err_set(err, -EINVAL, "%s: cannot be read: %s", path, strerror(errno));
    int rc = 0;
    for (int i = 0; i < count; i++) {
        char file[CONFIG_PATH_BYTES + NAME_MAX];
        const char *slash = path[strlen(path) - 1] == '/' ? "" : "/";
        if (!rc) {
            snprintf(file, sizeof(file), "%s%s%s", path, slash, entries[i]->d_name);
            rc = add_file(config, file, options, err);
        }
        free(entries[i]);
    }
    free(entries);
    return rc;
}

int config_load(const char *path, const struct config_options *options, struct config *out, struct err *err)
{
    memset(out, 0, sizeof(*out));
    struct stat st;
    if (strlen(path) >= CONFIG_PATH_BYTES || !*path)
        return err_set(err, -EINVAL, "%.200s: expected a file name of 1 to %d bytes", path, CONFIG_PATH_BYTES - 1);
    if (stat(path, &st) < 0)
        return err_set(err, -EINVAL, "%s: cannot be read: %s", path, strerror(errno));
    int rc = S_ISDIR(st.st_mode) ? add_directory(out, path, options, err) : add_file(out, path, options, err);
    if (rc)
        config_free(out);
    return rc;
}

void config_free(struct config *c)
{
    free(c->volumes);
    memset(c, 0, sizeof(*c));
}
