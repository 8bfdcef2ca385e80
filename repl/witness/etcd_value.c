/* Decrees, and ages of legs, as they lie in etcd. */
#include "repl/witness/etcd_value.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "repl/witness/etcd_json.h"
#include "repl/witness/register_table.h"

#define CAUSES (DECREE_ADOPT + 1)
#define ID_TEXT_BYTES (2 * sizeof(struct id) + 1)
#define TAG_TEXT_BYTES (2 * sizeof(uint64_t) + 1)

size_t etcd_key(char out[ETCD_KEY_BYTES_MAX], const char *volume)
{
    return (size_t)snprintf(out, ETCD_KEY_BYTES_MAX, "/lockstep/%.*s", NAME_BYTES_MAX, volume);
}

size_t etcd_history_key(char out[ETCD_KEY_BYTES_MAX], const char *volume, uint64_t epoch)
{
    return (size_t)snprintf(out, ETCD_KEY_BYTES_MAX, "/lockstep/%.*s/history/%020" PRIu64, NAME_BYTES_MAX, volume,
                            epoch);
}

size_t etcd_age_key(char out[ETCD_KEY_BYTES_MAX], const char *volume, const char *node)
{
    return (size_t)snprintf(out, ETCD_KEY_BYTES_MAX, "/lockstep/%.*s/age/%.*s", NAME_BYTES_MAX, volume, NAME_BYTES_MAX,
                            node);
}

/* ---- writing ---- */

static void put(struct json_object *o, const char *name, struct json_object *value)
{
    json_object_object_add(o, name, value);
}

static void put_text(struct json_object *o, const char *name, const char *text)
{
    put(o, name, json_object_new_string(text));
}

static const char *id_text(struct id id, char out[ID_TEXT_BYTES])
{
    for (size_t i = 0; i < sizeof(id.bytes); i++)
        snprintf(out + 2 * i, 3, "%02x", id.bytes[i]);
    return out;
}

static struct json_object *members_json(const struct decree *d)
{
    char id[ID_TEXT_BYTES];
    struct json_object *members = json_object_new_array();
    for (uint32_t i = 0; i < d->member_count && i < DECREE_MEMBERS_MAX; i++) {
        struct json_object *member = json_object_new_object();
        put_text(member, "node", d->members[i].node);
        put_text(member, "leg_id", id_text(d->members[i].leg_id, id));
        json_object_array_add(members, member);
    }
    return members;
}

static struct json_object *swap_json(const struct register_request *swap, uint64_t cluster_id, time_t now)
{
    const struct decree *d = &swap->proposal;
    char id[ID_TEXT_BYTES], cluster[24], tag[TAG_TEXT_BYTES], when[40];
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &utc);
    snprintf(cluster, sizeof(cluster), "%" PRIu64, cluster_id);
    snprintf(tag, sizeof(tag), "%016" PRIx64, d->tag);

    struct json_object *o = json_object_new_object();
    put(o, "lockstep", json_object_new_int(ETCD_VALUE_VERSION));
    put_text(o, "volume_id", id_text(swap->volume_id, id));
    put_text(o, "cluster_id", cluster);
    put(o, "epoch", json_object_new_uint64(d->epoch));
    put_text(o, "tag", tag);
    put_text(o, "cause", decree_cause_name(d->cause));
    put_text(o, "primary", d->primary);
    put(o, "members", members_json(d));
    put_text(o, "asked_by", swap->node);
    put_text(o, "time", when);
    put_text(o, "note", swap->note);
    return o;
}

static bool same_decree(const struct decree *a, const struct decree *b)
{
    bool same = a->epoch == b->epoch && a->tag == b->tag && a->cause == b->cause &&
                strcmp(a->primary, b->primary) == 0 && a->member_count == b->member_count;
    for (uint32_t i = 0; same && i < a->member_count; i++)
        same =
            id_equal(a->members[i].leg_id, b->members[i].leg_id) && strcmp(a->members[i].node, b->members[i].node) == 0;
    return same;
}

size_t etcd_value_encode(char out[ETCD_VALUE_BYTES_MAX], const struct register_request *swap, uint64_t cluster_id,
                         time_t now)
{
    struct json_object *o CLEANUP_JSON = swap_json(swap, cluster_id, now);
    size_t bytes = 0;
    const char *text =
        json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &bytes);
    if (!text || bytes >= ETCD_VALUE_BYTES_MAX)
        return 0;
    /* json-c leaves a field out, or makes it null, when memory is short; and nobody shall ever find what nobody takes.
     */
    struct etcd_value back;
    if (etcd_value_decode(&back, text, bytes) || back.cluster_id != cluster_id ||
        !id_equal(back.volume_id, swap->volume_id) || !same_decree(&back.decree, &swap->proposal))
        return 0;
    memcpy(out, text, bytes + 1);
    return bytes;
}

