/* `lockstep resolve --list` and `--export`. */
#include "repl/cli/kept.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "repl/base/checksum.h"
#include "repl/base/scoped.h"
#include "repl/cli/metadata.h"

/* ---- reading ---- */

static int read_all(int fd, const char *path, void *bytes, size_t count, uint64_t *at_bytes, struct err *err)
{
    for (size_t done = 0; done < count;) {
        ssize_t n = pread(fd, (uint8_t *)bytes + done, count - done, (off_t)*at_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, -errno, "%s: cannot be read: %s", path, strerror(errno));
        if (n == 0)
            return err_set(err, -EBADMSG, "%s: ends in the middle", path);
        done += (size_t)n;
        *at_bytes += (uint64_t)n;
    }
    return 0;
}

struct reader {
    struct kept_chunk chunk;
    uint8_t head[KEPT_CHUNK_HEAD_BYTES];
    uint8_t data[KEPT_CHUNK_DATA_BYTES_MAX];
};

static int visit_chunk(const struct reader *r, const struct kept_visitor *v, struct err *err)
{
    const uint8_t *data = r->data;
    int rc = 0;
    for (uint32_t i = 0; i < r->chunk.count && !rc; i++) {
        const struct kept_extent *e = &r->chunk.extents[i];
        bool has_data = e->kind == KEEP_KIND_DATA;
        rc = v->extent(v->ctx, e, has_data ? data : NULL, err);
        data += has_data ? e->range.length_bytes : 0;
    }
    return rc;
}

static int walk(int fd, const char *path, struct reader *r, const struct kept_visitor *v, struct kept_sums *sums,
                struct err *err)
{
    struct keep_info info;
    uint64_t made_us, at = 0, from = 0;
    int rc = read_all(fd, path, r->head, KEPT_BLOCK_BYTES, &at, err);
    if (!rc)
        rc = kept_decode_head(r->head, &info, &made_us, err);
    if (!rc)
        rc = v->head(v->ctx, &info, made_us, err);
    while (!rc) {
        rc = read_all(fd, path, r->head, KEPT_BLOCK_BYTES, &at, err);
        if (rc)
            return rc;
        if (kept_is_end(r->head))
            break;
        rc = read_all(fd, path, r->head + KEPT_BLOCK_BYTES, KEPT_CHUNK_HEAD_BYTES - KEPT_BLOCK_BYTES, &at, err);
        if (!rc)
            rc = kept_decode_chunk(r->head, info.size_bytes, sums, &from, &r->chunk, err);
        if (!rc)
            rc = read_all(fd, path, r->data, r->chunk.data_bytes, &at, err);
        if (!rc && checksum64(r->data, r->chunk.data_bytes) != r->chunk.data_check)
            rc = err_set(err, -EBADMSG, "%s: chunk %" PRIu64 " is damaged (checksum of its data)", path,
                         r->chunk.number);
        if (!rc)
            rc = visit_chunk(r, v, err);
    }
    if (!rc)
        rc = kept_decode_end(r->head, sums, err);
    struct stat st;
    if (!rc && fstat(fd, &st) == 0 && (uint64_t)st.st_size != at)
        rc = err_set(err, -EBADMSG, "%s: has something behind its end", path);
    return rc;
}

int kept_walk(const char *path, const struct kept_visitor *visitor, struct kept_sums *sums, struct err *err)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* no FIFO holds it up */
    CLEANUP_FREE struct reader *r = malloc(sizeof(*r));
    *sums = (struct kept_sums) { 0 };
    if (fd < 0)
        return err_set(err, -errno, "%s: %s", path, strerror(errno));
    if (!r)
        return err_set(err, -ENOMEM, "out of memory");
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return err_set(err, -EINVAL, "%s: is no file", path);
    return walk(fd, path, r, visitor, sums, err);
}

/* ---- list ---- */

struct list {
    struct keep_info info;
    uint64_t made_us;
    struct kept_extent *extents;
    size_t count;
    size_t room;
};

static int take_head(void *ctx, const struct keep_info *info, uint64_t made_us, struct err *err)
{
    struct list *l = ctx;
    (void)err;
    l->info = *info;
    l->made_us = made_us;
    return 0;
}

/* Neighbours of one kind are one, in whatever chunks they lie. */
static int take_extent(void *ctx, const struct kept_extent *e, const uint8_t *data, struct err *err)
{
    struct list *l = ctx;
    (void)data;
    struct kept_extent *last = l->count ? &l->extents[l->count - 1] : NULL;
    if (last && last->kind == e->kind && range_end(last->range) == e->range.offset_bytes) {
        last->range.length_bytes += e->range.length_bytes;
        return 0;
    }
    if (l->count == l->room) {
        size_t room = l->room ? 2 * l->room : 64;
        struct kept_extent *grown = realloc(l->extents, room * sizeof(*grown));
        if (!grown)
            return err_set(err, -ENOMEM, "out of memory");
        l->extents = grown;
        l->room = room;
    }
    assert(l->extents);
    l->extents[l->count++] = *e;
    return 0;
}

