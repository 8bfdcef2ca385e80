/* Taking a volume down, for an operator and for the node that ends: demoted where a register knows it, then detached,
 * then its thread is stopped. What speaks against it is asked first. */
#include <errno.h>
#include <stdlib.h>

#include "repl/base/clock.h"
#include "repl/node/command_internal.h"

/* The other node's leg is up to date, as was heard of it last; or, where nothing was since the start, as the witness
 * has it. */
static bool peer_has_good_leg(const struct node_volume *nv, const struct volume_status *s)
{
    bool is_member = s->has_witness && decree_has_member_of(&s->witness.decree, config_peer(nv->config)->name);
    return s->peer_leg == LEG_UP_TO_DATE || (s->peer_leg == LEG_NONE && is_member);
}

/* The volume is another node's by now. */
static bool is_out_of_set(const struct node_volume *nv, const struct volume_status *s)
{
    const struct decree *d = &s->witness.decree;
    return s->has_witness && d->member_count > 0 && d->epoch >= s->epoch &&
           !decree_has_member_of(d, config_self(nv->config)->name);
}

static bool is_in_use(const struct volume_status *s) { return s->role == ROLE_PRIMARY || s->link == LINK_CONNECTED; }

bool command_takes_only_good_leg(struct node_volume *nv)
{
    struct volume_status s;
    volume_status(nv->volume, &s);
    bool heard = is_in_use(&s) || s.peer_leg != LEG_NONE || !decree_is_none(&s.witness.decree);
    bool counts = s.leg == LEG_UP_TO_DATE && !is_out_of_set(nv, &s);
    return config_peer(nv->config) && heard && counts && !peer_has_good_leg(nv, &s);
}

static bool serves_or_syncs(struct node_volume *nv)
{
    struct volume_status s;
    volume_status(nv->volume, &s);
    return is_in_use(&s);
}

static void warn_of_waiting_writes(struct node_volume *nv)
{
    struct volume_status s;
    volume_status(nv->volume, &s);
    bool goes_on_alone = s.has_witness && nv->config->when_alone == ALONE_STRICT;
    if (s.role != ROLE_SECONDARY || s.link != LINK_CONNECTED || goes_on_alone)
        return;
    node_note(nv->node, nv->config->volume, NOTE_WARNING, "volume",
              "taken down while connected: if %s is primary, its writes wait until this leg is up again",
              config_peer(nv->config)->name);
}

/* With a witness: the primary could not go on without this leg. NULL: it could, or this is not its peer. */
static const char *why_primary_would_wait(const struct node_volume *nv, const struct volume_status *s)
{
    if (!s->has_witness || s->role != ROLE_SECONDARY || s->link != LINK_CONNECTED || !s->peer_leads)
        return NULL;
    if (nv->config->when_alone == ALONE_SUSPEND)
        return "with `when-alone: suspend` its writes wait until this leg is back";
    return s->witness.state == REGISTER_STATE_REACHABLE
               ? NULL
               : "without the witness it may not go on alone: its writes wait until this leg or the witness is back";
}

/* With a witness a primary is demoted first, so that the register names nobody: else its peer would take over. */
static void begin_detaching(struct command *c)
{
    struct node_volume *nv = c->nv;
    struct volume_status s;
    volume_status(nv->volume, &s);
    const char *why = c->request.force ? NULL : why_primary_would_wait(nv, &s);
    if (why) {
        command_finish(c, CONTROL_REFUSED, "volume %s: %s is primary, and %s; take it down nonetheless with --force",
                       nv->config->volume, config_peer(nv->config)->name, why);
        return;
    }
    bool serves = s.has_witness && s.role == ROLE_PRIMARY;
    bool is_answered = s.witness.state == REGISTER_STATE_REACHABLE;
    if (serves && !is_answered && !c->request.force) {
        command_finish(
            c, CONTROL_UNREACHABLE,
            "volume %s: the witness, which names this node as its primary, is %s, and would go on naming it; "
            "take it down nonetheless with --force",
            nv->config->volume, register_state_name(s.witness.state));
        return;
    }
    c->demotes = serves && is_answered;
    c->still_named = serves && !is_answered;
    if (c->demotes)
        command_order(c, VOLUME_DEMOTE, c->request.force);
    else
        command_order(c, VOLUME_DETACH, c->request.force);
}

