/* Control messages as plain values. */
#include "repl/node/control_codec.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "repl/node/printable.h"

const char *control_command_name(enum control_command c)
{
    switch (c) {
    case CONTROL_CREATE: return "create";
    case CONTROL_UP: return "up";
    case CONTROL_DOWN: return "down";
    case CONTROL_STATUS: return "status";
    case CONTROL_EVENTS: return "events";
    case CONTROL_PROMOTE: return "promote";
    case CONTROL_DEMOTE: return "demote";
    case CONTROL_VERIFY: return "verify";
    case CONTROL_RESIZE: return "resize";
    case CONTROL_RESOLVE: return "resolve";
    case CONTROL_SWITCHOVER: return "switchover";
    case CONTROL_ADOPT: return "witness adopt";
    case CONTROL_WITNESS_STATUS: return "witness status";
    case CONTROL_WITNESS_HISTORY: return "witness history";
    case CONTROL_WITNESS_CONFIRM: return "witness confirm";
    case CONTROL_WITNESS_FORGET: return "witness forget";
    }
    return "?";
}

static int take_volume(const char *volume, bool needed, struct control_request *out, struct err *err)
{
    size_t bytes = strlen(volume);
    if (bytes >= sizeof(out->volume))
        return err_set(err, -EINVAL, "a volume's name has at most %zu characters", sizeof(out->volume) - 1);
    if (bytes == 0 && needed)
        return err_set(err, -EINVAL, "%s needs the name of a volume", control_command_name(out->command));
    memcpy(out->volume, volume, bytes + 1);
    return 0;
}

/* Of the daemon's own directory nobody knows. */
static int take_keep(const char *keep, struct control_request *out, struct err *err)
{
    size_t bytes = strlen(keep);
    if (bytes >= sizeof(out->keep))
        return err_set(err, -EINVAL, "the name of the file to keep blocks in has at most %zu characters",
                       sizeof(out->keep) - 1);
    if (bytes > 0 && keep[0] != '/')
        return err_set(err, -EINVAL, "the file to keep blocks in must be named from the root on");
    memcpy(out->keep, keep, bytes + 1);
    return 0;
}

static int take_witness(const Lockstep__Control__WitnessOrder *order, struct control_request *out, struct err *err)
{
    switch (order->kind) {
    case LOCKSTEP__CONTROL__WITNESS_ORDER__KIND__STATUS:
        out->command = CONTROL_WITNESS_STATUS;
        return take_volume(order->volume, false, out, err);
    case LOCKSTEP__CONTROL__WITNESS_ORDER__KIND__HISTORY:
        out->command = CONTROL_WITNESS_HISTORY;
        return take_volume(order->volume, true, out, err);
    case LOCKSTEP__CONTROL__WITNESS_ORDER__KIND__CONFIRM:
        out->command = CONTROL_WITNESS_CONFIRM;
        return take_volume(order->volume, true, out, err);
    case LOCKSTEP__CONTROL__WITNESS_ORDER__KIND__FORGET:
        out->command = CONTROL_WITNESS_FORGET;
        out->force = order->force;
        return take_volume(order->volume, true, out, err);
    case _LOCKSTEP__CONTROL__WITNESS_ORDER__KIND_IS_INT_SIZE: break;
    }
    return err_set(err, -EINVAL, "this lockstepd does not know that command"); /* a newer command line's */
}

