/* What the command line prints: for eyes, or as JSON. */
#include "repl/cli/show.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "repl/base/units.h"

#define JSON_VERSION 1
#define BAR "########################################"
#define BAR_WIDTH 40
#define STATUS_BAR_WIDTH 20
#define US_PER_S UINT64_C(1000000)

static bool is(const char *text, const char *word) { return strcmp(text, word) == 0; }

/* ---- small forms ---- */

static const char *form_size(uint64_t bytes, char out[32])
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    unsigned unit = 0;
    uint64_t whole = bytes;
    while (unit + 1 < ARRAY_LEN(units) && whole >= 1024) {
        whole /= 1024;
        unit++;
    }
    uint64_t scale = UINT64_C(1) << (10 * unit);
    if (bytes % scale == 0 || whole >= 100)
        snprintf(out, 32, "%llu %s", (unsigned long long)whole, units[unit]);
    else
        snprintf(out, 32, "%.1f %s", (double)bytes / (double)scale, units[unit]);
    return out;
}

static const char *form_duration(uint64_t us, char out[32])
{
    if (us < 1000)
        snprintf(out, 32, "%llu us", (unsigned long long)us);
    else if (us < US_PER_S)
        snprintf(out, 32, "%.1f ms", (double)us / 1000);
    else if (us < 120 * US_PER_S)
        snprintf(out, 32, "%.1f s", (double)us / (double)US_PER_S);
    else
        snprintf(out, 32, "%llu min", (unsigned long long)(us / US_PER_S / 60));
    return out;
}

static const char *form_time(uint64_t us, char out[40])
{
    time_t seconds = (time_t)(us / US_PER_S);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    size_t n = strftime(out, 40, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, 40 - n, ".%03uZ", (unsigned)(us % US_PER_S / 1000));
    return out;
}

/* ---- JSON ---- */

static void put(struct json_object *o, const char *key, struct json_object *value)
{
    json_object_object_add(o, key, value);
}

/* Empty strings stand for "not known" and are null. */
static struct json_object *text_or_null(const char *text) { return *text ? json_object_new_string(text) : NULL; }

