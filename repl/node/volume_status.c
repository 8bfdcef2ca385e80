/* A volume's state, as its thread tells it to others. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "repl/node/volume_internal.h"

#define STATUS_WAIT_NS (1 * NS_PER_S)

/* A monotonic time of the past as one of the calendar. */
static uint64_t calendar_us(uint64_t now_ns, uint64_t then_ns)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t now_us = (uint64_t)now.tv_sec * (NS_PER_S / NS_PER_US) + (uint64_t)now.tv_nsec / NS_PER_US;
    uint64_t ago_us = now_ns > then_ns ? (now_ns - then_ns) / NS_PER_US : 0;
    return now_us > ago_us ? now_us - ago_us : 0;
}

static struct volume_resync resync_status(struct volume *v, const struct engine_resync *resync, uint64_t now_ns)
{
    if (!resync->active)
        return (struct volume_resync) { 0 };
    return (struct volume_resync) { .active = true,
                                    .is_source = resync->is_source,
                                    .done_bytes = resync->done_bytes,
                                    .total_bytes = resync->total_bytes,
                                    .rate_bytes_per_s = rate_bytes_per_s(&v->resync_rate, now_ns, resync->done_bytes),
                                    .equal_bytes = resync->equal_bytes,
                                    .sent_bytes = resync->sent_bytes,
                                    .zero_bytes = resync->zero_bytes };
}

static struct volume_apart_side apart_side(const struct engine_apart_side *side, uint64_t now_ns)
{
    return (struct volume_apart_side) { .epoch = side->epoch,
                                        .first_lsn = side->first_lsn,
                                        .lsn = side->lsn,
                                        .since_us = side->since_ns ? calendar_us(now_ns, side->since_ns) : 0,
                                        .changed_known = side->changed_known,
                                        .changed_bytes = side->changed_bytes };
}

static struct volume_apart apart_status(const struct engine_apart *apart, uint64_t now_ns)
{
    struct volume_apart a = { .common_epoch = apart->common_epoch, .differ_bytes_max = apart->differ_bytes_max };
    if (!apart->rule)
        return a;
    snprintf(a.rule, sizeof(a.rule), "%s", apart->rule);
    a.own = apart_side(&apart->own, now_ns);
    a.peer = apart_side(&apart->peer, now_ns);
    return a;
}

/* What nobody can do while a register does not carry out swaps; NULL: it does. */
static const char *waits_for_witness(enum register_state state)
{
    switch (state) {
    case REGISTER_STATE_NONE:
    case REGISTER_STATE_ASKING:
    case REGISTER_STATE_REACHABLE: return NULL;
    case REGISTER_STATE_UNREACHABLE: return "unreachable";
    case REGISTER_STATE_UNCONFIRMED: return "waiting for both nodes' word after its start";
    case REGISTER_STATE_OLDER: return "older than this node: an operator is needed";
    case REGISTER_STATE_REFUSED: return "refusing what it is asked";
    }
    return NULL;
}

/* Of a volume that is not protected: what will not mend itself meanwhile. */
static void add_what_waits(struct volume_status *s)
{
    const char *how = waits_for_witness(s->witness.state);
    size_t used = strlen(s->why_not);
    if (how && used)
        snprintf(
            s->why_not + used, sizeof(s->why_not) - used,
            "; the witness is %s, and a takeover, a switchover and the peer's return to the in-sync set wait for it",
            how);
}

static struct volume_witness witness_status(const struct engine_register *r, uint64_t now_ns)
{
    struct volume_witness w = { .state = r->state,
                                .decree = r->decree,
                                .swap_under_way = r->swap_under_way,
                                .swap_cause = r->swap_cause,
                                .swap_since_us = r->swap_under_way ? calendar_us(now_ns, r->swap_since_ns) : 0 };
    snprintf(w.reason, sizeof(w.reason), "%s", r->reason ? r->reason : "");
    return w;
}

static void add_link_status(const struct volume *v, const struct engine_view *view, struct volume_status *s)
{
    const struct session *session = link_session(v->link);
    s->link = session_state(session);
    snprintf(s->link_reason, sizeof(s->link_reason), "%s", session_reason(session));
    if (s->link == LINK_CONNECTED)
        snprintf(s->transport, sizeof(s->transport), "%s", link_transport_name(v->link));
    /* Whom the session itself refuses, the engine never hears of. */
    if (s->link == LINK_REFUSED && view->leg == LEG_UP_TO_DATE)
        snprintf(s->why_not, sizeof(s->why_not), "%s", s->link_reason);
    s->path = session_path(session);
    s->rtt_us = session_rtt_ns(session) / NS_PER_US;
}

