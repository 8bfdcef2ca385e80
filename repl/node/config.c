/* The configuration of a volume: what the strings of its file mean, and whether they make sense together. */
#include "repl/node/config.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "repl/node/config_internal.h"
#include "repl/node/quantity.h"

#define SIZE_STEP_BYTES (4 * KIB)
#define HOST_NAME_BYTES 256

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

bool config_join_path(const struct reading *r, const char *name, char *out, size_t out_bytes)
{
    const char *slash = strrchr(r->place.file, '/');
    size_t dir_bytes = *name == '/' || !slash ? 0 : (size_t)(slash - r->place.file) + 1;
    bool relative = *name != '/' && r->place.file[0] != '/' && r->options->directory;
    int n = snprintf(out, out_bytes, "%s%s%.*s%s", relative ? r->options->directory : "", relative ? "/" : "",
                     (int)dir_bytes, r->place.file, name);
    return n > 0 && (size_t)n < out_bytes;
}

int config_unsupported(struct reading *r, const char *path, const char *what, const char *instead)
{
    return config_wrong(&r->place, path, r->err, "%s is not supported by this version: %s", what, instead);
}

int config_one_of(struct reading *r, const char *path, const char *value, const char *const *words)
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
        return config_unsupported(r, path, "ublk", "use nbd:unix:/PATH or auto");
    } else if (nbd && strncmp(nbd, "unix:", 5) == 0 && nbd[5]) {
        char file[CONFIG_SOCKET_BYTES];
        if (!config_join_path(r, nbd + 5, file, sizeof(file)))
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
    if (!*raw->backing || !config_join_path(r, raw->backing, node->backing, sizeof(node->backing)))
        return config_unexpected(&r->place, path, r->err);

    snprintf(path, sizeof(path), "nodes[%u].metadata", index);
    if (raw->metadata && strcmp(raw->metadata, "internal") != 0) {
        if (!*raw->metadata || !config_join_path(r, raw->metadata, node->metadata, sizeof(node->metadata)))
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
        int rc = config_one_of(r, "link.transport", link->transport, words);
        if (rc < 0)
            return rc;
        if (strcmp(link->transport, "rdma") == 0)
            return config_unsupported(r, "link.transport", "rdma", "use auto or tcp");
    }

    if (link && link->tls)
        return config_unsupported(r, "link.tls", "TLS", "write none, and keep the link on a network of its own");
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

static int read_policy(struct reading *r)
{
    const struct raw_volume *raw = r->raw;
    int rc = config_read_register(r);
    if (rc < 0)
        return rc;
    r->out->when_alone = ALONE_STRICT;
    if (raw->when_alone) {
        static const char *const words[] = { "strict", "suspend", "continue", NULL };
        rc = config_one_of(r, "when-alone", raw->when_alone, words);
        if (rc < 0)
            return rc;
        r->out->when_alone = strcmp(raw->when_alone, "continue") == 0  ? ALONE_CONTINUE
                             : strcmp(raw->when_alone, "suspend") == 0 ? ALONE_SUSPEND
                                                                       : ALONE_STRICT;
    }
    r->out->when_deposed = DEPOSED_FAIL;
    if (raw->when_deposed) {
        static const char *const words[] = { "fail", "wait", NULL };
        rc = config_one_of(r, "when-deposed", raw->when_deposed, words);
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
    return config_read_failover(r);
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
        return config_unsupported(r, "hooks.freeze", "freeze", "leave it out; there are no snapshots yet");
    if (raw->thaw)
        return config_unsupported(r, "hooks.thaw", "thaw", "leave it out; there are no snapshots yet");
    if (raw->promote && (!*raw->promote || !config_join_path(r, raw->promote, hooks->promote, sizeof(hooks->promote))))
        return config_unexpected(&r->place, "hooks.promote", r->err);
    if (raw->demote && (!*raw->demote || !config_join_path(r, raw->demote, hooks->demote, sizeof(hooks->demote))))
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

bool config_switch_value(const char *text, bool *on)
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
        if (offsite->continuous && !config_switch_value(offsite->continuous, &on))
            return config_unexpected(&r->place, "offsite.continuous", r->err);
        if (offsite->key && !*offsite->key)
            return config_unexpected(&r->place, "offsite.key", r->err);
        return config_unsupported(r, "offsite", "offsite", "leave the section out; there are no snapshots yet");
    }
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
        rc = config_read_test(r);
    return rc;
}

/* Kinds of file that other versions have: told apart before the schema calls their keys unknown. */
static int check_kind(struct reading *r)
{
    if (yaml_doc_find(&r->place.doc, "volume"))
        return 0;
    if (yaml_doc_find(&r->place.doc, "metrics"))
        return config_unsupported(r, "metrics", "metrics", "leave it out");
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