static void print_json(const struct show *s, struct json_object *o)
{
    fprintf(s->out, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    fflush(s->out);
    json_object_put(o);
}

/* Never 0 while something is left: 0 is read as "done". */
static uint64_t eta_s(const Lockstep__Control__Resync *r)
{
    uint64_t left = r->total_bytes - min_u64(r->done_bytes, r->total_bytes);
    return left / r->rate_bytes_per_s + (left % r->rate_bytes_per_s != 0);
}

static struct json_object *resync_json(const Lockstep__Control__Resync *r)
{
    struct json_object *o = json_object_new_object();
    put(o, "to_peer", json_object_new_boolean(r->to_peer));
    put(o, "done_bytes", json_object_new_uint64(r->done_bytes));
    put(o, "total_bytes", json_object_new_uint64(r->total_bytes));
    put(o, "rate_bytes_per_s", json_object_new_uint64(r->rate_bytes_per_s));
    put(o, "eta_s", r->rate_bytes_per_s ? json_object_new_uint64(eta_s(r)) : NULL);
    put(o, "equal_bytes", json_object_new_uint64(r->equal_bytes));
    put(o, "sent_bytes", json_object_new_uint64(r->sent_bytes));
    put(o, "zero_bytes", json_object_new_uint64(r->zero_bytes));
    return o;
}

static struct json_object *consistent_json(const Lockstep__Control__Consistent *c)
{
    struct json_object *o = json_object_new_object();
    put(o, "epoch", json_object_new_uint64(c->epoch));
    put(o, "lsn", json_object_new_uint64(c->lsn));
    return o;
}

static struct json_object *alone_json(const Lockstep__Control__Alone *a)
{
    char since[40];
    struct json_object *o = json_object_new_object();
    put(o, "epoch", json_object_new_uint64(a->epoch));
    put(o, "since", json_object_new_string(form_time(a->since_us, since)));
    return o;
}

static struct json_object *diskless_json(const Lockstep__Control__Diskless *d)
{
    char since[40];
    struct json_object *o = json_object_new_object();
    put(o, "epoch", json_object_new_uint64(d->epoch));
    put(o, "since", json_object_new_string(form_time(d->since_us, since)));
    return o;
}

static struct json_object *time_or_null(uint64_t us)
{
    char text[40];
    return us ? json_object_new_string(form_time(us, text)) : NULL;
}

/* Of a volume that is not up nothing has been read and nobody was asked: a zero would be a claim. */
static struct json_object *number_if(bool known, uint64_t value)
{
    return known ? json_object_new_uint64(value) : NULL;
}

static struct json_object *growth_json(const Lockstep__Control__Growth *g)
{
    struct json_object *o = json_object_new_object();
    put(o, "done_bytes", number_if(g->total_bytes, g->done_bytes));
    put(o, "total_bytes", number_if(g->total_bytes, g->total_bytes));
    put(o, "waits_for_peer", json_object_new_boolean(g->waits_for_peer));
    return o;
}

static struct json_object *peer_json(const Lockstep__Control__Peer *p, bool up)
{
    struct json_object *o = json_object_new_object();
    put(o, "name", json_object_new_string(p->name));
    put(o, "link", json_object_new_string(p->link));
    put(o, "reason", text_or_null(p->reason));
    put(o, "transport", text_or_null(p->transport));
    put(o, "path", text_or_null(p->path));
    put(o, "tls", json_object_new_boolean(p->tls));
    put(o, "rtt_us", number_if(p->rtt_us, p->rtt_us));
    put(o, "leg", up ? json_object_new_string(p->leg) : NULL);
    put(o, "out_of_sync_bytes", number_if(up, p->out_of_sync_bytes));
    put(o, "resync", p->resync ? resync_json(p->resync) : NULL);
    return o;
}

static struct json_object *leg_json(const Lockstep__Control__VolumeStatus *v)
{
    if (is(v->state, "not-created")) /* the one state without a leg in which that is known */
        return json_object_new_string("none");
    return text_or_null(v->leg);
}

static struct json_object *apart_side_json(const Lockstep__Control__ApartSide *a)
{
    struct json_object *o = json_object_new_object();
    put(o, "epoch", number_if(a->epoch, a->epoch));
    put(o, "first_lsn", number_if(a->epoch, a->first_lsn));
    put(o, "lsn", json_object_new_uint64(a->lsn));
    put(o, "since", time_or_null(a->since_us));
    put(o, "changed_bytes", number_if(a->changed_known, a->changed_bytes));
    return o;
}

static struct json_object *apart_json(const Lockstep__Control__Apart *a)
{
    struct json_object *o = json_object_new_object();
    put(o, "rule", json_object_new_string(a->rule));
    put(o, "common_epoch", number_if(a->common_epoch, a->common_epoch));
    put(o, "differ_bytes_max", json_object_new_uint64(a->differ_bytes_max));
    put(o, "local", a->own ? apart_side_json(a->own) : NULL);
    put(o, "peer", a->peer ? apart_side_json(a->peer) : NULL);
    return o;
}

static struct json_object *verified_json(const Lockstep__Control__Verified *v)
{
    struct json_object *o = json_object_new_object();
    put(o, "last", time_or_null(v->at_us));
    put(o, "found_bytes", number_if(v->at_us, v->found_bytes));
    put(o, "next", time_or_null(v->next_us));
    put(o, "done_bytes", number_if(v->total_bytes, v->done_bytes));
    put(o, "total_bytes", number_if(v->total_bytes, v->total_bytes));
    return o;
}

static struct json_object *witness_json(const Lockstep__Control__Witness *w)
{
    struct json_object *in_sync = w->epoch ? json_object_new_array() : NULL;
    for (size_t i = 0; w->epoch && i < w->n_in_sync; i++)
        json_object_array_add(in_sync, json_object_new_string(w->in_sync[i]));
    struct json_object *o = json_object_new_object();
    put(o, "state", json_object_new_string(w->state));
    put(o, "reason", text_or_null(w->reason));
    put(o, "epoch", number_if(w->epoch, w->epoch));
    put(o, "primary", text_or_null(w->primary));
    put(o, "cause", text_or_null(w->cause));
    put(o, "in_sync", in_sync);
    put(o, "asks_for", text_or_null(w->asks_for));
    put(o, "asks_since", time_or_null(w->asks_since_us));
    return o;
}

static struct json_object *held_json(const Lockstep__Control__Held *h)
{
    struct json_object *o = json_object_new_object();
    put(o, "clients", json_object_new_uint64(h->clients));
    put(o, "requests", json_object_new_uint64(h->requests));
    put(o, "since", time_or_null(h->since_us));
    return o;
}

static struct json_object *volume_json(const Lockstep__Control__VolumeStatus *v)
{
    bool up = is(v->state, "up");
    struct json_object *o = json_object_new_object();
    put(o, "name", json_object_new_string(v->name));
    put(o, "state", json_object_new_string(v->state));
    put(o, "role", text_or_null(v->role));
    put(o, "protected", json_object_new_boolean(v->protected_));
    put(o, "why_not", text_or_null(v->why_not));
    put(o, "epoch", number_if(up, v->epoch));
    put(o, "lsn", number_if(up, v->lsn));
    put(o, "size_bytes", number_if(v->size_bytes, v->size_bytes)); /* 0: not fixed yet */
    put(o, "device", json_object_new_string(v->device));
    put(o, "serving", json_object_new_boolean(v->serving));
    put(o, "leg", leg_json(v));
    put(o, "backing", json_object_new_string(v->backing));
    put(o, "consistent", v->consistent ? consistent_json(v->consistent) : NULL);
    put(o, "writes_waiting", number_if(up, v->writes_waiting));
    put(o, "oldest_waiting_us", number_if(up, v->oldest_waiting_us));
    put(o, "held", v->held ? held_json(v->held) : NULL);
    put(o, "alone", v->alone ? alone_json(v->alone) : NULL);
    put(o, "diskless", v->diskless ? diskless_json(v->diskless) : NULL);
    put(o, "split_brain", v->apart ? apart_json(v->apart) : NULL);
    put(o, "peer", v->peer ? peer_json(v->peer, up) : NULL);
    put(o, "verify", v->verified ? verified_json(v->verified) : NULL);
    put(o, "resize", v->growth ? growth_json(v->growth) : NULL);
    put(o, "failover", text_or_null(v->failover));
    put(o, "when_alone", text_or_null(v->when_alone));
    put(o, "witness", v->witness ? witness_json(v->witness) : NULL);
    put(o, "offsite", NULL);
    return o;
}

static void status_json(const struct show *s, const char *node, Lockstep__Control__VolumeStatus *const *volumes,
                        size_t count)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < count; i++)
        json_object_array_add(list, volume_json(volumes[i]));
    struct json_object *o = json_object_new_object();
    put(o, "version", json_object_new_int(JSON_VERSION));
    put(o, "node", json_object_new_string(node));
    put(o, "volumes", list);
    print_json(s, o);
}

