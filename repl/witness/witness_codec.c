/* The messages between a node and the embedded witness as plain values. */
#include "repl/witness/witness_codec.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "repl/witness/register_table.h"

bool decree_cause_from_name(const char *name, enum decree_cause *out)
{
    for (enum decree_cause c = DECREE_FIRST; c <= DECREE_ADOPT; c++) {
        if (strcmp(decree_cause_name(c), name) == 0) {
            *out = c;
            return true;
        }
    }
    return false;
}

bool witness_name_is_valid(const char *name)
{
    size_t bytes = strlen(name);
    if (bytes == 0 || bytes >= NAME_BYTES_MAX)
        return false;
    for (size_t i = 0; i < bytes; i++) {
        bool word = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= 'A' && name[i] <= 'Z') ||
                    (name[i] >= '0' && name[i] <= '9');
        if (!word && !strchr("._-", name[i]))
            return false;
    }
    return true;
}

/* ---- what arrives ---- */

static int wrong(const char **why, const char *text)
{
    *why = text;
    return -EPROTO;
}

static bool take_name(const char *name, bool may_be_empty, char out[static NAME_BYTES_MAX])
{
    if (!witness_name_is_valid(name) && !(may_be_empty && !*name))
        return false;
    memcpy(out, name, strlen(name) + 1);
    return true;
}

/* For people: what would spoil a line becomes '?'. */
static bool take_text(const char *text, char out[static REGISTER_REASON_BYTES])
{
    size_t bytes = strlen(text);
    if (bytes >= REGISTER_REASON_BYTES)
        return false;
    for (size_t i = 0; i <= bytes; i++)
        out[i] = ((unsigned char)text[i] < ' ' && text[i]) || text[i] == 0x7f ? '?' : text[i];
    return true;
}

static bool take_id(ProtobufCBinaryData field, struct id *out)
{
    if (field.len == 0)
        return true;
    if (field.len != sizeof(out->bytes))
        return false;
    memcpy(out->bytes, field.data, sizeof(out->bytes));
    return true;
}

static int take_decree(const Lockstep__Witness__Decree *m, struct decree *out, const char **why)
{
    out->epoch = m->epoch;
    out->tag = m->tag;
    if (!decree_cause_from_name(m->cause, &out->cause))
        return wrong(why, "a decree with a cause that is unknown here");
    if (!take_name(m->primary, true, out->primary))
        return wrong(why, "a decree whose primary has no proper name");
    if (m->n_member > DECREE_MEMBERS_MAX)
        return wrong(why, "a decree with too many members");
    for (size_t i = 0; i < m->n_member; i++)
        if (!take_name(m->member[i]->node, false, out->members[i].node) ||
            !take_id(m->member[i]->leg_id, &out->members[i].leg_id))
            return wrong(why, "a decree with a member that has no proper name or leg");
    out->member_count = (uint32_t)m->n_member;
    return 0;
}

static int take_question(const Lockstep__Witness__Question *m, struct register_request *out, const char **why)
{
    if (!take_name(m->volume, false, out->volume) || !take_name(m->node, false, out->node) ||
        !take_name(m->peer, true, out->peer))
        return wrong(why, "a volume, node or peer without a proper name");
    if (!take_id(m->volume_id, &out->volume_id))
        return wrong(why, "a volume's identity that does not have 16 bytes");
    out->known_epoch = m->known_epoch;
    out->serving_alone = m->serving_alone;
    out->tries = m->tries;
    out->leg_age = m->leg_age;
    out->ask = REGISTER_READ;
    const Lockstep__Witness__Swap *s = m->swap;
    if (!s)
        return 0;
    out->ask = REGISTER_SWAP;
    out->expected_epoch = s->expected_epoch;
    out->expected_tag = s->expected_tag;
    out->over_older = s->over_older;
    if (!take_text(s->note, out->note))
        return wrong(why, "a note that is too long");
    return s->proposal ? take_decree(s->proposal, &out->proposal, why) : wrong(why, "a swap that proposes nothing");
}

