/* What the command line prints of a witness. */
#include "repl/cli/witness_show.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <time.h>

#define JSON_VERSION 1
#define US_PER_S UINT64_C(1000000)
#define NAMES_BYTES 192 /* of two nodes, or of all who told */

static const char *form_time(uint64_t us, char out[40])
{
    time_t seconds = (time_t)(us / US_PER_S);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    strftime(out, 40, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return out;
}

static const char *form_in_sync(const Lockstep__Control__Decree *d, char out[NAMES_BYTES])
{
    size_t used = 0;
    out[0] = 0;
    for (size_t i = 0; i < d->n_in_sync && used < NAMES_BYTES; i++)
        used += (size_t)snprintf(out + used, NAMES_BYTES - used, "%s%s", i ? ", " : "", d->in_sync[i]);
    return out;
}

static const char *primary_of(const Lockstep__Control__Decree *d) { return *d->primary ? d->primary : "nobody"; }

/* ---- JSON ---- */

static void put(struct json_object *o, const char *key, struct json_object *value)
{
    json_object_object_add(o, key, value);
}

static void print_json(const struct show *s, struct json_object *o)
{
    fprintf(s->out, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    fflush(s->out);
    json_object_put(o);
}

static struct json_object *text_or_null(const char *text) { return *text ? json_object_new_string(text) : NULL; }

static struct json_object *decree_json(const Lockstep__Control__Decree *d)
{
    char when[40];
    char tag[20];
    struct json_object *o = json_object_new_object();
    struct json_object *in_sync = json_object_new_array();
    for (size_t i = 0; i < d->n_in_sync; i++)
        json_object_array_add(in_sync, json_object_new_string(d->in_sync[i]));
    snprintf(tag, sizeof(tag), "%016" PRIx64, d->tag);
    put(o, "epoch", json_object_new_uint64(d->epoch));
    put(o, "primary", text_or_null(d->primary));
    put(o, "in_sync", in_sync);
    put(o, "cause", json_object_new_string(d->cause));
    put(o, "time", json_object_new_string(form_time(d->time_us, when)));
    put(o, "tag", json_object_new_string(tag));
    return o;
}

static struct json_object *volume_json(const Lockstep__Control__WitnessVolume *v)
{
    struct json_object *o = json_object_new_object();
    struct json_object *told = json_object_new_array();
    struct json_object *ages = json_object_new_array();
    for (size_t i = 0; i < v->n_told; i++) {
        struct json_object *t = json_object_new_object();
        put(t, "node", json_object_new_string(v->told[i]->node));
        put(t, "epoch", json_object_new_uint64(v->told[i]->epoch));
        json_object_array_add(told, t);
    }
    for (size_t i = 0; i < v->n_leg_age; i++) {
        struct json_object *a = json_object_new_object();
        put(a, "node", json_object_new_string(v->leg_age[i]->node));
        put(a, "age", json_object_new_uint64(v->leg_age[i]->age));
        json_object_array_add(ages, a);
    }
    put(o, "name", json_object_new_string(v->name));
    put(o, "decree", v->decree ? decree_json(v->decree) : NULL);
    put(o, "confirmed", json_object_new_boolean(v->confirmed));
    put(o, "older", json_object_new_boolean(v->highest_told > (v->decree ? v->decree->epoch : 0)));
    put(o, "told", told);
    put(o, "leg_ages", ages);
    return o;
}

static void status_json(const struct show *s, const Lockstep__Control__WitnessStatus *witness,
                        Lockstep__Control__Response *const *volumes, size_t count)
{
    struct json_object *o = json_object_new_object();
    struct json_object *w = json_object_new_object();
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < count; i++)
        json_object_array_add(list, volume_json(volumes[i]->witness_volume));
    put(w, "listen", json_object_new_string(witness->listen));
    put(w, "state", json_object_new_string(witness->state));
    put(w, "connections", json_object_new_uint64(witness->connections));
    put(w, "volumes", list);
    put(o, "version", json_object_new_int(JSON_VERSION));
    put(o, "witness", w);
    print_json(s, o);
}

static void history_json(const struct show *s, const char *volume, Lockstep__Control__Response *const *decrees,
                         size_t count)
{
    struct json_object *o = json_object_new_object();
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < count; i++) {
        struct json_object *d = decree_json(decrees[i]->decree);
        put(d, "asked_by", json_object_new_string(decrees[i]->decree->asker));
        put(d, "note", text_or_null(decrees[i]->decree->note));
        json_object_array_add(list, d);
    }
    put(o, "version", json_object_new_int(JSON_VERSION));
    put(o, "volume", json_object_new_string(volume));
    put(o, "decrees", list);
    print_json(s, o);
}