/* ---- for eyes ---- */

enum tone {
    TONE_PLAIN,
    TONE_BOLD,
    TONE_GOOD,
    TONE_ODD,    /* passes by itself, or is meant */
    TONE_PERSON, /* needs a person */
};

static void __attribute__((format(printf, 3, 4))) say(const struct show *s, enum tone tone, const char *format, ...)
{
    static const char *const codes[] = {
        [TONE_PLAIN] = "",       [TONE_BOLD] = "\033[1m",      [TONE_GOOD] = "\033[32m",
        [TONE_ODD] = "\033[33m", [TONE_PERSON] = "\033[1;31m",
    };
    bool coloured = s->colour && tone != TONE_PLAIN;
    if (coloured)
        fputs(codes[tone], s->out);
    va_list ap;
    va_start(ap, format);
    vfprintf(s->out, format, ap);
    va_end(ap);
    if (coloured)
        fputs("\033[0m", s->out);
}

static bool needs_a_person(const Lockstep__Control__VolumeStatus *v)
{
    return is(v->state, "failed") || is(v->leg, "failed") ||
           (v->peer && (is(v->peer->link, "refused") || is(v->peer->leg, "failed")));
}

static void say_peer(const struct show *s, const Lockstep__Control__Peer *p)
{
    char text[32];
    fprintf(s->out, "  peer    %s: ", p->name);
    say(s, is(p->leg, "failed") ? TONE_PERSON : TONE_PLAIN, "%s", is(p->leg, "none") ? "leg unknown" : p->leg);
    fprintf(s->out, ", ");
    if (is(p->link, "connected")) {
        fprintf(s->out, "connected by %s to %s", p->transport, p->path);
        if (p->rtt_us)
            fprintf(s->out, ", round trip %s", form_duration(p->rtt_us, text));
    } else {
        say(s, is(p->link, "refused") ? TONE_PERSON : TONE_ODD, "%s", p->link);
        if (*p->reason)
            fprintf(s->out, " (%s)", p->reason);
    }
    if (p->out_of_sync_bytes)
        fprintf(s->out, ", %s out of sync", form_size(p->out_of_sync_bytes, text));
    fputc('\n', s->out);
}

