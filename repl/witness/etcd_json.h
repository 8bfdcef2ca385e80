/* JSON that comes from elsewhere: parsed strictly, and its fields by type and range. */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ETCD_JSON_DEPTH_MAX 16

/* One object and nothing else, or NULL. The caller's, for json_object_put(). */
struct json_object *etcd_json_parse(const char *text, size_t bytes);

static inline void etcd_json_put(struct json_object **o) { json_object_put(*o); }

#define CLEANUP_JSON __attribute__((cleanup(etcd_json_put)))

/* NULL if `o` is NULL or no object, or has no such field of that type. Still the object's. */
struct json_object *etcd_json_field(struct json_object *o, const char *name, enum json_type type);

/* Its text if it has no NUL inside, or NULL. Still the object's. */
const char *etcd_json_text(struct json_object *o, const char *name);

/* A number, or a string of digits, as protobuf's JSON writes 64-bit numbers. False: there is none, or it does not
 * fit. */
bool etcd_json_u64(struct json_object *o, const char *name, uint64_t *out);