static const char *kind_name(enum keep_kind kind)
{
    switch (kind) {
    case KEEP_KIND_DATA: return "data";
    case KEEP_KIND_ZEROES: return "zeroes";
    case KEEP_KIND_UNREADABLE: return "unreadable";
    }
    return "?";
}

static const char *form_made(uint64_t made_us, char out[32])
{
    time_t seconds = (time_t)(made_us / 1000000);
    struct tm tm;
    if (!gmtime_r(&seconds, &tm) || strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        snprintf(out, 32, "?");
    return out;
}

static void put(struct json_object *o, const char *key, uint64_t value)
{
    json_object_object_add(o, key, json_object_new_uint64(value));
}

static void list_json(const struct show *s, const struct list *l, const struct kept_sums *sums)
{
    char made[32];
    struct json_object *o = json_object_new_object();
    put(o, "version", 1);
    json_object_object_add(o, "volume", json_object_new_string(l->info.volume));
    json_object_object_add(o, "node", json_object_new_string(l->info.node));
    json_object_object_add(o, "peer", json_object_new_string(l->info.peer));
    json_object_object_add(o, "time", json_object_new_string(form_made(l->made_us, made)));
    put(o, "size_bytes", l->info.size_bytes);
    put(o, "common_epoch", l->info.common.epoch);
    put(o, "first_epoch", l->info.first.epoch);
    put(o, "first_lsn", l->info.first.first_lsn);
    put(o, "epoch", l->info.epoch);
    put(o, "lsn", l->info.lsn);
    json_object_object_add(o, "everything", json_object_new_boolean(l->info.everything));
    put(o, "data_bytes", sums->data_bytes);
    put(o, "zero_bytes", sums->zero_bytes);
    put(o, "unreadable_bytes", sums->unreadable_bytes);
    put(o, "extent_count", l->count);
    struct json_object *extents = json_object_new_array();
    for (size_t i = 0; i < l->count; i++) {
        struct json_object *e = json_object_new_object();
        put(e, "offset_bytes", l->extents[i].range.offset_bytes);
        put(e, "length_bytes", l->extents[i].range.length_bytes);
        json_object_object_add(e, "kind", json_object_new_string(kind_name(l->extents[i].kind)));
        json_object_array_add(extents, e);
    }
    json_object_object_add(o, "extents", extents);
    fprintf(s->out, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(o);
}

static void list_for_eyes(const struct show *s, const struct list *l, const struct kept_sums *sums)
{
    char made[32];
    const struct keep_info *i = &l->info;
    fprintf(s->out, "volume %s, %" PRIu64 " bytes: what %s gave up for %s, %s\n", i->volume, i->size_bytes, i->node,
            i->peer, form_made(l->made_us, made));
    fprintf(s->out, "  both were the same up to epoch %" PRIu64 "; ", i->common.epoch);
    if (i->first.epoch)
        fprintf(s->out, "on its own from epoch %" PRIu64 ", LSN %" PRIu64 " to ", i->first.epoch, i->first.first_lsn);
    fprintf(s->out, "epoch %" PRIu64 ", LSN %" PRIu64 "\n", i->epoch, i->lsn);
    fprintf(s->out,
            "  %s: %zu %s, with %" PRIu64 " bytes of data, %" PRIu64 " of zeroes, %" PRIu64 " that could not be read\n",
            i->everything ? "all that the leg held" : "what it may have changed since", l->count,
            l->count == 1 ? "extent" : "extents", sums->data_bytes, sums->zero_bytes, sums->unreadable_bytes);
    for (size_t k = 0; k < l->count; k++)
        fprintf(s->out, "  offset %" PRIu64 ", length %" PRIu64 ": %s\n", l->extents[k].range.offset_bytes,
                l->extents[k].range.length_bytes, kind_name(l->extents[k].kind));
}

int kept_list(const struct show *s, const char *path, struct err *err)
{
    struct list l = { .count = 0 };
    struct kept_sums sums;
    struct kept_visitor visitor = { .ctx = &l, .head = take_head, .extent = take_extent };
    int rc = kept_walk(path, &visitor, &sums, err);
    if (!rc && s->json)
        list_json(s, &l, &sums);
    else if (!rc)
        list_for_eyes(s, &l, &sums);
    free(l.extents);
    return rc;
}

/* ---- export ---- */

struct image {
    const char *path;
    const char *kept; /* the file that it is made from */
    bool force;
    bool made; /* by this export */
    int fd;
    uint64_t size_bytes;
};

static int image_failed(const struct image *i, const char *what, struct err *err)
{
    return err_set(err, -errno, "%s: %s: %s", i->path, what, strerror(errno));
}

/* Looked through before anything is made, so that no image is begun for a file that is damaged. */
static int look_head(void *ctx, const struct keep_info *info, uint64_t made_us, struct err *err)
{
    struct image *i = ctx;
    (void)made_us;
    (void)err;
    i->size_bytes = info->size_bytes;
    return 0;
}

static int look_extent(void *ctx, const struct kept_extent *e, const uint8_t *data, struct err *err)
{
    (void)ctx, (void)e, (void)data, (void)err;
    return 0;
}

/* A backing, of a daemon that is down, or a copy of one, which nobody can tell from it. */
static bool is_a_leg(const char *path)
{
    struct metadata m;
    struct err err = { 0 };
    if (metadata_read(&(struct metadata_source) { .backing = path }, &m, &err))
        return false;
    bool is = m.usable || m.lost;
    for (unsigned i = 0; i < SUPERBLOCK_COPIES; i++)
        is |= m.copies[i].sequence > 0;
    metadata_free(&m);
    return is;
}

/* What must not be written into. A daemon holds the lock of its backing: beneath it the two legs would differ, and no
 * bit would tell. */
static int check_image(const struct image *i, const struct stat *st, struct err *err)
{
    struct stat kept;
    if (!S_ISREG(st->st_mode))
        return err_set(err, -EINVAL, "%s: is no file", i->path);
    if (stat(i->kept, &kept) == 0 && kept.st_dev == st->st_dev && kept.st_ino == st->st_ino)
        return err_set(err, -EEXIST, "%s: is the file of kept blocks itself", i->path);
    if (flock(i->fd, LOCK_EX | LOCK_NB) < 0)
        return err_set(err, -EEXIST, "%s: is in use: a daemon may have it as its backing", i->path);
    if (!i->made && is_a_leg(i->path))
        return err_set(err, -EEXIST,
                       "%s: is a leg of a volume, or a copy of one, which this would spoil: write into a copy of the "
                       "volume's content",
                       i->path);
    return 0;
}

static int open_image(struct image *i, struct err *err)
{
    struct stat st;
    i->fd = open(i->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    i->made = i->fd >= 0;
    if (i->fd < 0 && errno == EEXIST && !i->force)
        return err_set(err, -EEXIST, "%s: is there already; --force writes into it what is kept", i->path);
    if (i->fd < 0 && errno == EEXIST)
        i->fd = open(i->path, O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (i->fd < 0)
        return image_failed(i, "cannot be opened", err);
    if (fstat(i->fd, &st) < 0)
        return image_failed(i, "cannot be looked at", err);
    int r = check_image(i, &st, err);
    if (r)
        return r;
    if ((uint64_t)st.st_size < i->size_bytes && ftruncate(i->fd, (off_t)i->size_bytes) < 0)
        return image_failed(i, "cannot be made as large as the volume", err);
    return 0;
}

static int write_at(const struct image *i, const uint8_t *data, struct range r, struct err *err)
{
    for (uint64_t done = 0; done < r.length_bytes;) {
        ssize_t n = pwrite(i->fd, data + done, r.length_bytes - done, (off_t)(r.offset_bytes + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return image_failed(i, "cannot be written", err);
        done += (uint64_t)n;
    }
    return 0;
}

#define ZEROES_BYTES (64 * KIB)

static int write_zeroes(const struct image *i, struct range r, struct err *err)
{
    static const uint8_t zeroes[ZEROES_BYTES];
    if (i->made ||
        fallocate(i->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r.offset_bytes, (off_t)r.length_bytes) == 0)
        return 0;
    int rc = 0;
    for (uint64_t done = 0; done < r.length_bytes && !rc; done += ZEROES_BYTES)
        rc = write_at(i, zeroes, (struct range) { r.offset_bytes + done, min_u64(ZEROES_BYTES, r.length_bytes - done) },
                      err);
    return rc;
}

static int write_extent(void *ctx, const struct kept_extent *e, const uint8_t *data, struct err *err)
{
    struct image *i = ctx;
    switch (e->kind) {
    case KEEP_KIND_DATA: return write_at(i, data, e->range, err);
    case KEEP_KIND_ZEROES: return write_zeroes(i, e->range, err);
    case KEEP_KIND_UNREADABLE: break; /* nobody has it */
    }
    return 0;
}

int kept_export(const struct show *s, const char *path, const char *image, bool force, struct err *err)
{
    struct image i = { .path = image, .kept = path, .force = force, .fd = -1 };
    struct kept_sums sums;
    struct kept_visitor look = { .ctx = &i, .head = look_head, .extent = look_extent };
    struct kept_visitor write = { .ctx = &i, .head = look_head, .extent = write_extent };
    int rc = kept_walk(path, &look, &sums, err);
    if (!rc)
        rc = open_image(&i, err);
    if (!rc)
        rc = kept_walk(path, &write, &sums, err);
    if (!rc && fsync(i.fd) < 0)
        rc = image_failed(&i, "cannot be flushed", err);
    if (rc && i.made)
        unlink(image);
    if (i.fd >= 0)
        close(i.fd);
    if (rc)
        return rc;
    char text[512];
    snprintf(text, sizeof(text),
             "%s holds %" PRIu64 " bytes of data and %" PRIu64 " of zeroes in their places; %" PRIu64
             " could not be read when they were kept",
             image, sums.data_bytes, sums.zero_bytes, sums.unreadable_bytes);
    show_result(s, CONTROL_DONE, text);
    return 0;
}
