/* What `lockstep metadata dump` prints. */
#include <json-c/json.h>

#include "repl/base/units.h"
#include "repl/cli/metadata.h"

#define JSON_VERSION 1

static const char *copy_state_name(enum metadata_copy_state s)
{
    switch (s) {
    case COPY_GOOD: return "good";
    case COPY_DIFFERS: return "differs";
    case COPY_DAMAGED: return "damaged";
    }
    return "?";
}

static const char *form_id(struct id id, char out[33])
{
    for (unsigned i = 0; i < sizeof(id.bytes); i++)
        snprintf(out + 2 * (size_t)i, 3, "%02x", id.bytes[i]);
    return out;
}

/* ---- JSON ---- */

static void put(struct json_object *o, const char *key, struct json_object *value)
{
    json_object_object_add(o, key, value);
}

static void put_u64(struct json_object *o, const char *key, uint64_t v) { put(o, key, json_object_new_uint64(v)); }
static void put_bool(struct json_object *o, const char *key, bool v) { put(o, key, json_object_new_boolean(v)); }

static void put_text(struct json_object *o, const char *key, const char *text)
{
    put(o, key, *text ? json_object_new_string(text) : NULL);
}

static void put_id(struct json_object *o, const char *key, struct id id)
{
    char text[33];
    put(o, key, id_is_none(id) ? NULL : json_object_new_string(form_id(id, text)));
}

static struct json_object *entry_json(struct history_entry e)
{
    char tag[17];
    snprintf(tag, sizeof(tag), "%016llx", (unsigned long long)e.tag);
    struct json_object *o = json_object_new_object();
    put_u64(o, "epoch", e.epoch);
    put_u64(o, "first_lsn", e.first_lsn);
    put_text(o, "tag", tag);
    return o;
}

static struct json_object *superblock_json(const struct superblock *sb)
{
    struct json_object *o = json_object_new_object(), *history = json_object_new_array();
    put_u64(o, "sequence", sb->sequence);
    put_text(o, "volume", sb->volume);
    put_text(o, "node", sb->node);
    put_u64(o, "size_bytes", sb->size_bytes);
    put_u64(o, "backing_bytes", sb->backing_bytes);
    put_id(o, "volume_id", sb->volume_id);
    put_id(o, "leg_id", sb->leg_id);
    put_id(o, "peer_leg_id", sb->peer_leg_id);
    put_id(o, "boot_id", sb->boot_id);
    put_u64(o, "epoch", sb->epoch);
    put_u64(o, "served_epoch", sb->served_epoch);
    put_u64(o, "lsn", sb->lsn);
    put_text(o, "role", role_name(sb->role));
    put_text(o, "leg", leg_state_name(sb->leg));
    put_text(o, "peer_leg", leg_state_name(sb->peer_leg));
    put_bool(o, "attached", sb->attached);
    put_bool(o, "pristine", sb->pristine);
    put_bool(o, "adopted", sb->adopted);
    put_bool(o, "lost_power", sb->lost_power);
    put_bool(o, "differs", sb->differs);
    put_bool(o, "went_back", sb->went_back);
    put_u64(o, "age", sb->age);
    put_u64(o, "peer_age", sb->peer_age);
    put_bool(o, "peer_in_sync", sb->peer_in_sync);
    put_bool(o, "was_primary", sb->was_primary);
    put_bool(o, "full", sb->full);
    put_bool(o, "reads_lie", sb->reads_lie);
    put_u64(o, "al_from", sb->al_from);
    put_u64(o, "granule_bytes", sb->granule_bytes);
    put_u64(o, "extent_bytes", sb->extent_bytes);
    put_u64(o, "consistent_epoch", sb->consistent_epoch);
    put_u64(o, "consistent_lsn", sb->consistent_lsn);
    put_u64(o, "room_bytes", sb->room_bytes);
    put_u64(o, "moved_from_bytes", sb->moved_from_bytes);
    put_u64(o, "verified_at_s", sb->verified_at_s);
    put_u64(o, "verified_found_bytes", sb->verified_found_bytes);
    put_bool(o, "registered", sb->registered);
    put_u64(o, "heard_epoch", sb->heard_epoch);
    put_u64(o, "asked_epoch", sb->asked_epoch);
    put(o, "base", history_entry_is_none(sb->base) ? NULL : entry_json(sb->base));
    for (uint32_t i = 0; i < sb->history.count; i++)
        json_object_array_add(history, entry_json(sb->history.entries[i]));
    put(o, "history", history);
    return o;
}