static void say_share(const struct show *s, uint64_t done_bytes, uint64_t total_bytes)
{
    char done[32];
    char total[32];
    double share = total_bytes ? (double)min_u64(done_bytes, total_bytes) / (double)total_bytes : 1;
    int filled = (int)(share * STATUS_BAR_WIDTH);
    fprintf(s->out, "[%.*s%*s] %d%%, %s of %s", filled, BAR, STATUS_BAR_WIDTH - filled, "", (int)(share * 100),
            form_size(done_bytes, done), form_size(total_bytes, total));
}

static void say_apart_side(const struct show *s, const char *node, const Lockstep__Control__ApartSide *a)
{
    char text[40];
    fprintf(s->out, "          %s: ", node);
    if (a->epoch)
        fprintf(s->out, "on its own from epoch %llu, LSN %llu", (unsigned long long)a->epoch,
                (unsigned long long)a->first_lsn);
    else
        fprintf(s->out, "no epoch of its own");
    if (a->since_us)
        fprintf(s->out, " (%s)", form_time(a->since_us, text));
    fprintf(s->out, " to LSN %llu; ", (unsigned long long)a->lsn);
    if (a->changed_known)
        fprintf(s->out, "at most %s changed\n", form_size(a->changed_bytes, text));
    else
        fprintf(s->out, "what it has changed is not known: up to all of it\n");
}

static void say_apart(const struct show *s, const char *node, const Lockstep__Control__VolumeStatus *v)
{
    char text[32];
    const Lockstep__Control__Apart *a = v->apart;
    fprintf(s->out, "  apart   ");
    say(s, TONE_PERSON, "%s", a->rule);
    fprintf(s->out, ": the same up to epoch %llu; at most %s differ\n", (unsigned long long)a->common_epoch,
            form_size(a->differ_bytes_max, text));
    if (a->own)
        say_apart_side(s, node, a->own);
    if (a->peer && v->peer)
        say_apart_side(s, v->peer->name, a->peer);
}

static void say_growth(const struct show *s, const Lockstep__Control__VolumeStatus *v)
{
    fprintf(s->out, "  resize  ");
    if (v->growth->waits_for_peer)
        fprintf(s->out, "waits for %s to have room, too", v->peer ? v->peer->name : "the peer");
    else if (v->growth->total_bytes) {
        fprintf(s->out, "zeroing what is added ");
        say_share(s, v->growth->done_bytes, v->growth->total_bytes);
    } else
        fprintf(s->out, "under way");
    fputc('\n', s->out);
}

