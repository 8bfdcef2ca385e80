/* JSON from elsewhere. */
#include "repl/witness/etcd_json.h"

#include <string.h>

struct json_object *etcd_json_parse(const char *text, size_t bytes)
{
    /* json-c takes a NUL for the end of what it was given. */
    if (bytes == 0 || bytes > INT32_MAX || memchr(text, 0, bytes))
        return NULL;
    while (bytes > 0 && strchr(" \t\r\n", text[bytes - 1]))
        bytes--;
    struct json_tokener *t = json_tokener_new_ex(ETCD_JSON_DEPTH_MAX);
    if (!t)
        return NULL;
    json_tokener_set_flags(t, JSON_TOKENER_STRICT);
    struct json_object *o = json_tokener_parse_ex(t, text, (int)bytes);
    bool whole = json_tokener_get_error(t) == json_tokener_success && json_tokener_get_parse_end(t) == bytes;
    json_tokener_free(t);
    if (whole && json_object_is_type(o, json_type_object))
        return o;
    json_object_put(o);
    return NULL;
}

struct json_object *etcd_json_field(struct json_object *o, const char *name, enum json_type type)
{
    struct json_object *field = NULL;
    if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, name, &field))
        return NULL;
    return json_object_is_type(field, type) ? field : NULL;
}

const char *etcd_json_text(struct json_object *o, const char *name)
{
    struct json_object *field = etcd_json_field(o, name, json_type_string);
    if (!field)
        return NULL;
    const char *text = json_object_get_string(field);
    return strlen(text) == (size_t)json_object_get_string_len(field) ? text : NULL;
}

static bool digits(const char *text, uint64_t *out)
{
    uint64_t value = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    *out = value;
    return true;
}

bool etcd_json_u64(struct json_object *o, const char *name, uint64_t *out)
{
    const char *text = etcd_json_text(o, name);
    if (text)
        return digits(text, out);
    struct json_object *number = etcd_json_field(o, name, json_type_int);
    /* Negative ones and those that are too large are given as the nearest that fits: told apart by how they print. */
    if (!number)
        return false;
    uint64_t value = json_object_get_uint64(number);
    if (value == UINT64_MAX || (value == 0 && json_object_get_int64(number) != 0))
        return false;
    *out = value;
    return true;
}
