/* The shape of a volume's file, by libcyaml, and the words for what each key expects. */
#include "repl/node/config_schema.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "repl/base/units.h"
#include "repl/node/printable.h"

#define TEXT_BYTES_MAX 4096     /* of a single value; the meaning of each sets narrower limits */
#define SEQUENCE_ENTRIES_MAX 64 /* likewise */
#define PATH_TEXT_BYTES 256     /* of "nodes[1].paths[0]" */
#define COMPLAINT_BYTES 1024    /* of what libcyaml logs about one failure */
#define BACKTRACE_MAX 16

/* What a person should have written, by key; [] stands for any index. Ends the sentence "expected ...". */
static const struct {
    const char *path;
    const char *expected;
} expectations[] = {
    { "", "a mapping with at least the keys volume and nodes" },
    { "volume", "a name of 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit" },
    { "size", "a size of 4KiB to 64TiB in steps of 4KiB, such as 40GiB (units KiB, MiB, GiB, TiB)" },
    { "nodes", "a list of one or two nodes" },
    { "nodes[]", "a node: a mapping with name, backing, device, paths and metadata" },
    { "nodes[].name", "a name of 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit" },
    { "nodes[].backing", "the name of a block device or file, at most 255 bytes with its directory" },
    { "nodes[].metadata", "internal, or the name of a block device or file, at most 255 bytes with its directory" },
    { "nodes[].device", "auto, nbd:unix:/PATH (at most 107 bytes), nbd:HOST:PORT, ublk or ublk:N" },
    { "nodes[].paths", "a list of 1 to 8 addresses such as 10.0.0.1:7789" },
    { "nodes[].paths[]", "an address HOST:PORT such as 10.0.0.1:7789 or [fd00::1]:7789" },
    { "link", "a mapping with transport, tls and dead-after" },
    { "link.transport", "auto, tcp or rdma" },
    { "link.tls", "none, or a mapping with ca, cert and key" },
    { "link.tls.ca", "the name of a file" },
    { "link.tls.cert", "the name of a file" },
    { "link.tls.key", "the name of a file" },
    { "link.dead-after", "a time of 100ms to 10min, such as 2s (units ms, s, min)" },
    { "witness.listen", "an address HOST:PORT such as 10.9.0.1:7790, [fd00::1]:7790 or 0.0.0.0:7790" },
    { "witness.state", "the name of a directory, at most 200 bytes with the file's" },
    { "witness.tls", "none, or a mapping with ca, cert and key" },
    { "witness.tls.ca", "the name of a file" },
    { "witness.tls.cert", "the name of a file" },
    { "witness.tls.key", "the name of a file" },
    { "witness", "lockstep://HOST:PORT, etcd+https://HOST:PORT,... or etcd+http://HOST:PORT,..." },
    { "witness-tls", "a mapping with ca, cert and key" },
    { "witness-tls.ca", "the name of a file, at most 255 bytes with its directory" },
    { "witness-tls.cert", "the name of a file, at most 255 bytes with its directory" },
    { "witness-tls.key", "the name of a file, at most 255 bytes with its directory" },
    { "when-alone", "strict, suspend or continue" },
    { "when-deposed", "fail or wait" },
    { "activity-log", "a size of 256MiB to 1TiB in steps of 4MiB, such as 256GiB" },
    { "failover", "manual or automatic" },
    { "fail-after", "a time of at most 7d, longer than dead-after, such as 30s (units ms, s, min, h, d)" },
    { "resync-rate", "a size per second of 1MiB to 1TiB, such as 200MiB (units KiB, MiB, GiB, TiB)" },
    { "verify-rate", "a size per second of 1MiB to 1TiB, such as 200MiB (units KiB, MiB, GiB, TiB)" },
    { "verify", "a mapping with every and at" },
    { "verify.every", "a time of 1h to 366d, such as 7d (units s, min, h, d)" },
    { "verify.at", "a time of day such as \"03:00\", in quotes" },
    { "hooks", "a mapping with promote, demote, freeze and thaw" },
    { "hooks.promote", "the name of a program, at most 255 bytes with its directory" },
    { "hooks.demote", "the name of a program, at most 255 bytes with its directory" },
    { "hooks.freeze", "the name of a program" },
    { "hooks.thaw", "the name of a program" },
    { "hook-timeout", "a time of 1s to 10min, such as 30s (units s, min)" },
    { "offsite", "a mapping with store, at, keep, continuous and key" },
    { "offsite.store", "file:///DIRECTORY or s3+https://ENDPOINT/BUCKET/PREFIX" },
    { "offsite.at", "a time of day such as \"02:30\", in quotes" },
    { "offsite.keep", "a time such as 30d (units s, min, h, d)" },
    { "offsite.continuous", "on or off" },
    { "offsite.key", "the name of a file" },
    { "test", "a mapping with node, boot, disk and link" },
    { "test.node", "the name of one of the nodes" },
    { "test.boot", "a number" },
    { "test.disk", "a mapping" },
    { "test.disk.seed", "a number" },
    { "test.disk.error", "EIO, ENOSPC, EROFS or EREMOTEIO" },
    { "test.disk.read-errors-per-million", "a number of 0 to 1000000" },
    { "test.disk.write-errors-per-million", "a number of 0 to 1000000" },
    { "test.disk.discard-errors-per-million", "a number of 0 to 1000000" },
    { "test.disk.zeroes-errors-per-million", "a number of 0 to 1000000" },
    { "test.disk.flush-errors-per-million", "a number of 0 to 1000000" },
    { "test.disk.short-transfers-per-million", "a number of 0 to 1000000" },
    { "test.disk.error-offset", "a size such as 64KiB" },
    { "test.disk.error-length", "a size such as 64KiB" },
    { "test.disk.error-after-requests", "a number" },
    { "test.disk.delay-min", "a time of at most 10min, such as 500us" },
    { "test.disk.delay-max", "a time of at most 10min and at least delay-min, such as 2ms" },
    { "test.disk.record", "the name of a file, at most 255 bytes with its directory" },
    { "test.link", "a mapping" },
    { "test.link.seed", "a number" },
    { "test.link.drop-per-million", "a number of 0 to 1000000" },
    { "test.link.corrupt-per-million", "a number of 0 to 1000000" },
    { "test.link.cut-per-million", "a number of 0 to 1000000" },
    { "test.link.delay-min", "a time of at most 10min, such as 500us" },
    { "test.link.delay-max", "a time of at most 10min and at least delay-min, such as 2ms" },
    { "test.link.stall", "on or off" },
};