static void say_resync(const struct show *s, const char *node, const Lockstep__Control__Peer *p)
{
    const Lockstep__Control__Resync *r = p->resync;
    char text[32];
    fprintf(s->out, "  resync  %s ", r->to_peer ? p->name : node);
    say_share(s, r->done_bytes, r->total_bytes);
    if (r->rate_bytes_per_s) {
        fprintf(s->out, ", %s/s", form_size(r->rate_bytes_per_s, text));
        fprintf(s->out, ", %s left", form_duration(eta_s(r) * US_PER_S, text));
    }
    fputc('\n', s->out);
}

static void say_verified(const struct show *s, const Lockstep__Control__Verified *v)
{
    char text[40];
    if (!v->at_us && !v->next_us && !v->total_bytes)
        return;
    fprintf(s->out, "  verify  ");
    if (v->total_bytes)
        fprintf(s->out, "under way, %llu %%; ", (unsigned long long)(v->done_bytes / (v->total_bytes / 100 + 1)));
    if (!v->at_us)
        fprintf(s->out, "never done here");
    else
        fprintf(s->out, "last %s: ", form_time(v->at_us, text));
    if (v->at_us && v->found_bytes)
        say(s, TONE_ODD, "%s were found to differ", form_size(v->found_bytes, text));
    else if (v->at_us)
        fprintf(s->out, "both legs were equal");
    if (v->next_us)
        fprintf(s->out, "; next %s", form_time(v->next_us, text));
    fputc('\n', s->out);
}

/* What nobody carries out swaps for needs a person; a register that is out of reach may come back by itself. */
static void say_witness(const struct show *s, const Lockstep__Control__Witness *w)
{
    bool person = is(w->state, "older") || is(w->state, "refused");
    bool odd = is(w->state, "unreachable") || is(w->state, "unconfirmed");
    fprintf(s->out, "  witness ");
    say(s, person ? TONE_PERSON : odd ? TONE_ODD : TONE_PLAIN, "%s", w->state);
    if (*w->reason)
        fprintf(s->out, " (%s)", w->reason);
    if (w->epoch) {
        fprintf(s->out, "%s epoch %llu (%s), primary %s, in sync", person || odd ? ", last heard:" : ",",
                (unsigned long long)w->epoch, w->cause, *w->primary ? w->primary : "nobody");
        for (size_t i = 0; i < w->n_in_sync; i++)
            fprintf(s->out, "%s %s", i ? "," : "", w->in_sync[i]);
    }
    fputc('\n', s->out);
    if (*w->asks_for) {
        char since[40];
        say(s, TONE_ODD, "          asked for \"%s\" at %s, without an answer yet\n", w->asks_for,
            form_time(w->asks_since_us, since));
    }
    if (person || odd)
        fprintf(s->out,
                "          until it answers: no takeover, no switchover, no return of a leg to the in-sync set,\n"
                "          and a primary that restarts stays secondary\n");
}

/* What `when-alone` promises while the peer is lost. */
static const char *promise_alone(const Lockstep__Control__VolumeStatus *v)
{
    if (is(v->when_alone, "suspend"))
        return "writes wait for the peer: each acknowledged one is on two legs";
    if (is(v->when_alone, "continue"))
        return "writes go on without the peer: promoting the other node then gives them up";
    return v->witness ? "writes go on once the witness agrees: none that was acknowledged is lost with one node"
                      : "writes wait for the peer: each acknowledged one is on two legs";
}

static void say_policy(const struct show *s, const Lockstep__Control__VolumeStatus *v)
{
    fprintf(s->out, "  policy  failover %s; alone %s: %s\n", v->failover, v->when_alone, promise_alone(v));
}

