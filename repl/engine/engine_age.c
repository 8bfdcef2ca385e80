/* The age of a leg: a number that only grows, which others remember, so that a disk that was put back from an older
 * copy is told from one that has been here all the time (docs/METADATA.md, "Age").
 *
 * It grows when this node first meets its peer after an attachment, and then with time, as long as there are changes
 * and somebody to tell: who is on his own must not grow past what the peer remembers. It is on this leg's disk before
 * anybody is told. Whoever tells a lower age than was heard of it has gone back in time: it lacks what was written
 * since, and no bit says so. So its node marks it, and it is compared in full, as the target of the other leg. */
#include "repl/engine/engine_internal.h"

#define AGE_TICK_NS (60 * NS_PER_S)

static uint64_t tick_ns(const struct engine *e) { return e->config.age_tick_ns ? e->config.age_tick_ns : AGE_TICK_NS; }

#define AGE_MAX FRAME_EPOCH_MAX /* nobody gets there, but for who was told of it */

/* More than any leg grows between two of them: a minute each, it is 1,900 years. */
#define AGE_LEAP UINT64_C(1000000000)

static void raise_above(struct engine *e, uint64_t other, uint64_t by)
{
    uint64_t highest = max_u64(max_u64(e->sb.age, other), e->age.recorded);
    e->sb.age = min_u64(highest, AGE_MAX - by) + by;
    want_persisted(e);
}

void age_raise_above(struct engine *e, uint64_t other) { raise_above(e, other, 1); }

/* The register may have heard more of a leg that was here than the peer has, and this node may not hear of that before
 * all of it is overwritten and counts. What comes after the leap is told from its own copies as ever. */
void age_leap(struct engine *e) { raise_above(e, 0, AGE_LEAP); }

bool age_is_below_record(const struct engine *e) { return e->age.recorded > e->sb.age; }

static void went_back(struct engine *e, const char *who, struct actions *out)
{
    actions_note(
        out, NOTE_ERROR, "leg",
        "the disk of %s was put back from an older copy: %s knows of a later state of this leg (age %llu, where "
        "the disk has %llu). What was written since is missing on it: until it is compared in full with the leg "
        "of %s it is not promoted without --force",
        e->config.node, who, (unsigned long long)e->age.recorded, (unsigned long long)e->sb.age,
        e->config.peer ? e->config.peer : "its peer");
    e->sb.went_back = e->sb.differs = true;
    e->sb.pristine = false;
    age_raise_above(e, 0);
    log_count_all(e);
    session_drop(e, "the disk of this node was put back from an older copy", out);
}

void age_on_hello(struct engine *e, const struct hello *peer, const struct sync_judgement *j, struct actions *out)
{
    /* A copy from before the pairing does not know its volume. */
    bool same = j->own_went_back || (!id_is_none(e->sb.volume_id) && id_equal(e->sb.volume_id, peer->volume_id));
    if (same || j->verdict != SYNC_REFUSE)
        e->age.recorded = max_u64(e->age.recorded, peer->peer_age);
    if (j->verdict != SYNC_REFUSE) {
        e->sb.peer_age = max_u64(e->sb.peer_age, peer->age);
        e->age.told = e->said.age;
        if (!e->age.met) { /* on disk before a change can flow: a copy of before this session is known by it */
            e->age.met = true;
            age_raise_above(e, 0);
        }
    } else if (j->own_went_back && peer->peer_age > e->sb.age && !e->sb_broken) { /* else that is on its way */
        went_back(e, e->config.peer, out);
    }
}

void age_on_heard(struct engine *e, uint64_t age)
{
    if (e->session == SESSION_UP)
        e->sb.peer_age = max_u64(e->sb.peer_age, age);
}

/* Of a leg that is half made, or new, nothing counts yet: its age is raised above when it is whole. */
void age_on_register(struct engine *e, uint64_t age, struct actions *out)
{
    e->age.recorded = max_u64(e->age.recorded, age);
    if (age <= e->sb.age || e->sb.history.count == 0 || e->sb.leg == LEG_SYNCING || e->sb.went_back)
        return;
    if (!is_leading(e) && e->role.phase != PHASE_PROMOTING) {
        went_back(e, "the witness", out);
        return;
    }
    /* It has read the register before it began to serve, and no age is told that its disk does not have: this is
     * another machine's, which has taken this node's name. Who serves by the decree goes on. */
    if (!e->age.other_told)
        actions_note(
            out, NOTE_ERROR, "leg",
            "the witness has heard a higher age of the leg of %s (%llu) than it has (%llu), while it serves: is "
            "there a copy of this machine, under the same name? See that it is off",
            e->config.node, (unsigned long long)age, (unsigned long long)e->age.stable);
    e->age.other_told = true;
}

static bool rests(const struct engine *e)
{
    return !e->config.peer || e->sb_broken || e->leg_failed || e->role.phase == PHASE_DETACHING ||
           e->role.phase == PHASE_DETACHED;
}

static bool has_changed(struct engine *e)
{
    struct mirror_view mirror;
    mirror_view(e->mirror, &mirror);
    bool fills = e->sb.leg == LEG_SYNCING && e->session == SESSION_UP;
    bool changed = mirror.lsn != e->age.lsn || fills;
    e->age.lsn = mirror.lsn;
    return changed;
}

/* Somebody to tell: the deadline of who has none would only wake it. */
static bool is_heard(const struct engine *e)
{
    return e->session == SESSION_UP || (register_rules(e) && e->witness.state == REGISTER_STATE_REACHABLE);
}

/* Nobody waits for its record: see superblock_write_if_wanted(). */
static void tick(struct engine *e)
{
    e->age.at_ns = e->now_ns + tick_ns(e);
    bool older = has_changed(e) && is_heard(e) && e->sb.age < AGE_MAX && !age_is_below_record(e);
    e->sb.age += older;
    e->age.write |= older || e->sb.peer_age != e->age.peer_stable;
}

static bool has_to_look(const struct engine *e)
{
    bool unrecorded = e->sb.peer_age != e->age.peer_stable && persisted(e);
    return !rests(e) && (is_heard(e) || unrecorded);
}

void age_advance(struct engine *e, struct actions *out)
{
    struct engine_age *a = &e->age;
    if (!has_to_look(e))
        return;
    if (a->at_ns == 0)
        a->at_ns = e->now_ns + tick_ns(e);
    else if (e->now_ns >= a->at_ns)
        tick(e);
    if (e->session == SESSION_UP && a->stable > a->told) {
        a->told = a->stable;
        actions_add(out, ACT_SEND)->send.frame = (struct frame) { .kind = FRAME_HEARTBEAT, .epoch = a->stable };
    }
}

uint64_t age_deadline_ns(const struct engine *e) { return has_to_look(e) && e->age.at_ns ? e->age.at_ns : UINT64_MAX; }