static int take(const Lockstep__Control__Request *r, struct control_request *out, struct err *err)
{
    switch (r->command_case) {
    case LOCKSTEP__CONTROL__REQUEST__COMMAND_CREATE:
        out->command = CONTROL_CREATE;
        out->adopt = r->create->adopt;
        out->force = r->create->force;
        return take_volume(r->create->volume, true, out, err);
    case LOCKSTEP__CONTROL__REQUEST__COMMAND_UP:
        out->command = CONTROL_UP;
        return take_volume(r->up->volume, true, out, err);
    case LOCKSTEP__CONTROL__REQUEST__COMMAND_DOWN:
        out->command = CONTROL_DOWN;
        out->force = r->down->force;
        return take_volume(r->down->volume, true, out, err);
    case LOCKSTEP__CONTROL__REQUEST__COMMAND_STATUS:
        out->command = CONTROL_STATUS;
        return take_volume(r->status->volume, false, out, err);
    case LOCKSTEP__CONTROL__REQUEST__COMMAND_EVENTS:
        out->command = CONTROL_EVENTS;
        out->follow = r->events->follow;
        return take_volume(r->events->volume, false, out, err);
    case LOCKSTEP__CONTROL__REQUEST__COMMAND_PROMOTE:
        out->command = CONTROL_PROMOTE;
        out->force = r->promote->force;
        return take_volume(r->promote->volume, true, out, err);
    case LOCKSTEP__CONTROL__REQUEST__COMMAND_DEMOTE:
        out->command = CONTROL_DEMOTE;
        out->force = r->demote->force;
        return take_volume(r->demote->volume, true, out, err);
    case LOCKSTEP__CONTROL__REQUEST__COMMAND_VERIFY:
        out->command = CONTROL_VERIFY;
        out->repair = r->verify->repair;
        return take_volume(r->verify->volume, true, out, err);
    case LOCKSTEP__CONTROL__REQUEST__COMMAND_RESIZE:
        out->command = CONTROL_RESIZE;
        return take_volume(r->resize->volume, true, out, err);
    case LOCKSTEP__CONTROL__REQUEST__COMMAND_RESOLVE:
        out->command = CONTROL_RESOLVE;
        out->force = r->resolve->force;
        if (take_keep(r->resolve->keep, out, err))
            return err->code;
        return take_volume(r->resolve->volume, true, out, err);
    case LOCKSTEP__CONTROL__REQUEST__COMMAND_SWITCHOVER:
        out->command = CONTROL_SWITCHOVER;
        return take_volume(r->switchover->volume, true, out, err);
    case LOCKSTEP__CONTROL__REQUEST__COMMAND_ADOPT:
        out->command = CONTROL_ADOPT;
        return take_volume(r->adopt->volume, true, out, err);
    case LOCKSTEP__CONTROL__REQUEST__COMMAND_WITNESS: return take_witness(r->witness, out, err);
    case LOCKSTEP__CONTROL__REQUEST__COMMAND__NOT_SET:
    case _LOCKSTEP__CONTROL__REQUEST__COMMAND__CASE_IS_INT_SIZE: break;
    }
    return err_set(err, -EINVAL, "this lockstepd does not know that command");
}

int control_request_decode(const uint8_t *bytes, size_t count, struct control_request *out, struct err *err)
{
    memset(out, 0, sizeof(*out));
    Lockstep__Control__Request *r = lockstep__control__request__unpack(NULL, count, bytes);
    if (!r)
        return err_set(err, -EPROTO, "that is no request");
    int rc;
    if (r->version != CONTROL_VERSION)
        rc = err_set(err, -EPROTONOSUPPORT,
                     "lockstep and lockstepd are of different versions: the control protocol is %u there, %u here",
                     r->version, CONTROL_VERSION);
    else
        rc = take(r, out, err);
    lockstep__control__request__free_unpacked(r, NULL);
    return rc;
}

static size_t pack(Lockstep__Control__Response *r, uint8_t *out)
{
    size_t bytes = control_pack(&r->base, out, CONTROL_FRAME_BYTES_MAX);
    assert(bytes > 0); /* all texts are bounded */
    return bytes;
}

size_t control_encode_result(uint8_t *out, enum control_exit code, const char *text)
{
    char shown[CONTROL_TEXT_BYTES];
    printable(shown, sizeof(shown), text, strlen(text));
    Lockstep__Control__Result result = LOCKSTEP__CONTROL__RESULT__INIT;
    result.exit_code = code;
    result.text = shown;
    Lockstep__Control__Response r = LOCKSTEP__CONTROL__RESPONSE__INIT;
    r.message_case = LOCKSTEP__CONTROL__RESPONSE__MESSAGE_RESULT;
    r.result = &result;
    return pack(&r, out);
}

size_t control_encode_progress(uint8_t *out, const char *text, uint64_t done, uint64_t total)
{
    char shown[CONTROL_TEXT_BYTES];
    printable(shown, sizeof(shown), text, strlen(text));
    Lockstep__Control__Progress progress = LOCKSTEP__CONTROL__PROGRESS__INIT;
    progress.text = shown;
    progress.done = done;
    progress.total = total;
    Lockstep__Control__Response r = LOCKSTEP__CONTROL__RESPONSE__INIT;
    r.message_case = LOCKSTEP__CONTROL__RESPONSE__MESSAGE_PROGRESS;
    r.progress = &progress;
    return pack(&r, out);
}

