/* Words with etcd's JSON gateway. */
#include "repl/witness/etcd_gateway.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "repl/base/units.h"
#include "repl/witness/base64.h"
#include "repl/witness/etcd_json.h"

#define KEY_TEXT_BYTES (BASE64_BYTES(ETCD_KEY_BYTES_MAX) + 1)
#define VALUE_TEXT_BYTES (BASE64_BYTES(ETCD_VALUE_BYTES_MAX) + 1)
static_assert(3 * VALUE_TEXT_BYTES + 6 * KEY_TEXT_BYTES + 1024 < ETCD_BODY_BYTES_MAX, "a transaction has room");

static const char *key_text(const char *volume, char out[KEY_TEXT_BYTES])
{
    char key[ETCD_KEY_BYTES_MAX];
    base64_encode(out, key, etcd_key(key, volume));
    return out;
}

static const char *age_key_text(const char *volume, const char *node, char out[KEY_TEXT_BYTES])
{
    char key[ETCD_KEY_BYTES_MAX];
    base64_encode(out, key, etcd_age_key(key, volume, node));
    return out;
}

/* ---- what is sent ---- */

static int __attribute__((format(printf, 3, 4))) add(char body[ETCD_BODY_BYTES_MAX], int at, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(body + at, (size_t)(ETCD_BODY_BYTES_MAX - at), format, ap);
    va_end(ap);
    return at + n;
}

/* "The key is as it was." A cluster that was restored from a snapshot counts its revisions from there once more, so
 * that the value counts, too, where it is known. */
static int add_as_read(char body[ETCD_BODY_BYTES_MAX], int at, const char *key, uint64_t mod_revision,
                       const char *value, size_t value_bytes)
{
    char was[VALUE_TEXT_BYTES];
    base64_encode(was, value, value_bytes);
    at = add(body, at,
             "{\"compare\":[{\"target\":\"MOD\",\"result\":\"EQUAL\",\"key\":\"%s\",\"mod_revision\":\"%" PRIu64 "\"}",
             key, mod_revision);
    if (value_bytes > 0)
        at = add(body, at, ",{\"target\":\"VALUE\",\"result\":\"EQUAL\",\"key\":\"%s\",\"value\":\"%s\"}", key, was);
    return add(body, at, "]");
}

static int add_ranges(char body[ETCD_BODY_BYTES_MAX], int at, const char *volume, const char *node)
{
    char key[KEY_TEXT_BYTES], age[KEY_TEXT_BYTES];
    at = add(body, at, "[{\"request_range\":{\"key\":\"%s\"}}", key_text(volume, key));
    if (node)
        at = add(body, at, ",{\"request_range\":{\"key\":\"%s\"}}", age_key_text(volume, node, age));
    return add(body, at, "]");
}

size_t etcd_read_body(char body[ETCD_BODY_BYTES_MAX], const char *volume, const char *node)
{
    int n = add(body, 0, "{\"success\":");
    n = add_ranges(body, n, volume, node);
    return (size_t)add(body, n, "}");
}

size_t etcd_age_body(char body[ETCD_BODY_BYTES_MAX], const char *volume, const char *node,
                     const struct etcd_stored_age *as_read, const struct etcd_age *age)
{
    char key[KEY_TEXT_BYTES], put[VALUE_TEXT_BYTES], value[ETCD_AGE_BYTES_MAX];
    base64_encode(put, value, etcd_age_encode(value, age));
    int n = add_as_read(body, 0, age_key_text(volume, node, key), as_read->mod_revision, as_read->value,
                        as_read->value_bytes);
    return (size_t)add(body, n, ",\"success\":[{\"request_put\":{\"key\":\"%s\",\"value\":\"%s\"}}]}", key, put);
}

size_t etcd_range_body(char body[ETCD_BODY_BYTES_MAX], const char *volume)
{
    char key[KEY_TEXT_BYTES];
    return (size_t)snprintf(body, ETCD_BODY_BYTES_MAX, "{\"key\":\"%s\"}", key_text(volume, key));
}

size_t etcd_txn_body(char body[ETCD_BODY_BYTES_MAX], const char *volume, const char *node, uint64_t epoch,
                     const struct etcd_stored *as_read, const char *value, size_t value_bytes)
{
    char key[KEY_TEXT_BYTES], history[KEY_TEXT_BYTES], put[VALUE_TEXT_BYTES];
    char history_key[ETCD_KEY_BYTES_MAX];
    key_text(volume, key);
    base64_encode(history, history_key, etcd_history_key(history_key, volume, epoch));
    base64_encode(put, value, value_bytes);
    int n = add_as_read(body, 0, key, as_read->mod_revision, as_read->value, as_read->value_bytes);
    n = add(body, n,
            ",\"success\":[{\"request_put\":{\"key\":\"%s\",\"value\":\"%s\"}},"
            "{\"request_put\":{\"key\":\"%s\",\"value\":\"%s\"}}],\"failure\":",
            key, put, history, put);
    n = add_ranges(body, n, volume, node);
    return (size_t)add(body, n, "}");
}

/* ---- what is answered ---- */