#define TEXT(key, structure, member)                                                                                   \
    CYAML_FIELD_STRING_PTR(key, CYAML_FLAG_POINTER, struct structure, member, 0, TEXT_BYTES_MAX)
#define TEXT_OPTIONAL(key, structure, member)                                                                          \
    CYAML_FIELD_STRING_PTR(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct structure, member, 0, TEXT_BYTES_MAX)
#define MAPPING_OPTIONAL(key, structure, member, fields)                                                               \
    CYAML_FIELD_MAPPING_PTR(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct structure, member, fields)

static const cyaml_schema_value_t path_value = { CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 0, TEXT_BYTES_MAX) };

static const cyaml_schema_field_t node_fields[] = {
    TEXT("name", raw_node, name),
    TEXT("backing", raw_node, backing),
    TEXT_OPTIONAL("metadata", raw_node, metadata),
    TEXT_OPTIONAL("device", raw_node, device),
    CYAML_FIELD_SEQUENCE("paths", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct raw_node, paths, &path_value, 0,
                         SEQUENCE_ENTRIES_MAX),
    CYAML_FIELD_END,
};

static const cyaml_schema_value_t node_value = { CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct raw_node,
                                                                     node_fields) };

static const cyaml_schema_field_t tls_fields[] = {
    TEXT("ca", raw_tls, ca),
    TEXT("cert", raw_tls, cert),
    TEXT("key", raw_tls, key),
    CYAML_FIELD_END,
};

/* libcyaml has no "this or that", so there are two schemas: `tls` is a word in one, a mapping in the other. */
#define LINK_FIELDS(tls_field)                                                                                         \
    {                                                                                                                  \
        TEXT_OPTIONAL("transport", raw_link, transport), tls_field, TEXT_OPTIONAL("dead-after", raw_link, dead_after), \
            CYAML_FIELD_END,                                                                                           \
    }
