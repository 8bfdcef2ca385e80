/* A person gives up what this leg has and the peer's has not: `resolve --discard local` (docs/RECOVERY.md, "Split
 * brain").
 *
 * First the blocks that this leg has changed since both were the same are read and kept in a file, on stable storage.
 * Then, as the peer is heard once more and still is what it was, one record: this leg is half made, with the history
 * that both have in common, and all that it has changed out of sync. So the next handshake makes it the target. Before
 * that record nothing is given up, and after it nothing is left to be done that a handshake would not do. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "repl/engine/engine_internal.h"

#define SEEN_NS (15 * NS_PER_S)   /* the peer said hello no longer ago than that: refused nodes try again every 5 s */
#define LISTEN_NS (30 * NS_PER_S) /* for how long it is waited for when all is kept */

static const struct history_entry no_entry;

bool resolve_is_idle(const struct engine *e) { return e->resolve.phase == RESOLVE_IDLE; }

/* ---- what is known of the two ---- */

static struct history_entry last_common(const struct hello *a, const struct hello *b)
{
    int at = history_last_common(&a->history, &b->history);
    return at < 0 ? no_entry : a->history.entries[at];
}

static struct history_entry first_of_its_own(const struct hello *a, const struct hello *b)
{
    int at = history_last_common(&a->history, &b->history);
    return at + 1 < (int)a->history.count ? a->history.entries[at + 1] : no_entry;
}

static struct engine_apart_side side_of(const struct hello *a, const struct hello *b, uint64_t heard_ns)
{
    struct history_entry first = first_of_its_own(a, b);
    const struct history_entry *last = history_last(&a->history);
    bool is_latest = last && history_entry_equal(*last, first);
    uint64_t ago_ns = a->alone_s <= heard_ns / NS_PER_S ? a->alone_s * NS_PER_S : 0;
    bool known = sync_bits_tell_apart(a, b);
    return (struct engine_apart_side) {
        .epoch = first.epoch,
        .first_lsn = first.first_lsn,
        .lsn = a->lsn,
        .since_ns = is_latest && ago_ns ? heard_ns - ago_ns : 0,
        .changed_known = known,
        .changed_bytes = known ? min_u64(a->dirty_bytes, a->size_bytes) : a->size_bytes,
    };
}

struct engine_apart resolve_apart_view(const struct engine *e)
{
    const struct hello *own = &e->said, *peer = &e->apart.peer;
    if (!e->apart.known)
        return (struct engine_apart) { 0 };
    struct engine_apart a = {
        .rule = e->apart.rule,
        .common_epoch = last_common(own, peer).epoch,
        .own = side_of(own, peer, e->apart.heard_ns),
        .peer = side_of(peer, own, e->apart.heard_ns),
    };
    uint64_t size = max_u64(own->size_bytes, peer->size_bytes);
    a.differ_bytes_max =
        a.own.changed_known && a.peer.changed_known ? min_u64(size, a.own.changed_bytes + a.peer.changed_bytes) : size;
    return a;
}

struct engine_resolve_view resolve_view(const struct engine *e)
{
    const struct engine_resolve *r = &e->resolve;
    return (struct engine_resolve_view) { .active = r->phase != RESOLVE_IDLE,
                                          .done_bytes = r->kept_bytes,
                                          .total_bytes = r->info.bytes_max };
}

/* ---- the way ---- */

static void answer(struct engine *e, int32_t result, const char *text, struct actions *out)
{
    struct engine_resolve *r = &e->resolve;
    assert(!r->disk_busy && !r->keep_busy);
    if (r->buf)
        buf_put(r->buf);
    void *cookie = r->cookie;
    *r = (struct engine_resolve) { .phase = RESOLVE_IDLE };
    order_answer(cookie, result, text, out);
}

static struct action *keep(struct engine *e, enum keep_step step, struct actions *out)
{
    assert(!e->resolve.keep_busy);
    e->resolve.keep_busy = true;
    e->resolve.step = step;
    struct action *a = actions_add(out, ACT_KEEP);
    a->keep.step = step;
    return a;
}