size_t etcd_age_encode(char out[ETCD_AGE_BYTES_MAX], const struct etcd_age *age)
{
    char id[ID_TEXT_BYTES];
    return (size_t)snprintf(out, ETCD_AGE_BYTES_MAX, "{\"lockstep\":%d,\"volume_id\":\"%s\",\"age\":%" PRIu64 "}",
                            ETCD_VALUE_VERSION, id_text(age->volume_id, id), age->age);
}

/* ---- reading ---- */

static bool hex(const char *text, uint8_t *out, size_t bytes)
{
    static const char digits[] = "0123456789abcdef";
    if (!text || strlen(text) != 2 * bytes)
        return false;
    for (size_t i = 0; i < bytes; i++) {
        const char *high = strchr(digits, text[2 * i]), *low = strchr(digits, text[2 * i + 1]);
        if (!high || !low)
            return false;
        out[i] = (uint8_t)((high - digits) << 4 | (low - digits));
    }
    return true;
}

static bool read_id(struct json_object *o, const char *name, struct id *out)
{
    return hex(etcd_json_text(o, name), out->bytes, sizeof(out->bytes)) && !id_is_none(*out);
}

/* As configurations have them; they are shown on terminals, too. */
static bool read_name(struct json_object *o, const char *name, char out[NAME_BYTES_MAX])
{
    const char *text = etcd_json_text(o, name);
    if (!text || strlen(text) >= NAME_BYTES_MAX)
        return false;
    for (const char *c = text; *c; c++)
        if (!(*c >= 'a' && *c <= 'z') && !(*c >= 'A' && *c <= 'Z') && !(*c >= '0' && *c <= '9') && !strchr("._-", *c))
            return false;
    snprintf(out, NAME_BYTES_MAX, "%s", text);
    return true;
}

static bool read_tag(struct json_object *o, uint64_t *out)
{
    uint8_t bytes[sizeof(*out)];
    if (!hex(etcd_json_text(o, "tag"), bytes, sizeof(bytes)))
        return false;
    *out = 0;
    for (size_t i = 0; i < sizeof(bytes); i++)
        *out = *out << 8 | bytes[i];
    return *out != 0;
}

static bool read_cause(struct json_object *o, enum decree_cause *out)
{
    const char *text = etcd_json_text(o, "cause");
    for (unsigned i = 0; text && i < CAUSES; i++) {
        if (strcmp(text, decree_cause_name((enum decree_cause)i)) == 0) {
            *out = (enum decree_cause)i;
            return true;
        }
    }
    return false;
}

static bool read_members(struct json_object *o, struct decree *d)
{
    struct json_object *members = etcd_json_field(o, "members", json_type_array);
    size_t count = members ? json_object_array_length(members) : 0;
    if (count == 0 || count > DECREE_MEMBERS_MAX)
        return false;
    for (size_t i = 0; i < count; i++) {
        struct decree_member *m = &d->members[i];
        struct json_object *member = json_object_array_get_idx(members, i);
        if (!read_name(member, "node", m->node) || !m->node[0] || !read_id(member, "leg_id", &m->leg_id) ||
            decree_has_member(d, m->leg_id))
            return false;
        d->member_count++;
    }
    return true;
}

static int check_version(struct json_object *o)
{
    uint64_t version;
    if (!etcd_json_u64(o, "lockstep", &version) || version < ETCD_VALUE_VERSION)
        return -EBADMSG;
    return version > ETCD_VALUE_VERSION ? -ENOTSUP : 0;
}

int etcd_value_decode(struct etcd_value *out, const char *text, size_t bytes)
{
    memset(out, 0, sizeof(*out));
    struct json_object *o CLEANUP_JSON = etcd_json_parse(text, bytes);
    int rc = check_version(o);
    if (rc)
        return rc;
    struct decree *d = &out->decree;
    bool good = read_id(o, "volume_id", &out->volume_id) && etcd_json_u64(o, "cluster_id", &out->cluster_id) &&
                etcd_json_u64(o, "epoch", &d->epoch) && d->epoch > 0 && d->epoch <= INT64_MAX && read_tag(o, &d->tag) &&
                read_cause(o, &d->cause) && read_name(o, "primary", d->primary) && read_members(o, d);
    return good ? 0 : -EBADMSG;
}

int etcd_age_decode(struct etcd_age *out, const char *text, size_t bytes)
{
    memset(out, 0, sizeof(*out));
    struct json_object *o CLEANUP_JSON = etcd_json_parse(text, bytes);
    int rc = check_version(o);
    if (rc)
        return rc;
    bool good = read_id(o, "volume_id", &out->volume_id) && etcd_json_u64(o, "age", &out->age) && out->age > 0 &&
                out->age <= REGISTER_AGE_MAX;
    return good ? 0 : -EBADMSG;
}
