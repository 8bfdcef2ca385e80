/* Asks a register what it is told to: one JSON object a line on stdin, one answer a line on stdout, in the order in
 * which they come. For tests, of any kind of register.
 *
 * usage: register_probe URL TIMEOUT_MS [CA [CERT KEY]] */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "repl/base/clock.h"
#include "repl/base/scoped.h"
#include "repl/witness/register.h"

static _Atomic uint64_t asked_ns[REGISTER_SLOTS_MAX];

static const char *outcome_name(enum register_outcome o)
{
    switch (o) {
    case REGISTER_STANDS: return "stands";
    case REGISTER_DONE: return "done";
    case REGISTER_LOST: return "lost";
    case REGISTER_UNREACHABLE: return "unreachable";
    case REGISTER_UNCONFIRMED: return "unconfirmed";
    case REGISTER_OLDER: return "older";
    case REGISTER_REFUSED: return "refused";
    }
    return "?";
}

static void put(struct json_object *o, const char *key, struct json_object *value)
{
    json_object_object_add(o, key, value);
}

static void answered(void *context, uint32_t slot, const struct register_answer *a)
{
    const struct decree *d = &a->decree;
    struct json_object *o = json_object_new_object(), *members = json_object_new_array();
    for (uint32_t i = 0; i < d->member_count; i++)
        json_object_array_add(members, json_object_new_string(d->members[i].node));
    put(o, "slot", json_object_new_int64(slot));
    put(o, "outcome", json_object_new_string(outcome_name(a->outcome)));
    put(o, "epoch", json_object_new_uint64(d->epoch));
    put(o, "tag", json_object_new_uint64(d->tag));
    put(o, "cause", json_object_new_string(decree_cause_name(d->cause)));
    put(o, "primary", json_object_new_string(d->primary));
    put(o, "members", members);
    put(o, "reason", json_object_new_string(a->reason));
    put(o, "leg_age", json_object_new_uint64(a->leg_age));
    put(o, "ms", json_object_new_double((double)(clock_ns() - asked_ns[slot]) / (double)NS_PER_MS));
    printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    fflush(stdout);
    json_object_put(o);
}

static uint64_t number(struct json_object *o, const char *key)
{
    return json_object_get_uint64(json_object_object_get(o, key));
}

static void text(struct json_object *o, const char *key, char *out, size_t bytes)
{
    const char *value = json_object_get_string(json_object_object_get(o, key));
    snprintf(out, bytes, "%s", value ? value : "");
}

/* The same from the same number, and none from 0. */
static struct id id_of(uint64_t n)
{
    struct id id = { { 0 } };
    memcpy(id.bytes, &n, sizeof(n));
    return id;
}

static enum decree_cause cause_of(const char *name)
{
    for (unsigned c = DECREE_FIRST; c <= DECREE_ADOPT; c++)
        if (strcmp(name, decree_cause_name((enum decree_cause)c)) == 0)
            return (enum decree_cause)c;
    return DECREE_RENEW;
}

static struct register_request request_of(struct json_object *o)
{
    struct register_request q = { .ask = REGISTER_READ };
    char ask[16], cause[16];
    text(o, "ask", ask, sizeof(ask));
    if (strcmp(ask, "swap") == 0)
        q.ask = REGISTER_SWAP;
    q.volume_id = id_of(number(o, "volume_id"));
    text(o, "volume", q.volume, sizeof(q.volume));
    text(o, "node", q.node, sizeof(q.node));
    text(o, "peer", q.peer, sizeof(q.peer));
    q.known_epoch = number(o, "known_epoch");
    q.serving_alone = json_object_get_boolean(json_object_object_get(o, "serving_alone"));
    q.leg_age = number(o, "leg_age");
    q.expected_epoch = number(o, "expected_epoch");
    q.expected_tag = number(o, "expected_tag");
    q.over_older = json_object_get_boolean(json_object_object_get(o, "over_older"));
    text(o, "note", q.note, sizeof(q.note));
    text(o, "cause", cause, sizeof(cause));
    q.proposal = (struct decree) { .epoch = number(o, "epoch"), .tag = number(o, "tag"), .cause = cause_of(cause) };
    text(o, "primary", q.proposal.primary, sizeof(q.proposal.primary));
    struct json_object *members = json_object_object_get(o, "members");
    for (size_t i = 0; members && i < json_object_array_length(members) && i < DECREE_MEMBERS_MAX; i++) {
        struct decree_member *m = &q.proposal.members[q.proposal.member_count++];
        snprintf(m->node, sizeof(m->node), "%s", json_object_get_string(json_object_array_get_idx(members, i)));
        m->leg_id = id_of(i + 1);
    }
    return q;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: register_probe URL TIMEOUT_MS [CA [CERT KEY]]\n");
        return 2;
    }
    struct register_options options = { .url = argv[1],
                                        .timeout_ms = (unsigned)strtoul(argv[2], NULL, 10),
                                        .tls_ca = argc > 3 ? argv[3] : NULL,
                                        .tls_cert = argc > 4 ? argv[4] : NULL,
                                        .tls_key = argc > 5 ? argv[5] : NULL,
                                        .answered = answered };
    struct register_client *client;
    char error[256];
    if (register_open(&client, &options, error, sizeof(error))) {
        fprintf(stderr, "%s\n", error);
        return 2;
    }
    char *line CLEANUP_FREE = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        struct json_object *o = json_tokener_parse(line);
        uint64_t slot = o ? number(o, "slot") : REGISTER_SLOTS_MAX;
        if (slot < REGISTER_SLOTS_MAX) {
            struct register_request q = request_of(o);
            asked_ns[slot] = clock_ns();
            register_ask(client, (uint32_t)slot, &q);
        }
        json_object_put(o);
    }
    register_close(client);
    return 0;
}