void command_begin_down(struct command *c)
{
    struct node_volume *nv = c->nv;
    switch (nv->state) {
    case STATE_UP:
        c->takes_only_good_leg = command_takes_only_good_leg(nv);
        if (!c->request.force && c->takes_only_good_leg && serves_or_syncs(nv)) {
            command_finish(
                c, CONTROL_REFUSED,
                "volume %s: this is its only up-to-date leg; without it nobody can use the volume. Wait until the "
                "leg of %s is up-to-date, or take it down nonetheless with --force",
                nv->config->volume, config_peer(nv->config)->name);
            return;
        }
        warn_of_waiting_writes(nv);
        begin_detaching(c);
        return;
    case STATE_STOPPING: c->phase = PHASE_JOB; return;
    case STATE_NOT_CREATED:
    case STATE_DOWN:
    case STATE_FAILED: command_finish(c, CONTROL_DONE, "volume %s is down", nv->config->volume); return;
    case STATE_STARTING:
    case STATE_CREATING:
        command_finish(c, CONTROL_FAILED, "volume %s is %s; wait until that is done", nv->config->volume,
                       nv->state == STATE_STARTING ? "being brought up" : "being created");
        return;
    }
}

void command_go_on_with_down(struct command *c, int result, const char *text)
{
    const char *volume = c->nv->config->volume;
    if (result && (result == -EBUSY || !c->request.force)) {
        command_finish(c, command_exit_of_order(result), "volume %s: %s", volume, *text ? text : strerror(-result));
        return;
    }
    c->still_named = result != 0;
    command_order(c, VOLUME_DETACH, c->request.force);
}

void command_detached(struct command *c)
{
    struct node_volume *nv = c->nv;
    c->phase = PHASE_JOB;
    struct err err = { 0 };
    if (nv->state == STATE_UP && node_volume_begin(nv, JOB_STOP, false, false, &err)) {
        command_finish(c, CONTROL_FAILED, "%s; it is detached: try again", err.text);
        return;
    }
    if (nv->state != STATE_STOPPING) /* another command's stop has ended already */
        command_finish(c, CONTROL_DONE, "volume %s is down", nv->config->volume);
}

void command_detach(struct node_volume *nv)
{
    struct node *n = nv->node;
    struct command *c = n->orders < ORDERS_MAX ? calloc(1, sizeof(*c)) : NULL;
    nv->detach_again_ns = clock_ns() + NS_PER_S / 2;
    if (!c)
        return; /* tried again */
    c->node = n;
    c->nv = nv;
    c->by_node = true;
    c->request.command = CONTROL_DOWN;
    list_append(&n->commands, &c->link);
    nv->detach_ordered = true;
    command_order(c, VOLUME_DETACH, false);
}

void command_detached_by_node(struct command *c, int result, const char *text)
{
    struct node_volume *nv = c->nv;
    nv->detach_ordered = false;
    if (result != -EBUSY && result != -ENOTCONN) { /* else it may be possible later */
        if (result && result != -ECANCELED)        /* that was us, and was told */
            node_note(c->node, nv->config->volume, NOTE_ERROR, "volume", "not detached cleanly: %s", text);
        c->node->unclean |= result != 0;
        command_detached(c);
        return;
    }
    if (!nv->detach_delay_told)
        node_note(c->node, nv->config->volume, NOTE_WARNING, "volume", "cannot be detached yet: %s", text);
    nv->detach_delay_told = true;
    command_free(c);
}