static struct json_object *copies_json(const struct metadata *m)
{
    struct json_object *list = json_object_new_array();
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        const struct metadata_copy *c = &m->copies[i];
        struct json_object *o = json_object_new_object();
        put_u64(o, "copy", i);
        put_text(o, "state", copy_state_name(c->state));
        put(o, "sequence", c->sequence ? json_object_new_uint64(c->sequence) : NULL);
        put_text(o, "reason", c->reason);
        json_object_array_add(list, o);
    }
    return list;
}

static struct json_object *log_json(const struct metadata *m, bool verbose)
{
    struct json_object *o = json_object_new_object();
    put_text(o, "state", m->log_damaged ? "damaged" : "good");
    put_text(o, "reason", m->log_reason);
    put_u64(o, "next_sequence", m->log_next_sequence);
    put_u64(o, "hot_extents", m->hot_extents);
    if (!verbose)
        return o;
    struct json_object *ranges = json_object_new_array();
    for (uint64_t i = 0; i < m->range_count; i++) {
        struct json_object *r = json_object_new_object();
        put_u64(r, "offset_bytes", m->ranges[i].offset_bytes);
        put_u64(r, "length_bytes", m->ranges[i].length_bytes);
        json_object_array_add(ranges, r);
    }
    put(o, "ranges", ranges);
    return o;
}

static struct json_object *bitmap_json(const struct metadata *m)
{
    struct json_object *o = json_object_new_object();
    put_u64(o, "dirty_bytes", m->dirty_bytes);
    put_u64(o, "pages", m->pages);
    put_u64(o, "written_pages", m->written_pages);
    put_u64(o, "damaged_pages", m->damaged_pages);
    put_text(o, "reason", m->page_reason);
    return o;
}