/* As soon as nothing of it is under way. Not what has happened: its record is on its way. */
static void abandon(struct engine *e, int32_t result, const char *text)
{
    struct engine_resolve *r = &e->resolve;
    if (r->phase == RESOLVE_IDLE || r->phase == RESOLVE_RECORDING || r->phase == RESOLVE_DROPPING)
        return;
    snprintf(r->why, sizeof(r->why), "nothing was given up: %s", text);
    r->result = result;
    r->phase = RESOLVE_DROPPING;
}

static void drop(struct engine *e, struct actions *out)
{
    struct engine_resolve *r = &e->resolve;
    if (r->disk_busy || r->keep_busy)
        return;
    if (r->file) {
        r->file = false;
        keep(e, KEEP_DROP, out);
        return;
    }
    answer(e, r->result, actions_text(out, "%s", r->why), out);
}

/* As much as may differ: what the peer has lost, and what it was promoted by force without, this leg may have, and its
 * own bits do not say so. The peer's may: they are not known here, and go to nobody before this leg is given up. */
static bool is_everything(const struct hello *own, const struct hello *peer)
{
    bool went_back = own->age < peer->peer_age || peer->age < own->peer_age; /* no bits tell of that */
    return !sync_bits_tell_apart(own, peer) || !sync_bits_tell_apart(peer, own) || peer->lost_power || went_back;
}

static struct keep_info info_of(struct engine *e)
{
    struct hello now;
    engine_make_hello(e, &now);
    const struct hello *own = &now, *peer = &e->apart.peer;
    struct keep_info i = {
        .volume_id = e->sb.volume_id,
        .leg_id = e->sb.leg_id,
        .size_bytes = e->sb.size_bytes,
        .epoch = e->sb.epoch,
        .lsn = own->lsn,
        .common = last_common(own, peer),
        .first = first_of_its_own(own, peer),
        .everything = is_everything(own, peer),
    };
    i.bytes_max = i.everything ? i.size_bytes : min_u64(bitmap_dirty_bytes(e->bitmap), i.size_bytes);
    snprintf(i.volume, sizeof(i.volume), "%s", e->config.volume);
    snprintf(i.node, sizeof(i.node), "%s", e->config.node);
    snprintf(i.peer, sizeof(i.peer), "%s", e->config.peer);
    return i;
}

static bool requests_are_over(const struct engine *e) { return mirror_is_idle(e->mirror) && sync_is_idle(e); }

static void listen(struct engine *e)
{
    e->resolve.phase = RESOLVE_LISTENING;
    e->resolve.until_ns = e->now_ns + LISTEN_NS;
}

/* Of what the witness was last heard to have. */
static bool is_in_set(const struct engine *e)
{
    return register_rules(e) && decree_has_member(&e->witness.decree, e->sb.leg_id);
}

/* Why the order is refused; NULL: it is not. */
static const char *obstacle(struct engine *e, int32_t *result, struct actions *out)
{
    const char *peer = e->config.peer;
    *result = -EPERM;
    if (!peer)
        return "the volume has a single node: there is nothing to resolve";
    if (is_leading(e))
        return actions_text(out,
                            "%s is primary: what is written meanwhile would be given up, too (promise 9). Demote it "
                            "first, if it is this node's changes that are to be given up; else order it on %s",
                            e->config.node, peer);
    if (own_leg(e) == LEG_FAILED || e->sb_broken)
        return "its leg has failed: mend its disk first, or make the leg anew with `lockstep create --force`";
    *result = -EBUSY;
    if (e->role.phase != PHASE_SECONDARY || e->promotion_count > 0)
        return "its role is just changing; try again in a moment";
    if (e->resolve.phase != RESOLVE_IDLE)
        return "that is under way already";
    if (e->witness.promote || e->witness.swap != SWAP_NOT || (register_rules(e) && swaps_may_be_granted(e)))
        return "it has asked the witness to let it serve, and waits for the answer; try again when it has one";
    *result = -EPERM;
    if (e->session == SESSION_UP || e->session == SESSION_JUDGED || e->session == SESSION_READY)
        return actions_text(out, "there is no split brain: it is connected to %s, and they agree", peer);
    if (!e->apart.known && e->refused[0])
        return actions_text(out, "it is not for this that the two do not go on: %s", e->refused);
    *result = -ENOTCONN;
    if (!e->apart.known)
        return actions_text(out, "no split brain is known here: %s has not been heard of", peer);
    if (e->now_ns - e->apart.heard_ns > SEEN_NS)
        return actions_text(out,
                            "%s was heard of last %llu s ago: it has to be there, as its leg is what will be left of "
                            "the volume",
                            peer, (unsigned long long)((e->now_ns - e->apart.heard_ns) / NS_PER_S));
    *result = -EPERM;
    if (e->apart.peer.leg != LEG_UP_TO_DATE)
        return actions_text(out, "the leg of %s is %s: it cannot be what is left of the volume", peer,
                            leg_state_name(e->apart.peer.leg));
    if (is_in_set(e) && !decree_has_member(&e->witness.decree, e->apart.peer.leg_id))
        return actions_text(out,
                            "this leg is in the in-sync set that the witness has, and the one of %s is not: nobody "
                            "could serve. `lockstep promote %s --force` on %s first, which says what may be lost",
                            peer, e->config.volume, peer);
    *result = -EBUSY;
    if (!requests_are_over(e))
        return "requests of before are still with the disk; try again in a moment";
    return NULL;
}