size_t control_encode_places(uint8_t *out, const struct verify_places *places)
{
    Lockstep__Control__Place list[VERIFY_PLACES_MAX];
    Lockstep__Control__Place *pointers[VERIFY_PLACES_MAX];
    for (unsigned i = 0; i < places->count; i++) {
        lockstep__control__place__init(&list[i]);
        list[i].offset_bytes = places->places[i].range.offset_bytes;
        list[i].length_bytes = places->places[i].range.length_bytes;
        list[i].what = (char *)places->places[i].what;
        pointers[i] = &list[i];
    }
    Lockstep__Control__Places found = LOCKSTEP__CONTROL__PLACES__INIT;
    found.total = places->total;
    found.n_place = places->count;
    found.place = pointers;
    Lockstep__Control__Response r = LOCKSTEP__CONTROL__RESPONSE__INIT;
    r.message_case = LOCKSTEP__CONTROL__RESPONSE__MESSAGE_PLACES;
    r.places = &found;
    return pack(&r, out);
}

size_t control_encode_node(uint8_t *out, const char *name, unsigned volumes)
{
    char shown[NAME_BYTES_MAX];
    snprintf(shown, sizeof(shown), "%s", name);
    Lockstep__Control__NodeStatus node = LOCKSTEP__CONTROL__NODE_STATUS__INIT;
    node.name = shown;
    node.volumes = volumes;
    Lockstep__Control__Response r = LOCKSTEP__CONTROL__RESPONSE__INIT;
    r.message_case = LOCKSTEP__CONTROL__RESPONSE__MESSAGE_NODE;
    r.node = &node;
    return pack(&r, out);
}

size_t control_encode_event(uint8_t *out, const struct event_record *record)
{
    struct event_record copy = *record; /* the generated structure has no const in it */
    Lockstep__Control__Event event = LOCKSTEP__CONTROL__EVENT__INIT;
    event.sequence = copy.sequence;
    event.time_us = copy.time_us;
    event.volume = copy.volume;
    event.level = (char *)note_level_name(copy.level);
    event.topic = copy.topic;
    event.text = copy.text;
    Lockstep__Control__Response r = LOCKSTEP__CONTROL__RESPONSE__INIT;
    r.message_case = LOCKSTEP__CONTROL__RESPONSE__MESSAGE_EVENT;
    r.event = &event;
    return pack(&r, out);
}

size_t control_encode_witness(uint8_t *out, const char *listen, const char *state, unsigned volumes,
                              unsigned connections)
{
    char address[CONFIG_ADDRESS_BYTES];
    char directory[CONFIG_PATH_BYTES];
    printable(address, sizeof(address), listen, strlen(listen));
    printable(directory, sizeof(directory), state, strlen(state));
    Lockstep__Control__WitnessStatus w = LOCKSTEP__CONTROL__WITNESS_STATUS__INIT;
    w.listen = address;
    w.state = directory;
    w.volumes = volumes;
    w.connections = connections;
    Lockstep__Control__Response r = LOCKSTEP__CONTROL__RESPONSE__INIT;
    r.message_case = LOCKSTEP__CONTROL__RESPONSE__MESSAGE_WITNESS;
    r.witness = &w;
    return pack(&r, out);
}

/* A decree with room for what it points to. */
struct packed_decree {
    struct decree copy;
    char *in_sync[DECREE_MEMBERS_MAX];
    Lockstep__Control__Decree message;
};

static Lockstep__Control__Decree *pack_decree(struct packed_decree *p, const struct decree *decree, uint64_t time_us)
{
    p->copy = *decree;
    lockstep__control__decree__init(&p->message);
    p->message.epoch = decree->epoch;
    p->message.tag = decree->tag;
    p->message.cause = (char *)decree_cause_name(decree->cause);
    p->message.primary = p->copy.primary;
    for (uint32_t i = 0; i < decree->member_count; i++)
        p->in_sync[i] = p->copy.members[i].node;
    p->message.n_in_sync = decree->member_count;
    p->message.in_sync = p->in_sync;
    p->message.time_us = time_us;
    return &p->message;
}