static const cyaml_schema_field_t link_fields_word[] = LINK_FIELDS(TEXT_OPTIONAL("tls", raw_link, tls_word));
static const cyaml_schema_field_t link_fields_mapping[] =
    LINK_FIELDS(MAPPING_OPTIONAL("tls", raw_link, tls, tls_fields));

static const cyaml_schema_field_t witness_tls_fields[] = {
    TEXT_OPTIONAL("ca", raw_witness_tls, ca),
    TEXT_OPTIONAL("cert", raw_witness_tls, cert),
    TEXT_OPTIONAL("key", raw_witness_tls, key),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t hooks_fields[] = {
    TEXT_OPTIONAL("promote", raw_hooks, promote),
    TEXT_OPTIONAL("demote", raw_hooks, demote),
    TEXT_OPTIONAL("freeze", raw_hooks, freeze),
    TEXT_OPTIONAL("thaw", raw_hooks, thaw),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t offsite_fields[] = {
    TEXT("store", raw_offsite, store),        TEXT_OPTIONAL("at", raw_offsite, at),
    TEXT_OPTIONAL("keep", raw_offsite, keep), TEXT_OPTIONAL("continuous", raw_offsite, continuous),
    TEXT_OPTIONAL("key", raw_offsite, key),   CYAML_FIELD_END,
};

static const cyaml_schema_field_t test_disk_fields[] = {
    TEXT_OPTIONAL("seed", raw_test_disk, seed),
    TEXT_OPTIONAL("error", raw_test_disk, error),
    TEXT_OPTIONAL("read-errors-per-million", raw_test_disk, read_errors),
    TEXT_OPTIONAL("write-errors-per-million", raw_test_disk, write_errors),
    TEXT_OPTIONAL("discard-errors-per-million", raw_test_disk, discard_errors),
    TEXT_OPTIONAL("zeroes-errors-per-million", raw_test_disk, zeroes_errors),
    TEXT_OPTIONAL("flush-errors-per-million", raw_test_disk, flush_errors),
    TEXT_OPTIONAL("short-transfers-per-million", raw_test_disk, short_transfers),
    TEXT_OPTIONAL("error-offset", raw_test_disk, error_offset),
    TEXT_OPTIONAL("error-length", raw_test_disk, error_length),
    TEXT_OPTIONAL("error-after-requests", raw_test_disk, error_after),
    TEXT_OPTIONAL("delay-min", raw_test_disk, delay_min),
    TEXT_OPTIONAL("delay-max", raw_test_disk, delay_max),
    TEXT_OPTIONAL("record", raw_test_disk, record),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t test_link_fields[] = {
    TEXT_OPTIONAL("seed", raw_test_link, seed),
    TEXT_OPTIONAL("drop-per-million", raw_test_link, drop),
    TEXT_OPTIONAL("corrupt-per-million", raw_test_link, corrupt),
    TEXT_OPTIONAL("cut-per-million", raw_test_link, cut),
    TEXT_OPTIONAL("delay-min", raw_test_link, delay_min),
    TEXT_OPTIONAL("delay-max", raw_test_link, delay_max),
    TEXT_OPTIONAL("stall", raw_test_link, stall),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t verify_fields[] = {
    TEXT("every", raw_verify, every),
    TEXT_OPTIONAL("at", raw_verify, at),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t test_fields[] = {
    TEXT_OPTIONAL("node", raw_test, node),
    TEXT_OPTIONAL("boot", raw_test, boot),
    MAPPING_OPTIONAL("disk", raw_test, disk, test_disk_fields),
    MAPPING_OPTIONAL("link", raw_test, link, test_link_fields),
    CYAML_FIELD_END,
};

#define VOLUME_FIELDS(link_fields)                                                                                     \
    {                                                                                                                  \
        TEXT("volume", raw_volume, volume), TEXT_OPTIONAL("size", raw_volume, size),                                   \
            CYAML_FIELD_SEQUENCE("nodes", CYAML_FLAG_POINTER, struct raw_volume, nodes, &node_value, 0,                \
                                 SEQUENCE_ENTRIES_MAX),                                                                \
            MAPPING_OPTIONAL("link", raw_volume, link, link_fields), TEXT_OPTIONAL("witness", raw_volume, witness),    \
            MAPPING_OPTIONAL("witness-tls", raw_volume, witness_tls, witness_tls_fields),                              \
            TEXT_OPTIONAL("when-alone", raw_volume, when_alone),                                                       \
            TEXT_OPTIONAL("when-deposed", raw_volume, when_deposed), TEXT_OPTIONAL("failover", raw_volume, failover),  \
            TEXT_OPTIONAL("fail-after", raw_volume, fail_after),                                                       \
            TEXT_OPTIONAL("activity-log", raw_volume, activity_log),                                                   \
            TEXT_OPTIONAL("resync-rate", raw_volume, resync_rate),                                                     \
            TEXT_OPTIONAL("verify-rate", raw_volume, verify_rate),                                                     \
            MAPPING_OPTIONAL("verify", raw_volume, verify, verify_fields),                                             \
            MAPPING_OPTIONAL("hooks", raw_volume, hooks, hooks_fields),                                                \
            TEXT_OPTIONAL("hook-timeout", raw_volume, hook_timeout),                                                   \
            MAPPING_OPTIONAL("offsite", raw_volume, offsite, offsite_fields),                                          \
            MAPPING_OPTIONAL("test", raw_volume, test, test_fields), CYAML_FIELD_END,                                  \
    }
static const cyaml_schema_field_t volume_fields_word[] = VOLUME_FIELDS(link_fields_word);
static const cyaml_schema_field_t volume_fields_mapping[] = VOLUME_FIELDS(link_fields_mapping);

static const cyaml_schema_value_t schema_word = { CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct raw_volume,
                                                                      volume_fields_word) };
static const cyaml_schema_value_t schema_mapping = { CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct raw_volume,
                                                                         volume_fields_mapping) };

static const cyaml_schema_value_t *schema_for(struct config_place *place)
{
    const yaml_node_t *tls = yaml_doc_find(&place->doc, "link.tls");
    return tls && tls->type == YAML_MAPPING_NODE ? &schema_mapping : &schema_word;
}

#define WITNESS_FIELDS(tls_field)                                                                                      \
    {                                                                                                                  \
        TEXT("listen", raw_witness, listen), TEXT("state", raw_witness, state), tls_field, CYAML_FIELD_END,            \
    }
static const cyaml_schema_field_t witness_fields_word[] = WITNESS_FIELDS(TEXT_OPTIONAL("tls", raw_witness, tls_word));
static const cyaml_schema_field_t witness_fields_mapping[] =
    WITNESS_FIELDS(MAPPING_OPTIONAL("tls", raw_witness, tls, tls_fields));
static const cyaml_schema_field_t witness_file_fields_word[] = {
    CYAML_FIELD_MAPPING_PTR("witness", CYAML_FLAG_POINTER, struct raw_witness_file, witness, witness_fields_word),
    CYAML_FIELD_END,
};
static const cyaml_schema_field_t witness_file_fields_mapping[] = {
    CYAML_FIELD_MAPPING_PTR("witness", CYAML_FLAG_POINTER, struct raw_witness_file, witness, witness_fields_mapping),
    CYAML_FIELD_END,
};
static const cyaml_schema_value_t witness_schema_word = { CYAML_VALUE_MAPPING(
    CYAML_FLAG_POINTER, struct raw_witness_file, witness_file_fields_word) };
static const cyaml_schema_value_t witness_schema_mapping = { CYAML_VALUE_MAPPING(
    CYAML_FLAG_POINTER, struct raw_witness_file, witness_file_fields_mapping) };

static const cyaml_schema_value_t *witness_schema_for(struct config_place *place)
{
    const yaml_node_t *tls = yaml_doc_find(&place->doc, "witness.tls");
    return tls && tls->type == YAML_MAPPING_NODE ? &witness_schema_mapping : &witness_schema_word;
}

/* What libcyaml says of a failure arrives as log lines. */
struct complaint {
    char text[COMPLAINT_BYTES];
    size_t used;
};

static void __attribute__((format(printf, 3, 0)))
complaint_add(cyaml_log_t level, void *ctx, const char *format, va_list args)
{
    (void)level;
    struct complaint *c = ctx;
    int n = vsnprintf(c->text + c->used, sizeof(c->text) - c->used, format, args);
    if (n > 0)
        c->used = min_u64(c->used + (size_t)n, sizeof(c->text) - 1);
}

static cyaml_config_t cyaml_config(struct complaint *complaint)
{
    return (cyaml_config_t) {
        .log_fn = complaint_add,
        .log_ctx = complaint,
        .mem_fn = cyaml_mem,
        .log_level = CYAML_LOG_ERROR,
        .flags = CYAML_CFG_NO_ALIAS,
    };
}

int config_wrong(struct config_place *place, const char *path, struct err *err, const char *format, ...)
{
    char text[sizeof(err->text)];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    char line[2 * sizeof(err->text)];
    snprintf(line, sizeof(line), "%s:%u: %s%s%s", place->file, yaml_doc_line(&place->doc, path), path,
             *path ? ": " : "", text);
    char shown[sizeof(err->text)];
    printable(shown, sizeof(shown), line, strlen(line)); /* keys and values may hold anything */
    return err_set(err, -EINVAL, "%s", shown);
}

static const char *expectation(const char *path)
{
    char pattern[PATH_TEXT_BYTES];
    size_t used = 0;
    for (const char *p = path; *p && used < sizeof(pattern) - 1; p++)
        if (*p < '0' || *p > '9') /* no key has a digit in it */
            pattern[used++] = *p;
    pattern[used] = 0;
    for (size_t i = 0; i < ARRAY_LEN(expectations); i++)
        if (strcmp(expectations[i].path, pattern) == 0)
            return expectations[i].expected;
    return "something else";
}

int config_unexpected(struct config_place *place, const char *path, struct err *err)
{
    if (!yaml_doc_find(&place->doc, path))
        return config_wrong(place, path, err, "missing, expected %s", expectation(path));
    char found[128];
    yaml_doc_describe(&place->doc, path, found, sizeof(found));
    return config_wrong(place, path, err, "expected %s, found %s", expectation(path), found);
}

/* The fields of the mapping at `path` of the schema; NULL: none is there. */
static const cyaml_schema_field_t *fields_at(const cyaml_schema_value_t *schema, const char *path)
{
    const cyaml_schema_field_t *fields = schema->mapping.fields;
    while (*path) {
        size_t word_bytes = strcspn(path, ".[");
        const cyaml_schema_field_t *f = fields;
        while (f->key && (strlen(f->key) != word_bytes || strncmp(f->key, path, word_bytes) != 0))
            f++;
        if (!f->key)
            return NULL;
        path += word_bytes;
        const cyaml_schema_value_t *value = &f->value;
        if (*path == '[' && value->type == CYAML_SEQUENCE) {
            value = value->sequence.entry;
            path += strcspn(path, "]") + 1;
        }
        if (value->type != CYAML_MAPPING)
            return NULL;
        fields = value->mapping.fields;
        if (*path == '.')
            path++;
    }
    return fields;
}

static int unknown_key(struct config_place *place, const cyaml_schema_value_t *schema, const char *parent,
                       const char *path, struct err *err)
{
    char known[sizeof(err->text)] = "";
    size_t used = 0;
    for (const cyaml_schema_field_t *f = fields_at(schema, parent); f && f->key && used < sizeof(known); f++)
        used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", used ? ", " : "", f->key);
    return config_wrong(place, path, err, "unknown key, expected one of: %s", known);
}

/* One line of the backtrace, such as "  in sequence entry '2' (line: 4, column: 14)". */
struct frame_line {
    char name[64]; /* key or number; "" for a mapping without a key yet */
    bool is_entry;
};

static bool frame_line_parse(const char *line, struct frame_line *out)
{
    *out = (struct frame_line) { .name = "" };
    if (sscanf(line, " in sequence entry '%63[0-9]'", out->name) == 1) {
        out->is_entry = true;
        return true;
    }
    if (sscanf(line, " in mapping field '%63[^']'", out->name) == 1)
        return true;
    return strncmp(line, "  in mapping ", strlen("  in mapping ")) == 0;
}

/* Joins the backtrace, whose innermost line is first, to a path; leaves out the first `skip` lines. */
static void frames_path(const struct frame_line *frames, size_t count, size_t skip, char *out, size_t out_bytes)
{
    size_t used = 0;
    out[0] = 0;
    for (size_t i = count; i > skip && used < out_bytes; i--) {
        const struct frame_line *f = &frames[i - 1];
        if (f->is_entry) {
            unsigned n = 0; /* libcyaml counts from 1 */
            sscanf(f->name, "%u", &n);
            used += (size_t)snprintf(out + used, out_bytes - used, "[%u]", n ? n - 1 : 0);
        } else if (f->name[0]) {
            used += (size_t)snprintf(out + used, out_bytes - used, "%s%s", used ? "." : "", f->name);
        }
    }
}

/* What follows `prefix` in the text; NULL: it begins otherwise. */
static const char *behind(const char *text, const char *prefix)
{
    size_t bytes = strlen(prefix);
    return strncmp(text, prefix, bytes) == 0 ? text + bytes : NULL;
}

/* Turns what libcyaml logged into one line that says where and what. */
static int explain(struct config_place *place, const cyaml_schema_value_t *schema, struct complaint *complaint,
                   cyaml_err_t code, struct err *err)
{
    char *save = NULL;
    const char *what = strtok_r(complaint->text, "\n", &save);
    struct frame_line frames[BACKTRACE_MAX];
    size_t count = 0;
    for (char *line; count < BACKTRACE_MAX && (line = strtok_r(NULL, "\n", &save));)
        if (frame_line_parse(line, &frames[count]))
            count++;

    char path[PATH_TEXT_BYTES];
    const char *unknown = what ? behind(what, "Load: Unexpected key: ") : NULL;
    const char *missing = what ? behind(what, "Load: Missing required mapping field: ") : NULL;
    if (unknown || missing) {
        char parent[PATH_TEXT_BYTES / 2];
        frames_path(frames, count, 1, parent, sizeof(parent)); /* the first is a neighbour of the key */
        snprintf(path, sizeof(path), "%s%s%.64s", parent, *parent ? "." : "", unknown ? unknown : missing);
        return unknown ? unknown_key(place, schema, parent, path, err) : config_unexpected(place, path, err);
    }
    bool too_many = code == CYAML_ERR_SEQUENCE_ENTRIES_MAX; /* the first is the entry too many */
    frames_path(frames, count, too_many ? 1 : 0, path, sizeof(path));
    return config_unexpected(place, path, err);
}

static int load(struct config_place *place, const cyaml_schema_value_t *schema, const uint8_t *text, size_t bytes,
                cyaml_data_t **out, struct err *err)
{
    struct complaint complaint = { .used = 0 };
    cyaml_config_t config = cyaml_config(&complaint);
    *out = NULL;
    cyaml_err_t code = cyaml_load_data(text, bytes, &config, schema, out, NULL);
    if (code == CYAML_OK && *out)
        return 0;
    if (code == CYAML_ERR_OOM)
        return err_set(err, -ENOMEM, "%s: out of memory", place->file);
    return explain(place, schema, &complaint, code, err);
}

static void unload(const cyaml_schema_value_t *schema, cyaml_data_t *raw)
{
    struct complaint complaint = { .used = 0 };
    cyaml_config_t config = cyaml_config(&complaint);
    cyaml_free(&config, schema, raw, 0);
}

int config_schema_load(struct config_place *place, const uint8_t *text, size_t bytes, struct raw_volume **out,
                       struct err *err)
{
    return load(place, schema_for(place), text, bytes, (cyaml_data_t **)out, err);
}

void config_schema_free(struct config_place *place, struct raw_volume *raw) { unload(schema_for(place), raw); }

int config_schema_load_witness(struct config_place *place, const uint8_t *text, size_t bytes,
                               struct raw_witness_file **out, struct err *err)
{
    return load(place, witness_schema_for(place), text, bytes, (cyaml_data_t **)out, err);
}

void config_schema_free_witness(struct config_place *place, struct raw_witness_file *raw)
{
    unload(witness_schema_for(place), raw);
}