int witness_question_decode(const uint8_t *bytes, size_t count, uint64_t *number, struct register_request *out,
                            const char **why)
{
    memset(out, 0, sizeof(*out));
    *number = 0;
    Lockstep__Witness__Question *m = lockstep__witness__question__unpack(NULL, count, bytes);
    if (!m)
        return wrong(why, "what is no question");
    *number = m->number;
    int rc;
    if (m->version != WITNESS_VERSION) {
        *why = "a question of another version of the protocol";
        rc = -EPROTONOSUPPORT;
    } else {
        rc = take_question(m, out, why);
    }
    lockstep__witness__question__free_unpacked(m, NULL);
    return rc;
}

static bool take_outcome(Lockstep__Witness__Outcome field, enum register_outcome *out)
{
    switch (field) {
    case LOCKSTEP__WITNESS__OUTCOME__STANDS: *out = REGISTER_STANDS; return true;
    case LOCKSTEP__WITNESS__OUTCOME__DONE: *out = REGISTER_DONE; return true;
    case LOCKSTEP__WITNESS__OUTCOME__LOST: *out = REGISTER_LOST; return true;
    case LOCKSTEP__WITNESS__OUTCOME__UNREACHABLE: *out = REGISTER_UNREACHABLE; return true;
    case LOCKSTEP__WITNESS__OUTCOME__UNCONFIRMED: *out = REGISTER_UNCONFIRMED; return true;
    case LOCKSTEP__WITNESS__OUTCOME__OLDER: *out = REGISTER_OLDER; return true;
    case LOCKSTEP__WITNESS__OUTCOME__REFUSED: *out = REGISTER_REFUSED; return true;
    case LOCKSTEP__WITNESS__OUTCOME__NO_OUTCOME:
    case _LOCKSTEP__WITNESS__OUTCOME_IS_INT_SIZE: break;
    }
    return false;
}

static bool decree_makes_sense(const struct decree *d)
{
    if (d->epoch == 0 || d->epoch > REGISTER_EPOCH_MAX || d->tag == 0 || d->member_count == 0)
        return false;
    for (uint32_t i = 0; i < d->member_count; i++)
        if (id_is_none(d->members[i].leg_id))
            return false;
    return true;
}

static int take_answer(const Lockstep__Witness__Answer *m, struct register_answer *out, const char **why)
{
    if (!take_outcome(m->outcome, &out->outcome))
        return wrong(why, "an answer that is unknown here");
    if (!take_text(m->reason, out->reason))
        return wrong(why, "a reason that is too long");
    if (m->leg_age > REGISTER_AGE_MAX)
        return wrong(why, "a leg's age that is out of range");
    out->leg_age = m->leg_age;
    int rc = m->decree ? take_decree(m->decree, &out->decree, why) : 0;
    if (rc)
        return rc;
    if (m->decree && !decree_makes_sense(&out->decree))
        return wrong(why, "a decree that cannot be");
    bool needs_decree = out->outcome == REGISTER_DONE || out->outcome == REGISTER_LOST;
    return needs_decree && !m->decree ? wrong(why, "an answer without its decree") : 0;
}

int witness_answer_decode(const uint8_t *bytes, size_t count, uint64_t *number, struct register_answer *out,
                          const char **why)
{
    memset(out, 0, sizeof(*out));
    *number = 0;
    Lockstep__Witness__Answer *m = lockstep__witness__answer__unpack(NULL, count, bytes);
    if (!m)
        return wrong(why, "what is no answer");
    *number = m->number;
    int rc;
    if (m->version != WITNESS_VERSION) {
        *why = "an answer of another version of the protocol";
        rc = -EPROTONOSUPPORT;
    } else {
        rc = take_answer(m, out, why);
    }
    lockstep__witness__answer__free_unpacked(m, NULL);
    return rc;
}

/* ---- what leaves ---- */

/* A decree with room for what it points to; the generated structures have no const in them. */
struct packed_decree {
    struct decree copy;
    Lockstep__Witness__Decree message;
    Lockstep__Witness__Member members[DECREE_MEMBERS_MAX];
    Lockstep__Witness__Member *pointers[DECREE_MEMBERS_MAX];
};

