/* A disk is put back from an older copy: of what lay on its stable storage at some time. */
#include <inttypes.h>
#include <string.h>

#include "tests/sim/plan.h"

static struct medium *data_of(struct sim *s, unsigned node) { return &s->disk[node].data; }
static struct medium *meta_of(struct sim *s, unsigned node) { return &s->node[node].meta.medium; }

/* What a flaw costs is another matter. */
static bool is_sound(struct sim *s, unsigned node)
{
    return !s->spoilt.any && !data_of(s, node)->has_flaws && !meta_of(s, node)->has_flaws;
}

static void take_copy(struct sim *s, unsigned node)
{
    struct sim_copy *c = &s->copy[node];
    const struct sim_meta *meta = &s->node[node].meta;
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    bool counts = sb.history.count > 0 && !s->legs.behind[node] && !s->legs.blank[node] && !s->legs.split;
    if (!counts || !is_sound(s, node))
        return;
    c->taken = true;
    c->superblock = sb;
    c->flushed = s->legs.flushed[node];
    c->block_count = s->disk[node].block_count;
    c->log_newest = meta->log_newest;
    c->log_before = meta->log_before;
    medium_copy(data_of(s, node), c->data);
    medium_copy(meta_of(s, node), c->meta);
    sim_trace(s, "%c disk    is copied, at age %" PRIu64, 'A' + node, sb.age);
    COVER(copied);
}

/* Who may be there when it is back has heard of a later age: of its peer, what lies on that one's disk. */
static bool is_known(struct sim *s, unsigned node)
{
    const struct sim_copy *c = &s->copy[node];
    struct superblock sb, theirs;
    sim_node_superblock(s, node, &sb);
    sim_node_superblock(s, 1 - node, &theirs);
    bool by_register = !s->registered || sim_register_age(s, node) > c->superblock.age;
    /* Of before a resize, or in the middle of one: refused for its size, until it is made anew. */
    bool same = id_equal(sb.leg_id, c->superblock.leg_id) && sb.size_bytes == c->superblock.size_bytes &&
                sb.room_bytes == c->superblock.room_bytes && s->disk[node].block_count == c->block_count;
    return by_register && same && theirs.peer_age > c->superblock.age;
}

static void put_back(struct sim *s, unsigned node)
{
    struct sim_copy *c = &s->copy[node];
    struct sim_meta *meta = &s->node[node].meta;
    medium_put_back(data_of(s, node), c->data);
    medium_put_back(meta_of(s, node), c->meta);
    meta->log_newest = c->log_newest;
    meta->log_before = c->log_before;
    meta->log_sealed = false;
    s->disk[node].lies = s->disk[node].shows_old = false;
    sim_trace(s, "%c disk    is put back from the copy of age %" PRIu64, 'A' + node, c->superblock.age);
    COVER(put_back);
    sim_legs_put_back(s, node, c->flushed);
    s->plan.resync.known = false;
    s->plan.half[node] = s->plan.half_forced[node] = false;
    s->plan.old_copy[node] = true;
    s->plan.copy_told[node] = false;
    c->taken = chance(s, 300000); /* or it is put back once more */
}

/* It has been down since it was copied, or goes down for that: its machine, or its daemon only. */
void plan_copy(struct sim *s)
{
    unsigned node = s->copy[0].taken ? 0 : s->copy[1].taken ? 1 : (unsigned)draw(s, 0, 1);
    if (!s->copy[node].taken) {
        take_copy(s, node);
        return;
    }
    if (!is_known(s, node) || !is_sound(s, node) || !plan_may_be_given_up(s, node)) {
        if (chance(s, 50000))
            s->copy[node].taken = false;
        return;
    }
    if (chance(s, 500000))
        sim_node_power_loss(s, node);
    else if (s->node[node].up)
        sim_node_crash(s, node);
    else
        return; /* it is about to start */
    put_back(s, node);
    sim_at(s, now_plus(s, draw(s, 1, 2 * s->dead_after_ns / NS_PER_MS) * NS_PER_MS), Q_START, node, 0);
}

void sim_plan_note(struct sim *s, unsigned node, const char *text)
{
    if (!s->plan.old_copy[node] || !strstr(text, "knows of a later state of this leg"))
        return;
    if (strstr(text, "the witness knows"))
        COVER(copy_by_register);
    else
        COVER(copy_by_peer);
}

/* One that was begun when its daemon died may never have got there. */
bool plan_copy_is_told(struct sim *s, unsigned node)
{
    struct superblock sb;
    sim_node_superblock(s, node, &sb);
    s->plan.copy_told[node] |= sb.went_back;
    return s->plan.copy_told[node];
}

/* Its record says what it is; then that it is whole, or that somebody has accepted the loss. */
void plan_copy_on_record(struct sim *s, unsigned node, const struct superblock *sb)
{
    if (s->plan.old_copy[node] && plan_copy_is_told(s, node) && !sb->went_back)
        s->plan.old_copy[node] = false;
}

void sim_age_is_told(struct sim *s, unsigned node, uint64_t age)
{
    struct superblock sb;
    if (age == 0)
        return;
    sim_node_superblock(s, node, &sb);
    if (age > sb.age)
        sim_fail(s, "age", "node %u tells that its leg has the age %" PRIu64 ", and its disk has %" PRIu64, node, age,
                 sb.age);
}