/* ---- for eyes ---- */

static void __attribute__((format(printf, 3, 4))) say(const struct show *s, const char *colour, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    if (s->colour)
        fputs(colour, s->out);
    vfprintf(s->out, format, ap);
    if (s->colour)
        fputs("\033[0m", s->out);
    va_end(ap);
}
#define RED "\033[31m"
#define YELLOW "\033[33m"

static const char *form_told(const Lockstep__Control__WitnessVolume *v, char out[NAMES_BYTES])
{
    size_t used = 0;
    snprintf(out, NAMES_BYTES, "nobody");
    for (size_t i = 0; i < v->n_told && used < NAMES_BYTES; i++)
        used += (size_t)snprintf(out + used, NAMES_BYTES - used, "%s%.63s", i ? ", " : "", v->told[i]->node);
    return out;
}

static void print_volume(const struct show *s, const Lockstep__Control__WitnessVolume *v)
{
    char names[NAMES_BYTES];
    char when[40];
    uint64_t epoch = v->decree ? v->decree->epoch : 0;
    if (v->decree)
        fprintf(s->out, "%-16s epoch %" PRIu64 " (%s) since %s: primary %s; in sync: %s\n", v->name, epoch,
                v->decree->cause, form_time(v->decree->time_us, when), primary_of(v->decree),
                form_in_sync(v->decree, names));
    else
        fprintf(s->out, "%-16s no decree\n", v->name);
    if (v->highest_told > epoch)
        say(s, RED,
            "%16s older: a node knows epoch %" PRIu64 "; nothing is decided. On the primary: `lockstep witness adopt "
            "%s`\n",
            "", v->highest_told, v->name);
    else if (!v->confirmed)
        say(s, YELLOW,
            "%16s waits for both nodes' word since the witness has started; heard: %s. Is the other one gone: "
            "`lockstep "
            "witness confirm %s`\n",
            "", form_told(v, names), v->name);
}

void show_witness_status(const struct show *s, const Lockstep__Control__WitnessStatus *witness,
                         Lockstep__Control__Response *const *volumes, size_t count)
{
    if (s->json) {
        status_json(s, witness, volumes, count);
        return;
    }
    fprintf(s->out, "witness on %s, registers in %s; %u volume%s, %u connection%s\n", witness->listen, witness->state,
            witness->volumes, witness->volumes == 1 ? "" : "s", witness->connections,
            witness->connections == 1 ? "" : "s");
    for (size_t i = 0; i < count; i++)
        print_volume(s, volumes[i]->witness_volume);
}

void show_witness_history(const struct show *s, const char *volume, Lockstep__Control__Response *const *decrees,
                          size_t count)
{
    if (s->json) {
        history_json(s, volume, decrees, count);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const Lockstep__Control__Decree *d = decrees[i]->decree;
        char names[NAMES_BYTES];
        char when[40];
        fprintf(s->out, "%s  epoch %-6" PRIu64 " %-8s primary %-16s in sync: %s  (asked for by %s%s%s)\n",
                form_time(d->time_us, when), d->epoch, d->cause, primary_of(d), form_in_sync(d, names), d->asker,
                *d->note ? ": " : "", d->note);
    }
}