void resolve_order(struct engine *e, bool force, void *cookie, struct actions *out)
{
    struct engine_resolve *r = &e->resolve;
    int32_t result;
    const char *text = obstacle(e, &result, out);
    if (text) {
        order_answer(cookie, result, text, out);
        return;
    }
    *r = (struct engine_resolve) { .phase = RESOLVE_OPENING, .force = force, .cookie = cookie, .info = info_of(e) };
    actions_note(out, NOTE_WARNING, "leg",
                 "what %s has and %s has not is to be given up, as ordered: %s%llu bytes are kept in a file first",
                 e->config.node, e->config.peer, r->info.everything ? "up to " : "",
                 (unsigned long long)r->info.bytes_max);
    if (r->info.bytes_max == 0) {
        listen(e);
        return;
    }
    r->buf = buf_get(e->config.pool, IO_BYTES_MAX, e->config.pool_keep_free_bytes);
    if (!r->buf) {
        answer(e, -ENOMEM, "no buffer is free; try again", out);
        return;
    }
    struct action *a = keep(e, KEEP_BEGIN, out);
    a->keep.cookie = cookie;
    a->keep.info = &r->info;
}

/* The next range that is to be kept, no longer than the buffer has room for. */
static bool next_range(const struct engine *e, struct range *out)
{
    const struct engine_resolve *r = &e->resolve;
    /* After an error, granule by granule: one bad sector takes no neighbour along. */
    uint64_t granule = bitmap_granule_bytes(e->bitmap);
    uint64_t max = r->cursor_bytes < r->singly_until_bytes ? granule : IO_BYTES_MAX - r->buf_used_bytes;
    if (!r->info.everything)
        return bitmap_next(e->bitmap, r->cursor_bytes, max, out);
    *out = (struct range) { r->cursor_bytes, min_u64(max, r->info.size_bytes - r->cursor_bytes) };
    return out->length_bytes > 0;
}

static void write_pieces(struct engine *e, struct actions *out)
{
    struct engine_resolve *r = &e->resolve;
    struct action *a = keep(e, KEEP_DATA, out);
    a->keep.pieces = r->pieces;
    a->keep.count = r->piece_count;
    a->keep.buf = r->buf;
}

/* Fills the buffer, range by range; has it written when it is full, and after the last one. */
static void read_on(struct engine *e, struct actions *out)
{
    struct engine_resolve *r = &e->resolve;
    uint64_t granule = bitmap_granule_bytes(e->bitmap);
    bool full = r->piece_count == KEEP_PIECES_MAX || r->buf_used_bytes + granule > IO_BYTES_MAX;
    if (r->disk_busy || r->keep_busy)
        return;
    if (!full && next_range(e, &r->reading)) {
        r->disk_busy = true;
        struct action *a = actions_add(out, ACT_DISK);
        a->disk.op = OP_KEEP;
        a->disk.kind = OP_READ;
        a->disk.offset_bytes = r->reading.offset_bytes;
        a->disk.length_bytes = r->reading.length_bytes;
        a->disk.buf = r->buf;
        a->disk.buf_offset_bytes = r->buf_used_bytes;
        return;
    }
    if (r->piece_count > 0) {
        write_pieces(e, out);
        return;
    }
    r->phase = RESOLVE_CLOSING;
    keep(e, KEEP_END, out);
}