static void say_volume(const struct show *s, const char *node, const Lockstep__Control__VolumeStatus *v)
{
    char text[32];
    say(s, TONE_BOLD, "%s", v->name);
    if (v->protected_)
        say(s, TONE_GOOD, "  protected\n");
    else
        say(s, needs_a_person(v) ? TONE_PERSON : TONE_ODD, "  not protected: %s\n", v->why_not);
    if (!is(v->state, "up")) {
        fprintf(s->out, "  state   %s\n  leg     %s\n", v->state, v->backing);
        return;
    }
    fprintf(s->out, "  role    %s, %s %s\n", v->role, v->serving ? "serving" : "not serving", v->device);
    fprintf(s->out, "  leg     ");
    say(s, is(v->leg, "failed") ? TONE_PERSON : TONE_PLAIN, "%s", v->leg);
    fprintf(s->out, ", %s, ", v->backing);
    if (v->size_bytes)
        fprintf(s->out, "%s\n", form_size(v->size_bytes, text));
    else
        fprintf(s->out, "size not fixed yet\n");
    if (v->consistent)
        fprintf(s->out, "          inconsistent: newer in part than its last consistent state, epoch %llu, LSN %llu\n",
                (unsigned long long)v->consistent->epoch, (unsigned long long)v->consistent->lsn);
    else if (is(v->leg, "syncing"))
        fprintf(s->out, "          inconsistent, and has never been consistent\n");
    if (v->peer)
        say_peer(s, v->peer);
    if (v->witness)
        say_witness(s, v->witness);
    if (v->peer && v->peer->resync)
        say_resync(s, node, v->peer);
    if (*v->when_alone)
        say_policy(s, v);
    if (v->apart)
        say_apart(s, node, v);
    if (v->alone) {
        char since[40];
        say(s, TONE_ODD, "  alone   since epoch %llu, %s: %s lacks what was written since\n",
            (unsigned long long)v->alone->epoch, form_time(v->alone->since_us, since),
            v->peer ? v->peer->name : "the peer");
    }
    if (v->diskless) {
        char since[40];
        say(s, TONE_PERSON, "  diskless since epoch %llu, %s: reads and writes go through %s\n",
            (unsigned long long)v->diskless->epoch, form_time(v->diskless->since_us, since),
            v->peer ? v->peer->name : "the peer");
    }
    if (v->held) {
        char since[40];
        say(s, TONE_ODD,
            "  held    %u client%s since %s, when this node was deposed, with %u request%s at least:\n"
            "          nothing is answered, or carried out; `lockstep demote %s` ends it with an error\n",
            v->held->clients, v->held->clients == 1 ? "" : "s", form_time(v->held->since_us, since), v->held->requests,
            v->held->requests == 1 ? "" : "s", v->name);
    }
    if (v->growth)
        say_growth(s, v);
    if (v->verified)
        say_verified(s, v->verified);
    fprintf(s->out, "  writes  epoch %llu, LSN %llu", (unsigned long long)v->epoch, (unsigned long long)v->lsn);
    if (v->writes_waiting)
        say(s, TONE_ODD, ", %u wait for the peer, the oldest for %s", v->writes_waiting,
            form_duration(v->oldest_waiting_us, text));
    fputc('\n', s->out);
}

void show_status(const struct show *s, const char *node, Lockstep__Control__VolumeStatus *const *volumes, size_t count)
{
    if (s->json) {
        status_json(s, node, volumes, count);
        return;
    }
    fprintf(s->out, "node %s, %zu volume%s\n", node, count, count == 1 ? "" : "s");
    for (size_t i = 0; i < count; i++) {
        fputc('\n', s->out);
        say_volume(s, node, volumes[i]);
    }
    fflush(s->out);
}