/* The one key that a range was for. */
static int read_key(struct json_object *range, const char *wanted, uint64_t *mod_revision, char *value, size_t room,
                    size_t *value_bytes)
{
    struct json_object *kvs = etcd_json_field(range, "kvs", json_type_array);
    size_t count = kvs ? json_object_array_length(kvs) : 0;
    if (count == 0)
        return 0;
    struct json_object *kv = json_object_array_get_idx(kvs, 0);
    const char *key = etcd_json_text(kv, "key"), *text = etcd_json_text(kv, "value");
    if (count > 1 || !key || strcmp(key, wanted) != 0 || !etcd_json_u64(kv, "mod_revision", mod_revision) ||
        *mod_revision == 0)
        return -EBADMSG;
    /* Fields of a default value are not written: an empty one has none. */
    ssize_t n = text ? base64_decode(value, room, text, strlen(text)) : 0;
    if (n == -EBADMSG)
        return -EBADMSG;
    *value_bytes = n > 0 ? (size_t)n : 0;
    return 0;
}

static int read_stored(struct etcd_stored *out, const char *volume, struct json_object *range)
{
    char wanted[KEY_TEXT_BYTES];
    return read_key(range, key_text(volume, wanted), &out->mod_revision, out->value, sizeof(out->value),
                    &out->value_bytes);
}

static struct json_object *range_of(struct json_object *responses, size_t i)
{
    return etcd_json_field(json_object_array_get_idx(responses, i), "response_range", json_type_object);
}

/* What add_ranges() has asked for. */
static int read_ranges(struct etcd_stored *out, const char *volume, const char *node, struct json_object *answer)
{
    char wanted[KEY_TEXT_BYTES];
    struct json_object *responses = etcd_json_field(answer, "responses", json_type_array);
    if (!responses || json_object_array_length(responses) != (node ? 2 : 1) || !range_of(responses, 0))
        return -EBADMSG;
    int rc = read_stored(out, volume, range_of(responses, 0));
    if (rc || !node)
        return rc;
    struct json_object *range = range_of(responses, 1);
    return range ? read_key(range, age_key_text(volume, node, wanted), &out->age.mod_revision, out->age.value,
                            sizeof(out->age.value), &out->age.value_bytes)
                 : -EBADMSG;
}

/* An object without it may be anybody's. */
static bool read_cluster(struct etcd_stored *out, struct json_object *answer)
{
    struct json_object *header = etcd_json_field(answer, "header", json_type_object);
    return etcd_json_u64(header, "cluster_id", &out->cluster_id) && out->cluster_id != 0;
}

int etcd_range_answer(struct etcd_stored *out, const char *volume, const char *text, size_t bytes)
{
    memset(out, 0, sizeof(*out));
    struct json_object *o CLEANUP_JSON = etcd_json_parse(text, bytes);
    return read_cluster(out, o) ? read_stored(out, volume, o) : -EBADMSG;
}

int etcd_read_answer(struct etcd_stored *out, const char *volume, const char *node, const char *text, size_t bytes)
{
    memset(out, 0, sizeof(*out));
    struct json_object *o CLEANUP_JSON = etcd_json_parse(text, bytes);
    return read_cluster(out, o) ? read_ranges(out, volume, node, o) : -EBADMSG;
}

int etcd_txn_answer(bool *put, struct etcd_stored *out, const char *volume, const char *node, const char *text,
                    size_t bytes)
{
    memset(out, 0, sizeof(*out));
    *put = false;
    struct json_object *o CLEANUP_JSON = etcd_json_parse(text, bytes);
    if (!read_cluster(out, o))
        return -EBADMSG;
    struct json_object *succeeded = etcd_json_field(o, "succeeded", json_type_boolean);
    *put = succeeded && json_object_get_boolean(succeeded);
    return *put ? 0 : read_ranges(out, volume, node, o);
}

/* By what etcd says (its api/v3rpc/rpctypes/error.go): the codes beside it are shared by too many. */
static const struct {
    const char *says;
    const char *means;
} refusals[] = {
    { "database space exceeded", "etcd's database is full (alarm NOSPACE): compact it, defragment each member, then "
                                 "`etcdctl alarm disarm`" },
    { "corrupt cluster", "etcd has found that its members differ (alarm CORRUPT): mend the cluster before anything "
                         "trusts it" },
    { "user name is empty", "etcd wants a user's name, which its JSON gateway takes from no certificate: `etcdctl auth "
                            "disable`, and --client-cert-auth instead" },
    { "permission denied", "etcd's roles keep Lockstep out: it needs to read and write what is below /lockstep/" },
    { "invalid auth token", "etcd wants a user's token: `etcdctl auth disable`, and --client-cert-auth instead" },
};

enum etcd_trouble etcd_error_answer(char reason[REGISTER_REASON_BYTES], long status, const char *text, size_t bytes)
{
    struct json_object *o CLEANUP_JSON = etcd_json_parse(text, bytes);
    const char *said = etcd_json_text(o, "message");
    if (!said)
        said = etcd_json_text(o, "error");
    if (!said || !*said) {
        snprintf(reason, REGISTER_REASON_BYTES, "HTTP status %ld%s", status,
                 status == 404 ? ": no /v3/ there; etcd 3.4 or later is needed" : " from what is not etcd's gateway");
        return ETCD_TRIES_ELSEWHERE;
    }
    for (unsigned i = 0; i < ARRAY_LEN(refusals); i++) {
        if (strstr(said, refusals[i].says)) {
            snprintf(reason, REGISTER_REASON_BYTES, "%s", refusals[i].means);
            return ETCD_REFUSES;
        }
    }
    snprintf(reason, REGISTER_REASON_BYTES, "%s", said);
    for (char *c = reason; *c; c++)
        if (!isprint((unsigned char)*c))
            *c = '?';
    return ETCD_TRIES_ELSEWHERE;
}