/* Clients come and go without the engine. */
static void add_held(const struct volume *v, const struct engine_view *view, uint64_t now_ns, struct volume_status *s)
{
    struct front_held held = front_held(v->front);
    if (!view->held_since_ns || !held.clients)
        return;
    s->held_clients = held.clients;
    s->held_requests = held.requests;
    s->held_since_us = calendar_us(now_ns, view->held_since_ns);
}

static void make_status(struct volume *v, struct volume_status *s)
{
    struct engine_view view;
    engine_view(v->engine, &view);
    struct verify_view verify;
    engine_verify_view(v->engine, &verify);
    uint64_t now_ns = ring_now_ns(v->ring);
    *s = (struct volume_status) {
        .role = view.role,
        .serving = view.serving,
        .is_protected = view.in_sync,
        .epoch = view.epoch,
        .lsn = view.lsn,
        .size_bytes = view.size_bytes,
        .leg = view.leg,
        .consistent_epoch = view.consistent_epoch,
        .consistent_lsn = view.consistent_lsn,
        .writes_waiting = view.writes_waiting,
        .verify_done_bytes = verify.running ? verify.done_bytes : 0,
        .verify_total_bytes = verify.running ? verify.total_bytes : 0,
        .peer_leads = view.peer_leads,
        .peer_leg = view.peer_leg,
        .out_of_sync_bytes = view.out_of_sync_bytes,
        .verified_at_us = view.verified_at_s * (NS_PER_S / NS_PER_US),
        .verified_found_bytes = view.verified_found_bytes,
        .verify_next_us =
            v->config.verify_every_ns && view.role == ROLE_PRIMARY ? v->verify_plan.next_s * (NS_PER_S / NS_PER_US) : 0,
        .resync = resync_status(v, &view.resync, now_ns),
        .growth = { .active = view.growth.active,
                    .waits_for_peer = view.growth.waits_for_peer,
                    .done_bytes = view.growth.done_bytes,
                    .total_bytes = view.growth.total_bytes },
        .apart = apart_status(&view.apart, now_ns),
        .resolve = { .active = view.resolve.active,
                     .done_bytes = view.resolve.done_bytes,
                     .total_bytes = view.resolve.total_bytes },
        .alone_epoch = view.alone_epoch,
        .alone_since_us = view.alone_epoch ? calendar_us(now_ns, view.alone_since_ns) : 0,
        .diskless_epoch = view.diskless_epoch,
        .diskless_since_us = view.diskless_epoch ? calendar_us(now_ns, view.diskless_since_ns) : 0,
    };
    engine_loss_of_force(v->engine, &view, s->may_be_lost);
    if (view.oldest_waiting_ns && now_ns > view.oldest_waiting_ns)
        s->oldest_waiting_us = (now_ns - view.oldest_waiting_ns) / NS_PER_US;
    if (v->front)
        add_held(v, &view, now_ns, s);
    snprintf(s->why_not, sizeof(s->why_not), "%s", view.why_not ? view.why_not : "");
    s->has_witness = v->line;
    s->witness = witness_status(&view.witness, now_ns);
    if (v->link)
        add_link_status(v, &view, s);
    add_what_waits(s);
}

static void run_status(struct ring_task *task)
{
    struct volume *v = container_of(task, struct volume, status_task);
    struct volume_status status;
    make_status(v, &status);
    pthread_mutex_lock(&v->lock);
    v->status = status;
    v->status_count++;
    v->status_asked = false;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
}

void volume_verify_places(struct volume *v, struct verify_places *out) { engine_verify_places(v->engine, out); }

void volume_status(struct volume *v, struct volume_status *out)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    pthread_mutex_lock(&v->lock);
    uint64_t before = v->status_count;
    if (!v->status_asked) /* else it has not answered the last time, and was waited for then */
        until.tv_sec += (time_t)(STATUS_WAIT_NS / NS_PER_S);
    if (!v->status_asked) {
        v->status_asked = true;
        v->status_task.run = run_status;
        ring_post(v->ring, &v->status_task);
    }
    while (v->status_count == before && pthread_cond_timedwait(&v->changed, &v->lock, &until) == 0) {}
    *out = v->status;
    if (v->status_count == before) { /* nobody can tell what has become of it since */
        out->is_protected = false;
        snprintf(out->why_not, sizeof(out->why_not),
                 "the volume's thread does not answer, perhaps for a disk that hangs; all else shown is what it said "
                 "last");
    }
    pthread_mutex_unlock(&v->lock);
}