void show_event(const struct show *s, const Lockstep__Control__Event *e)
{
    char when[40];
    form_time(e->time_us, when);
    if (s->json) {
        struct json_object *o = json_object_new_object();
        put(o, "version", json_object_new_int(JSON_VERSION));
        put(o, "sequence", json_object_new_uint64(e->sequence));
        put(o, "time", json_object_new_string(when));
        put(o, "volume", text_or_null(e->volume));
        put(o, "level", json_object_new_string(e->level));
        put(o, "topic", json_object_new_string(e->topic));
        put(o, "text", json_object_new_string(e->text));
        print_json(s, o);
        return;
    }
    enum tone tone = is(e->level, "error") ? TONE_PERSON : is(e->level, "warning") ? TONE_ODD : TONE_PLAIN;
    fprintf(s->out, "%s  %-12s ", when, *e->volume ? e->volume : "-");
    say(s, tone, "%-7s", e->level);
    fprintf(s->out, " %-8s %s\n", e->topic, e->text);
    fflush(s->out);
}

static struct json_object *result_json(enum control_exit code, const char *text)
{
    struct json_object *o = json_object_new_object();
    put(o, "version", json_object_new_int(JSON_VERSION));
    put(o, "exit_code", json_object_new_int((int)code));
    put(o, "text", text_or_null(text));
    return o;
}

static struct json_object *places_json(const Lockstep__Control__Places *found)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; found && i < found->n_place; i++) {
        struct json_object *o = json_object_new_object();
        put(o, "offset_bytes", json_object_new_uint64(found->place[i]->offset_bytes));
        put(o, "length_bytes", json_object_new_uint64(found->place[i]->length_bytes));
        put(o, "what", json_object_new_string(found->place[i]->what));
        json_object_array_add(list, o);
    }
    return list;
}

void show_verify_result(const struct show *s, enum control_exit code, const char *text,
                        const Lockstep__Control__Places *found)
{
    bool compared = found || code == CONTROL_DONE;
    uint64_t untold = found ? found->total - min_u64(found->total, found->n_place) : 0;
    if (s->json) {
        struct json_object *o = result_json(code, text);
        put(o, "differences", compared ? places_json(found) : NULL);
        put(o, "more_differences", number_if(compared, untold));
        print_json(s, o);
        return;
    }
    for (size_t i = 0; found && i < found->n_place; i++)
        fprintf(s->out, "offset %llu, length %llu: %s\n", (unsigned long long)found->place[i]->offset_bytes,
                (unsigned long long)found->place[i]->length_bytes, found->place[i]->what);
    if (untold)
        fprintf(s->out, "and %llu more place%s\n", (unsigned long long)untold, untold == 1 ? "" : "s");
    show_result(s, code, text);
}

void show_result(const struct show *s, enum control_exit code, const char *text)
{
    if (s->json) {
        print_json(s, result_json(code, text));
        return;
    }
    if (code == CONTROL_DONE && *text)
        fprintf(s->out, "%s\n", text);
    else if (code != CONTROL_DONE)
        fprintf(stderr, "lockstep: %s\n", text);
}

void show_progress(const Lockstep__Control__Progress *p, const char *volume, int *last_tenth)
{
    bool terminal = isatty(STDERR_FILENO) == 1;
    if (!p->total) {
        fprintf(stderr, "%s: %s\n", volume, p->text);
        return;
    }
    char done[32];
    char total[32];
    form_size(p->done, done);
    form_size(p->total, total);
    double share = (double)min_u64(p->done, p->total) / (double)p->total;
    int tenth = (int)(share * 10);
    if (terminal) {
        int filled = (int)(share * BAR_WIDTH);
        fprintf(stderr, "\r\033[K%s: %s [%.*s%*s] %3.0f%%  %s of %s", volume, p->text, filled, BAR, BAR_WIDTH - filled,
                "", share * 100, done, total);
        *last_tenth = tenth;
    } else if (tenth > *last_tenth) {
        fprintf(stderr, "%s: %s: %d%%, %s of %s\n", volume, p->text, (int)(share * 100), done, total);
        *last_tenth = tenth;
    }
}

void show_progress_end(int last_tenth)
{
    if (last_tenth >= 0 && isatty(STDERR_FILENO) == 1)
        fputc('\n', stderr);
}