size_t control_encode_witness_volume(uint8_t *out, const struct witness_volume *volume)
{
    struct witness_volume v = *volume;
    struct packed_decree decree;
    Lockstep__Control__Told told[ARRAY_LEN(v.told)];
    Lockstep__Control__Told *pointers[ARRAY_LEN(v.told)];
    Lockstep__Control__Age ages[ARRAY_LEN(v.ages)];
    Lockstep__Control__Age *age_pointers[ARRAY_LEN(v.ages)];
    Lockstep__Control__WitnessVolume m = LOCKSTEP__CONTROL__WITNESS_VOLUME__INIT;
    m.name = v.name;
    m.decree = decree_is_none(&v.decree) ? NULL : pack_decree(&decree, &v.decree, v.since_us);
    m.confirmed = v.confirmed;
    m.highest_told = v.highest_told;
    for (unsigned i = 0; i < v.told_count; i++) {
        lockstep__control__told__init(&told[i]);
        told[i].node = v.told[i].node;
        told[i].epoch = v.told[i].epoch;
        pointers[i] = &told[i];
    }
    m.n_told = v.told_count;
    m.told = pointers;
    for (unsigned i = 0; i < v.age_count; i++) {
        lockstep__control__age__init(&ages[i]);
        ages[i].node = v.ages[i].node;
        ages[i].age = v.ages[i].age;
        age_pointers[i] = &ages[i];
    }
    m.n_leg_age = v.age_count;
    m.leg_age = age_pointers;
    Lockstep__Control__Response r = LOCKSTEP__CONTROL__RESPONSE__INIT;
    r.message_case = LOCKSTEP__CONTROL__RESPONSE__MESSAGE_WITNESS_VOLUME;
    r.witness_volume = &m;
    return pack(&r, out);
}

size_t control_encode_decree(uint8_t *out, const struct witness_entry *entry)
{
    struct witness_entry e = *entry;
    char note[REGISTER_REASON_BYTES];
    printable(note, sizeof(note), e.note, strlen(e.note));
    struct packed_decree decree;
    Lockstep__Control__Decree *m = pack_decree(&decree, &e.decree, e.time_us);
    m->asker = e.asker;
    m->note = note;
    Lockstep__Control__Response r = LOCKSTEP__CONTROL__RESPONSE__INIT;
    r.message_case = LOCKSTEP__CONTROL__RESPONSE__MESSAGE_DECREE;
    r.decree = m;
    return pack(&r, out);
}

static void pack_side(Lockstep__Control__ApartSide *m, const struct volume_apart_side *side)
{
    lockstep__control__apart_side__init(m);
    m->epoch = side->epoch;
    m->first_lsn = side->first_lsn;
    m->lsn = side->lsn;
    m->since_us = side->since_us;
    m->changed_known = side->changed_known;
    m->changed_bytes = side->changed_bytes;
}

/* The message's texts are `w`'s, but for the reason. */
static void fill_witness(struct volume_witness *w, Lockstep__Control__Witness *m, char reason[REGISTER_REASON_BYTES],
                         char *in_sync[DECREE_MEMBERS_MAX])
{
    printable(reason, REGISTER_REASON_BYTES, w->reason, strlen(w->reason));
    m->state = (char *)register_state_name(w->state);
    m->reason = reason;
    if (w->swap_under_way) {
        m->asks_for = (char *)decree_cause_name(w->swap_cause);
        m->asks_since_us = w->swap_since_us;
    }
    if (decree_is_none(&w->decree))
        return;
    m->epoch = w->decree.epoch;
    m->primary = w->decree.primary;
    m->cause = (char *)decree_cause_name(w->decree.cause);
    for (uint32_t i = 0; i < w->decree.member_count && i < DECREE_MEMBERS_MAX; i++)
        in_sync[m->n_in_sync++] = w->decree.members[i].node;
    m->in_sync = in_sync;
}