static ProtobufCBinaryData id_field(struct id *id)
{
    return (ProtobufCBinaryData) { .len = id_is_none(*id) ? 0 : sizeof(id->bytes), .data = id->bytes };
}

static Lockstep__Witness__Decree *pack_decree(struct packed_decree *p, const struct decree *d)
{
    p->copy = *d;
    lockstep__witness__decree__init(&p->message);
    p->message.epoch = d->epoch;
    p->message.tag = d->tag;
    p->message.cause = (char *)decree_cause_name(d->cause);
    p->message.primary = p->copy.primary;
    for (uint32_t i = 0; i < d->member_count; i++) {
        lockstep__witness__member__init(&p->members[i]);
        p->members[i].node = p->copy.members[i].node;
        p->members[i].leg_id = id_field(&p->copy.members[i].leg_id);
        p->pointers[i] = &p->members[i];
    }
    p->message.n_member = d->member_count;
    p->message.member = p->pointers;
    return &p->message;
}

static size_t pack(const ProtobufCMessage *message, uint8_t *out)
{
    size_t bytes = witness_pack(message, out);
    assert(bytes > 0); /* all texts are bounded */
    return bytes;
}

size_t witness_question_encode(uint8_t *out, uint64_t number, const struct register_request *request)
{
    struct register_request q = *request;
    struct packed_decree decree;
    Lockstep__Witness__Question m = LOCKSTEP__WITNESS__QUESTION__INIT;
    Lockstep__Witness__Swap swap = LOCKSTEP__WITNESS__SWAP__INIT;
    m.version = WITNESS_VERSION;
    m.number = number;
    m.volume = q.volume;
    m.volume_id = id_field(&q.volume_id);
    m.node = q.node;
    m.peer = q.peer;
    m.known_epoch = q.known_epoch;
    m.serving_alone = q.serving_alone;
    m.tries = q.tries;
    m.leg_age = q.leg_age;
    if (q.ask == REGISTER_SWAP) {
        swap.expected_epoch = q.expected_epoch;
        swap.expected_tag = q.expected_tag;
        swap.over_older = q.over_older;
        swap.note = q.note;
        swap.proposal = pack_decree(&decree, &q.proposal);
        m.swap = &swap;
    }
    return pack(&m.base, out);
}

static Lockstep__Witness__Outcome outcome_field(enum register_outcome outcome)
{
    switch (outcome) {
    case REGISTER_STANDS: return LOCKSTEP__WITNESS__OUTCOME__STANDS;
    case REGISTER_DONE: return LOCKSTEP__WITNESS__OUTCOME__DONE;
    case REGISTER_LOST: return LOCKSTEP__WITNESS__OUTCOME__LOST;
    case REGISTER_UNREACHABLE: return LOCKSTEP__WITNESS__OUTCOME__UNREACHABLE;
    case REGISTER_UNCONFIRMED: return LOCKSTEP__WITNESS__OUTCOME__UNCONFIRMED;
    case REGISTER_OLDER: return LOCKSTEP__WITNESS__OUTCOME__OLDER;
    case REGISTER_REFUSED: return LOCKSTEP__WITNESS__OUTCOME__REFUSED;
    }
    return LOCKSTEP__WITNESS__OUTCOME__NO_OUTCOME;
}

size_t witness_answer_encode(uint8_t *out, uint64_t number, const struct register_answer *answer)
{
    struct register_answer a = *answer;
    struct packed_decree decree;
    Lockstep__Witness__Answer m = LOCKSTEP__WITNESS__ANSWER__INIT;
    m.version = WITNESS_VERSION;
    m.number = number;
    m.outcome = outcome_field(a.outcome);
    m.reason = a.reason;
    m.leg_age = a.leg_age;
    if (!decree_is_none(&a.decree))
        m.decree = pack_decree(&decree, &a.decree);
    return pack(&m.base, out);
}