static void show_json(const struct show *s, const struct metadata *m, bool verbose)
{
    struct json_object *o = json_object_new_object();
    bool sized = m->usable && m->superblock.size_bytes;
    put(o, "version", json_object_new_int(JSON_VERSION));
    put_text(o, "path", m->path);
    put_bool(o, "in_use", m->in_use);
    put_bool(o, "usable", m->usable);
    put_text(o, "why_not", m->why_not);
    put(o, "copies", copies_json(m));
    put(o, "superblock", m->usable ? superblock_json(&m->superblock) : NULL);
    put(o, "activity_log", sized ? log_json(m, verbose) : NULL);
    put(o, "bitmap", sized ? bitmap_json(m) : NULL);
    fprintf(s->out, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(o);
}

/* ---- for eyes ---- */

static void show_id(FILE *out, const char *what, struct id id)
{
    char text[33];
    fprintf(out, "  %-12s %s\n", what, id_is_none(id) ? "none" : form_id(id, text));
}

static void show_marks(FILE *out, const struct superblock *sb)
{
    const struct {
        bool set;
        const char *name;
    } marks[] = {
        { sb->attached, "attached" },
        { sb->pristine, "pristine" },
        { sb->adopted, "adopted" },
        { sb->lost_power, "lost-power" },
        { sb->differs && !sb->went_back, "found to differ by a verify" },
        { sb->went_back, "put back from an older copy" },
        { sb->peer_in_sync, "peer-in-sync" },
        { sb->was_primary, "was-primary" },
        { sb->full, "all counts as out of sync" },
        { sb->reads_lie, "a flush failed: reads may lie" },
        { sb->registered, "registered" },
    };
    const char *before = "";
    fprintf(out, "  %-12s ", "marks");
    for (unsigned i = 0; i < ARRAY_LEN(marks); i++) {
        if (!marks[i].set)
            continue;
        fprintf(out, "%s%s", before, marks[i].name);
        before = ", ";
    }
    fprintf(out, "%s\n", *before ? "" : "none");
}

static void show_entry(FILE *out, const char *what, struct history_entry e)
{
    fprintf(out, "  %-12s epoch %llu from lsn %llu, tag %016llx\n", what, (unsigned long long)e.epoch,
            (unsigned long long)e.first_lsn, (unsigned long long)e.tag);
}

static void show_superblock(FILE *out, const struct superblock *sb)
{
    fprintf(out, "volume %s on node %s\n", sb->volume, sb->node);
    fprintf(out, "  %-12s %llu bytes on %llu\n", "size", (unsigned long long)sb->size_bytes,
            (unsigned long long)sb->backing_bytes);
    if (sb->room_bytes)
        fprintf(out, "  %-12s up to %llu bytes reads as zeroes\n", "room", (unsigned long long)sb->room_bytes);
    if (sb->moved_from_bytes)
        fprintf(out, "  %-12s the end of %llu bytes, where old superblocks may be\n", "moved from",
                (unsigned long long)sb->moved_from_bytes);
    fprintf(out, "  %-12s %s; peer's %s\n", "leg", leg_state_name(sb->leg), leg_state_name(sb->peer_leg));
    fprintf(out, "  %-12s %s\n", "role", role_name(sb->role));
    fprintf(out, "  %-12s %llu, lsn %llu", "epoch", (unsigned long long)sb->epoch, (unsigned long long)sb->lsn);
    if (sb->served_epoch)
        fprintf(out, "; served last at %llu", (unsigned long long)sb->served_epoch);
    fprintf(out, "\n");
    if (sb->age)
        fprintf(out, "  %-12s %llu; the peer has told %llu\n", "age", (unsigned long long)sb->age,
                (unsigned long long)sb->peer_age);
    show_marks(out, sb);
    if (sb->leg == LEG_SYNCING)
        fprintf(out, "  %-12s epoch %llu, lsn %llu\n", "consistent", (unsigned long long)sb->consistent_epoch,
                (unsigned long long)sb->consistent_lsn);
    if (sb->verified_at_s)
        fprintf(out, "  %-12s at %llu s since 1970, %llu bytes found\n", "verified",
                (unsigned long long)sb->verified_at_s, (unsigned long long)sb->verified_found_bytes);
    if (sb->heard_epoch)
        fprintf(out, "  %-12s of epoch %llu in the register\n", "has heard", (unsigned long long)sb->heard_epoch);
    if (sb->asked_epoch)
        fprintf(out, "  %-12s to take over from epoch %llu\n", "has asked", (unsigned long long)sb->asked_epoch);
    show_id(out, "volume id", sb->volume_id);
    show_id(out, "leg id", sb->leg_id);
    show_id(out, "peer leg id", sb->peer_leg_id);
    show_id(out, "boot id", sb->boot_id);
    if (!history_entry_is_none(sb->base))
        show_entry(out, "base", sb->base);
    fprintf(out, "history: %u decrees\n", sb->history.count);
    for (uint32_t i = 0; i < sb->history.count; i++)
        show_entry(out, "", sb->history.entries[i]);
}

static void show_text(const struct show *s, const struct metadata *m, bool verbose)
{
    FILE *out = s->out;
    fprintf(out, "%s%s\n", m->path, m->in_use ? ": in use; what is read may change meanwhile" : "");
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++) {
        const struct metadata_copy *c = &m->copies[i];
        fprintf(out, "  copy %u       %s", i, copy_state_name(c->state));
        if (c->sequence)
            fprintf(out, ", sequence %llu", (unsigned long long)c->sequence);
        fprintf(out, "%s%s\n", *c->reason ? ": " : "", c->reason);
    }
    if (!m->usable) {
        fprintf(out, "%s%s\n", m->why_not, m->lost ? ": " METADATA_LOST_ADVICE : "");
        return;
    }
    show_superblock(out, &m->superblock);
    if (!m->superblock.size_bytes)
        return; /* not paired yet: there is nothing to log */
    fprintf(out, "activity log: %s%s%llu hot extents of %u bytes; sequences %llu to %llu\n",
            m->log_damaged ? m->log_reason : "", m->log_damaged ? "; " : "", (unsigned long long)m->hot_extents,
            m->superblock.extent_bytes, (unsigned long long)m->superblock.al_from,
            (unsigned long long)m->log_next_sequence);
    for (uint64_t i = 0; verbose && i < m->range_count; i++)
        fprintf(out, "  %llu + %llu\n", (unsigned long long)m->ranges[i].offset_bytes,
                (unsigned long long)m->ranges[i].length_bytes);
    fprintf(out, "bitmap: %llu bytes set in granules of %u; %llu of %llu pages written, %llu damaged%s%s\n",
            (unsigned long long)m->dirty_bytes, m->superblock.granule_bytes, (unsigned long long)m->written_pages,
            (unsigned long long)m->pages, (unsigned long long)m->damaged_pages, *m->page_reason ? ": " : "",
            m->page_reason);
}

void metadata_show(const struct show *s, const struct metadata *m, bool verbose)
{
    if (s->json)
        show_json(s, m, verbose);
    else
        show_text(s, m, verbose);
}