size_t control_encode_volume(uint8_t *out, const struct volume_config *config, const char *state, const char *why_not,
                             const struct volume_status *status)
{
    struct volume_config c = *config;
    struct volume_status s = { 0 };
    if (status)
        s = *status;
    char device[CONFIG_ADDRESS_BYTES + 8];
    snprintf(device, sizeof(device), "nbd:%s", config_self(&c)->device);
    char why[CONTROL_TEXT_BYTES];
    const char *raw_why = status ? s.why_not : why_not;
    printable(why, sizeof(why), raw_why, strlen(raw_why));
    char backing[CONFIG_PATH_BYTES];
    printable(backing, sizeof(backing), config_self(&c)->backing, strlen(config_self(&c)->backing));

    Lockstep__Control__VolumeStatus v = LOCKSTEP__CONTROL__VOLUME_STATUS__INIT;
    v.name = c.volume;
    v.state = (char *)state;
    v.protected_ = status && s.is_protected;
    v.why_not = why;
    v.device = device;
    v.backing = backing;
    v.failover = (char *)failover_name(c.failover_automatic);
    v.when_alone = (char *)(config_peer(&c) ? when_alone_name(c.when_alone) : "");
    if (status) {
        v.role = (char *)role_name(s.role);
        v.leg = (char *)leg_state_name(s.leg);
        v.epoch = s.epoch;
        v.lsn = s.lsn;
        v.size_bytes = s.size_bytes;
        v.serving = s.serving;
        v.writes_waiting = s.writes_waiting;
        v.oldest_waiting_us = s.oldest_waiting_us;
    }

    Lockstep__Control__Consistent consistent = LOCKSTEP__CONTROL__CONSISTENT__INIT;
    if (s.consistent_epoch) {
        consistent.epoch = s.consistent_epoch;
        consistent.lsn = s.consistent_lsn;
        v.consistent = &consistent;
    }
    Lockstep__Control__Alone alone = LOCKSTEP__CONTROL__ALONE__INIT;
    if (s.alone_epoch) {
        alone.epoch = s.alone_epoch;
        alone.since_us = s.alone_since_us;
        v.alone = &alone;
    }
    Lockstep__Control__Diskless diskless = LOCKSTEP__CONTROL__DISKLESS__INIT;
    if (s.diskless_epoch) {
        diskless.epoch = s.diskless_epoch;
        diskless.since_us = s.diskless_since_us;
        v.diskless = &diskless;
    }
    Lockstep__Control__Held held = LOCKSTEP__CONTROL__HELD__INIT;
    if (s.held_clients) {
        held.clients = s.held_clients;
        held.requests = s.held_requests;
        held.since_us = s.held_since_us;
        v.held = &held;
    }
    Lockstep__Control__Apart apart = LOCKSTEP__CONTROL__APART__INIT;
    Lockstep__Control__ApartSide apart_own, apart_peer;
    if (s.apart.rule[0]) {
        pack_side(&apart_own, &s.apart.own);
        pack_side(&apart_peer, &s.apart.peer);
        apart.rule = s.apart.rule;
        apart.common_epoch = s.apart.common_epoch;
        apart.differ_bytes_max = s.apart.differ_bytes_max;
        apart.own = &apart_own;
        apart.peer = &apart_peer;
        v.apart = &apart;
    }
    Lockstep__Control__Growth growth = LOCKSTEP__CONTROL__GROWTH__INIT;
    if (s.growth.active) {
        growth.done_bytes = s.growth.done_bytes;
        growth.total_bytes = s.growth.total_bytes;
        growth.waits_for_peer = s.growth.waits_for_peer;
        v.growth = &growth;
    }
    Lockstep__Control__Resync resync = LOCKSTEP__CONTROL__RESYNC__INIT;
    Lockstep__Control__Peer peer = LOCKSTEP__CONTROL__PEER__INIT;
    char reason[STATUS_TEXT_BYTES];
    printable(reason, sizeof(reason), s.link_reason, strlen(s.link_reason));
    const struct config_node *other = config_peer(&c);
    if (other) {
        peer.name = (char *)other->name;
        peer.link = (char *)link_state_name(s.link);
        peer.reason = reason;
        peer.transport = s.transport;
        peer.path = status && s.path < other->path_count ? (char *)other->paths[s.path] : (char *)"";
        peer.rtt_us = s.rtt_us;
        peer.leg = (char *)leg_state_name(s.peer_leg);
        peer.out_of_sync_bytes = s.out_of_sync_bytes;
        if (s.resync.active) {
            resync.to_peer = s.resync.is_source;
            resync.done_bytes = s.resync.done_bytes;
            resync.total_bytes = s.resync.total_bytes;
            resync.rate_bytes_per_s = s.resync.rate_bytes_per_s;
            resync.equal_bytes = s.resync.equal_bytes;
            resync.sent_bytes = s.resync.sent_bytes;
            resync.zero_bytes = s.resync.zero_bytes;
            peer.resync = &resync;
        }
        v.peer = &peer;
    }
    Lockstep__Control__Verified verified = LOCKSTEP__CONTROL__VERIFIED__INIT;
    if (status && other) {
        verified.at_us = s.verified_at_us;
        verified.found_bytes = s.verified_found_bytes;
        verified.next_us = s.verify_next_us;
        verified.done_bytes = s.verify_done_bytes;
        verified.total_bytes = s.verify_total_bytes;
        v.verified = &verified;
    }
    Lockstep__Control__Witness witness = LOCKSTEP__CONTROL__WITNESS__INIT;
    char said[REGISTER_REASON_BYTES];
    char *in_sync[DECREE_MEMBERS_MAX];
    if (s.has_witness) {
        fill_witness(&s.witness, &witness, said, in_sync);
        v.witness = &witness;
    }
    Lockstep__Control__Response r = LOCKSTEP__CONTROL__RESPONSE__INIT;
    r.message_case = LOCKSTEP__CONTROL__RESPONSE__MESSAGE_VOLUME;
    r.volume = &v;
    return pack(&r, out);
}