void resolve_on_disk_done(struct engine *e, int32_t result)
{
    struct engine_resolve *r = &e->resolve;
    assert(r->disk_busy);
    r->disk_busy = false;
    if (r->phase != RESOLVE_READING)
        return;
    uint64_t granule = bitmap_granule_bytes(e->bitmap);
    if (result && r->reading.length_bytes > granule) {
        r->singly_until_bytes = range_end(r->reading);
        return;
    }
    r->pieces[r->piece_count++] = (struct keep_piece) {
        .range = r->reading,
        .buf_offset_bytes = r->buf_used_bytes,
        .kind = result ? KEEP_KIND_UNREADABLE : KEEP_KIND_DATA,
    };
    r->cursor_bytes = range_end(r->reading);
    if (result) {
        if (r->unreadable_bytes == 0)
            r->unreadable_at_bytes = r->reading.offset_bytes;
        r->unreadable_bytes += r->reading.length_bytes;
        return;
    }
    /* What follows is aligned for its read. */
    uint64_t align = max_u64(granule, BUF_BYTES_MIN);
    r->buf_used_bytes += (uint32_t)((r->reading.length_bytes + align - 1) / align * align);
}

/* The disk may answer again in a moment: that its leg is given up all the same, an operator says. */
static void listen_if_all_was_read(struct engine *e)
{
    const struct engine_resolve *r = &e->resolve;
    char text[ACTION_TEXT_BYTES / 2];
    if (r->unreadable_bytes == 0 || r->force) {
        listen(e);
        return;
    }
    snprintf(text, sizeof(text),
             "%llu bytes could not be read, the first at offset %llu. Look after the disk and order it again; with "
             "--force what cannot be read is given up without being kept",
             (unsigned long long)r->unreadable_bytes, (unsigned long long)r->unreadable_at_bytes);
    abandon(e, -EIO, text);
}

void resolve_on_keep_done(struct engine *e, int32_t result, const char *reason)
{
    struct engine_resolve *r = &e->resolve;
    assert(r->keep_busy);
    r->keep_busy = false;
    if (result)
        abandon(e, result, reason ? reason : strerror(-result));
    switch (r->step) {
    case KEEP_BEGIN:
        r->file = result == 0;
        if (r->phase == RESOLVE_OPENING)
            r->phase = RESOLVE_READING;
        return;
    case KEEP_DATA:
        for (unsigned i = 0; i < r->piece_count; i++)
            r->kept_bytes += r->pieces[i].range.length_bytes;
        r->piece_count = 0;
        r->buf_used_bytes = 0;
        return;
    case KEEP_END:
        r->file = result != 0; /* else it stays, whatever comes of this */
        if (r->phase == RESOLVE_CLOSING)
            listen_if_all_was_read(e);
        return;
    case KEEP_DROP: return;
    }
}

/* ---- the record ---- */

static void give_up(struct engine *e, const struct hello *peer, struct actions *out)
{
    struct superblock *sb = &e->sb;
    const struct history_entry *last = history_last(&sb->history);
    /* Whoever forces its promotion, as the peer's leg is lost before it has given anything, gets all of it. */
    if (sb->leg != LEG_SYNCING) {
        sb->consistent_epoch = last ? last->epoch : 0;
        sb->consistent_lsn = e->said.lsn;
    }
    int common = history_last_common(&sb->history, &peer->history);
    struct history cut = { .count = (uint32_t)(common + 1) };
    memcpy(cut.entries, sb->history.entries, cut.count * sizeof(cut.entries[0]));
    sb->history = cut;
    sb->leg = LEG_SYNCING;
    sb->was_primary = false;
    sb->served_epoch = 0;
    sb->peer_in_sync = false;
    sb->peer_age = 0; /* whatever the other leg is, it is what is to be left */
    sb->pristine = false;
    if (e->resolve.info.everything) {
        age_raise_above(e, peer->peer_age);
        sb->base = no_entry;
        log_count_all(e);
    }
    want_persisted(e);
    e->apart.known = false;
    e->resolve.phase = RESOLVE_RECORDING;
    actions_note(out, NOTE_WARNING, "leg", "%s gives up what %s has not, as ordered: from now on it is to be resynced",
                 e->config.node, e->config.peer);
}

static bool is_the_same(const struct hello *own, const struct hello *before, const struct hello *now)
{
    return id_equal(before->leg_id, now->leg_id) && now->leg == LEG_UP_TO_DATE &&
           history_entry_equal(last_common(own, before), last_common(own, now));
}

/* More may have to be kept than was, or a person would decide otherwise. */
static bool has_lost_something(const struct engine *e, const struct hello *before, const struct hello *now)
{
    return (!e->resolve.info.everything && is_everything(&e->said, now)) || (now->lost_power && !before->lost_power) ||
           (now->differs && !before->differs) || (now->peer_failed && !before->peer_failed);
}

void resolve_on_hello(struct engine *e, const struct hello *peer, const struct sync_judgement *j, struct actions *out)
{
    bool was_known = e->apart.known;
    struct hello before = e->apart.peer;
    e->apart.known = j->verdict == SYNC_REFUSE && j->resolvable;
    if (e->apart.known) {
        e->apart.peer = *peer;
        e->apart.rule = j->rule;
        e->apart.heard_ns = e->now_ns;
    }
    if (e->resolve.phase == RESOLVE_IDLE || e->resolve.phase == RESOLVE_RECORDING)
        return;
    if (!e->apart.known) {
        abandon(e, -EBUSY,
                j->verdict == SYNC_REFUSE
                    ? actions_text(out, "%s is refused for another reason now: %s", e->config.peer, j->text)
                    : "both legs have agreed meanwhile");
    } else if (!was_known || !is_the_same(&e->said, &before, peer)) {
        abandon(e, -EBUSY, actions_text(out, "the leg of %s is another one now", e->config.peer));
    } else if (has_lost_something(e, &before, peer)) {
        abandon(e, -EBUSY,
                actions_text(out,
                             "%s has lost its power, was promoted by force or was found to differ meanwhile. See "
                             "`lockstep status`, and order it again if its leg is still to be what is left",
                             e->config.peer));
    } else if (e->resolve.phase == RESOLVE_LISTENING) {
        give_up(e, peer, out);
    }
}

uint64_t resolve_deadline_ns(const struct engine *e)
{
    return e->resolve.phase == RESOLVE_LISTENING ? e->resolve.until_ns : UINT64_MAX;
}

static void finish_if_recorded(struct engine *e, struct actions *out)
{
    const struct engine_resolve *r = &e->resolve;
    if (e->sb_broken) {
        answer(e, -EIO, TEXT_BROKEN, out);
        return;
    }
    if (!persisted(e))
        return;
    char unreadable[96] = "";
    if (r->unreadable_bytes)
        snprintf(unreadable, sizeof(unreadable), " (of which %llu could not be read)",
                 (unsigned long long)r->unreadable_bytes);
    const char *in_set = !is_in_set(e) ? ""
                                       : actions_text(out,
                                                      ". The witness has it in the in-sync set yet: if the two do not "
                                                      "connect for that, `lockstep promote %s --force` on %s",
                                                      e->config.volume, e->config.peer);
    answer(e, 0,
           actions_text(out, "%llu bytes%s were kept, and this leg gets what it lacks from %s%s",
                        (unsigned long long)r->kept_bytes, unreadable, e->config.peer, in_set),
           out);
}

void resolve_advance(struct engine *e, struct actions *out)
{
    struct engine_resolve *r = &e->resolve;
    if (r->phase == RESOLVE_IDLE)
        return;
    if (e->leg_failed || e->sb_broken)
        abandon(e, -EIO, "the leg has failed");
    if (e->role.phase != PHASE_SECONDARY)
        abandon(e, -EBUSY, "the volume is being taken down");
    if (r->phase == RESOLVE_LISTENING && e->now_ns >= r->until_ns)
        abandon(
            e, -ENOTCONN,
            actions_text(out, "%s has not been heard of any more. Order it again when it is there", e->config.peer));
    switch (r->phase) {
    case RESOLVE_IDLE:
    case RESOLVE_OPENING:
    case RESOLVE_CLOSING:
    case RESOLVE_LISTENING: return;
    case RESOLVE_READING: read_on(e, out); return;
    case RESOLVE_RECORDING: finish_if_recorded(e, out); return;
    case RESOLVE_DROPPING: drop(e, out); return;
    }
}
