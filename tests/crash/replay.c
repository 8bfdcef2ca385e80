/* Walks the log of a recorded disk forward, and makes the disk as it could be found after a power cut at any point.
 *
 * usage: crash-replay LOG WORK [NS=FOUND...]
 *
 * WORK is a copy of the disk as it was when the log was begun; it is worked on in place, and holds what is certain to
 * survive: what a flush covered that has completed, and FUA writes that have. Beside it the tool keeps what is not
 * certain: changes completed since, and changes in flight. A cut draws, by its seed, which of their sectors survive.
 *
 *   - A flush covers what had completed when it was submitted; nothing when it fails, and what a failed flush was to
 *     cover no later one vouches for. A change that failed, or was in flight when its daemon was killed, may be there
 *     in part for ever, until something newer is certain in its place.
 *   - What a killed daemon had in flight has come to its end when the next one is started: FOUND is a copy of the disk,
 *     taken at NS in between. What is there in its place is seen by the next daemon, which may take it for what it is
 *     to be and leave it: so it counts as written by then, and is certain after the next flush. With no copy it stays
 *     in doubt.
 *   - Nothing that is certain is undone by something older. A sector of 512 bytes survives whole or not at all, unless
 *     the cut is to tear some: then of the words of one that survives any may be those that were there before.
 *
 * One command a line on stdin, one line of answer each, "ok NAME=NUMBER..." or "error TEXT". Positions are numbers of
 * events, and only ever grow:
 *
 *   at N         to right after event N
 *   time NS      to right after the last event that was not later than that (CLOCK_MONOTONIC)
 *   look SEED    WORK becomes a disk as it could be found; the next command takes that back first
 *   cut SEED TO  the same into a file TO, sparse
 *   touched FROM [TO] answers when changes that begin there, or in between, were submitted and completed: "ok NS.."
 *   flushes      answers when a flush completed, in nanoseconds of CLOCK_MONOTONIC: "ok NS NS NS..."
 *
 * SEED: a number, with a `t` behind it if sectors are to be torn inside; or `none` (nothing uncertain survives) or
 * `all` (everything does, as when only the process dies). */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blockdev/disk/record_format.h"
#include "repl/base/prng.h"
#include "repl/base/range.h"
#include "repl/base/units.h"
#include "repl/core/op.h"

#define SECTOR_BYTES UINT64_C(512)
#define SIZE_BYTES_MAX (16 * GIB) /* a version is kept for each sector */
#define PUNCH_BYTES_MIN (64 * KIB)
#define PAGE_BYTES UINT64_C(4096)
#define LINE_BYTES 4096
#define WORD_BYTES 8

struct change {
    uint64_t number; /* of its submit event: a newer one is larger */
    struct range range;
    const uint8_t *payload; /* NULL: zeroes */
    bool fua;
    bool uncertain;     /* whatever completes later, nothing vouches for it */
    uint64_t completed; /* how many requests had by then, itself included; 0: in flight */
};

struct flush {
    uint64_t number;
    uint64_t covers; /* what had completed when it was submitted, counted as above */
};

struct found {
    uint64_t time_ns;
    const uint8_t *image;
};

struct undo {
    uint64_t offset_bytes;
    uint64_t length_bytes;
    size_t saved_at; /* in saved_bytes */
};

static struct replay {
    const uint8_t *log;
    uint64_t log_bytes;
    uint64_t at_bytes; /* of the next event */
    uint64_t at;       /* number of the last event that is behind us */
    uint64_t time_ns;
    uint64_t events; /* whole ones, in all of the log */
    uint64_t first_ns, last_ns;
    uint64_t *flush_ends_ns;
    uint64_t flush_end_count;

    int work_fd;
    uint8_t *work;
    uint64_t size_bytes;
    uint64_t *version; /* by sector: the change that WORK holds there for certain; 0: none since the beginning */

    uint64_t completions;
    uint64_t
        overlaps; /* changes submitted while another one was in flight to the same place: their order is nobody's */
    struct change *changes; /* those that are not certain, oldest first */
    size_t change_count, change_room;
    struct flush *flushes;
    size_t flush_count, flush_room;

    struct found *founds; /* oldest first */
    size_t found_count, found_at;

    struct undo *undos;
    size_t undo_count, undo_room;
    uint8_t *saved;
    size_t saved_bytes, saved_room;
    uint64_t survived; /* sectors, in the last look */
    uint64_t torn;     /* ... of those, inside */
    struct prng tear;
    unsigned torn_per_million;
} replay;

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fputs("crash-replay: ", stderr);
    vfprintf(stderr, format, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

static void *grown(void *list, size_t count, size_t *room, size_t one_bytes)
{
    if (count < *room)
        return list;
    while (count >= *room)
        *room = *room ? 2 * *room : 256;
    list = realloc(list, *room * one_bytes);
    if (!list)
        die("out of memory");
    return list;
}

/* ---- the image ---- */

static void write_image(uint64_t offset_bytes, const uint8_t *data, uint64_t length_bytes)
{
    if (data) {
        memcpy(replay.work + offset_bytes, data, length_bytes);
        return;
    }
    /* Whole pages of zeroes go back to the file system. */
    uint64_t first = align_up(offset_bytes, PAGE_BYTES);
    uint64_t end = align_down(offset_bytes + length_bytes, PAGE_BYTES);
    if (end > first && end - first >= PUNCH_BYTES_MIN &&
        fallocate(replay.work_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)first, (off_t)(end - first)) ==
            0) {
        memset(replay.work + offset_bytes, 0, first - offset_bytes);
        memset(replay.work + end, 0, offset_bytes + length_bytes - end);
        return;
    }
    memset(replay.work + offset_bytes, 0, length_bytes);
}

static const uint8_t *payload_at(const struct change *c, uint64_t offset_bytes)
{
    return c->payload ? c->payload + (offset_bytes - c->range.offset_bytes) : NULL;
}

/* Calls for each run of sectors of the change that `wanted` takes and that nothing newer is certain in. */
static void each_run(const struct change *c, bool (*wanted)(void *ctx), void *ctx,
                     void (*found)(const struct change *c, uint64_t offset_bytes, uint64_t length_bytes))
{
    uint64_t end = range_end(c->range);
    uint64_t run = 0;
    for (uint64_t at = c->range.offset_bytes; at < end; at += SECTOR_BYTES) {
        bool take = (!wanted || wanted(ctx)) && replay.version[at / SECTOR_BYTES] < c->number;
        if (take)
            run += SECTOR_BYTES;
        if (run && (!take || at + SECTOR_BYTES == end)) {
            uint64_t run_end = take ? at + SECTOR_BYTES : at;
            found(c, run_end - run, run);
            run = 0;
        }
    }
}

static void make_run_certain(const struct change *c, uint64_t offset_bytes, uint64_t length_bytes)
{
    write_image(offset_bytes, payload_at(c, offset_bytes), length_bytes);
    for (uint64_t s = 0; s < length_bytes / SECTOR_BYTES; s++)
        replay.version[offset_bytes / SECTOR_BYTES + s] = c->number;
}

/* Moves what is certain by now into the image. `covers`: what a flush vouches for; 0: only FUA. */
static void make_certain(uint64_t covers)
{
    size_t kept = 0;
    for (size_t i = 0; i < replay.change_count; i++) {
        struct change *c = &replay.changes[i];
        bool flushed = c->completed && c->completed <= covers;
        if (!c->uncertain && c->completed && (flushed || c->fua))
            each_run(c, NULL, NULL, make_run_certain);
        else
            replay.changes[kept++] = *c;
    }
    replay.change_count = kept;
}

/* ---- a look ---- */

/* The sector was just written over `before`. Its beginning is new, or its end, or any of its words. */
static void tear_sector(uint8_t *sector, const uint8_t *before)
{
    struct replay *r = &replay;
    uint64_t style = prng_below(&r->tear, 3);
    size_t cut = (size_t)(prng_below(&r->tear, SECTOR_BYTES / WORD_BYTES - 1) + 1) * WORD_BYTES;
    for (size_t at = 0; at < SECTOR_BYTES; at += WORD_BYTES) {
        bool is_old = style == 0 ? at >= cut : style == 1 ? at < cut : prng_chance(&r->tear, 500000);
        if (is_old)
            memcpy(sector + at, before + at, WORD_BYTES);
    }
    r->torn++;
}

static void save_and_write_run(const struct change *c, uint64_t offset_bytes, uint64_t length_bytes)
{
    struct replay *r = &replay;
    r->undos = grown(r->undos, r->undo_count, &r->undo_room, sizeof(*r->undos));
    r->saved = grown(r->saved, r->saved_bytes + length_bytes, &r->saved_room, 1);
    r->undos[r->undo_count++] = (struct undo) { offset_bytes, length_bytes, r->saved_bytes };
    memcpy(r->saved + r->saved_bytes, r->work + offset_bytes, length_bytes);
    r->saved_bytes += length_bytes;
    write_image(offset_bytes, payload_at(c, offset_bytes), length_bytes);
    for (uint64_t at = 0; r->torn_per_million && at < length_bytes; at += SECTOR_BYTES) {
        if (prng_chance(&r->tear, r->torn_per_million))
            tear_sector(r->work + offset_bytes + at, r->saved + r->saved_bytes - length_bytes + at);
    }
    r->survived += length_bytes / SECTOR_BYTES;
}

static void take_look_back(void)
{
    while (replay.undo_count > 0) {
        const struct undo *u = &replay.undos[--replay.undo_count];
        memcpy(replay.work + u->offset_bytes, replay.saved + u->saved_at, u->length_bytes);
    }
    replay.saved_bytes = 0;
}

struct survival {
    struct prng prng;
    unsigned per_million; /* of the sectors */
};

static bool survives(void *ctx)
{
    struct survival *s = ctx;
    return prng_chance(&s->prng, s->per_million);
}

/* The extremes are drawn often: they are what a machine with and one without a write cache do. */
static void look(const char *seed)
{
    static const unsigned shares[] = { 50000, 300000, 500000, 700000, 950000 };
    bool none = strcmp(seed, "none") == 0;
    bool all = strcmp(seed, "all") == 0;
    struct prng prng = prng_seed(strtoull(seed, NULL, 10));
    uint64_t style = prng_below(&prng, 8);
    none |= !all && style == 0;
    all |= !none && style == 1;
    bool whole_changes = style < 5;
    unsigned share = shares[prng_below(&prng, ARRAY_LEN(shares))];
    bool tears = *seed && seed[strlen(seed) - 1] == 't';
    replay.survived = replay.torn = 0;
    replay.torn_per_million = tears ? shares[prng_below(&prng, ARRAY_LEN(shares))] : 0;
    replay.tear = prng_seed(prng_next(&prng));
    for (size_t i = 0; i < replay.change_count && !none; i++) {
        struct survival s = { .prng = prng_seed(prng_next(&prng)), .per_million = share };
        if (all || whole_changes)
            s.per_million = all || prng_chance(&s.prng, share) ? 1000000 : 0;
        each_run(&replay.changes[i], survives, &s, save_and_write_run);
    }
}

static bool copy_range(int to, uint64_t offset_bytes, uint64_t length_bytes)
{
    while (length_bytes > 0) {
        ssize_t n = pwrite(to, replay.work + offset_bytes, length_bytes, (off_t)offset_bytes);
        if (n <= 0)
            return false;
        offset_bytes += (uint64_t)n;
        length_bytes -= (uint64_t)n;
    }
    return true;
}

static bool copy_image(const char *path)
{
    int to = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool good = to >= 0 && ftruncate(to, (off_t)replay.size_bytes) == 0;
    for (off_t at = 0; good && (uint64_t)at < replay.size_bytes;) {
        off_t data = lseek(replay.work_fd, at, SEEK_DATA);
        if (data < 0) {
            good = errno == ENXIO;
            break;
        }
        at = lseek(replay.work_fd, data, SEEK_HOLE);
        good = at > data && copy_range(to, (uint64_t)data, (uint64_t)(at - data));
    }
    if (to >= 0 && close(to) < 0)
        good = false;
    return good;
}

/* ---- the log ---- */

/* False at the end; what a killed daemon left of a last event counts as the end. */
static bool peek(uint64_t at_bytes, uint64_t number, struct record_event *event)
{
    struct err err = { 0 };
    if (replay.log_bytes - at_bytes < sizeof(struct record_event_header))
        return false;
    if (record_event_decode((const struct record_event_header *)(replay.log + at_bytes), number, replay.size_bytes,
                            event, &err))
        die("the log at byte %llu: %s", (unsigned long long)at_bytes, err.text);
    return replay.log_bytes - at_bytes - sizeof(struct record_event_header) >= event->payload_bytes;
}

static uint64_t bytes_of(const struct record_event *e) { return sizeof(struct record_event_header) + e->payload_bytes; }

static void scan(void)
{
    size_t room = 0;
    struct record_event e;
    for (uint64_t at = replay.at_bytes; peek(at, replay.events + 1, &e); at += bytes_of(&e)) {
        replay.events++;
        replay.first_ns = replay.events == 1 ? e.time_ns : replay.first_ns;
        replay.last_ns = e.time_ns;
        if (e.event != RECORD_COMPLETE || e.op != OP_FLUSH || e.result)
            continue;
        replay.flush_ends_ns =
            grown(replay.flush_ends_ns, replay.flush_end_count, &room, sizeof(*replay.flush_ends_ns));
        replay.flush_ends_ns[replay.flush_end_count++] = e.time_ns;
    }
}

static void on_submit(const struct record_event *e, const uint8_t *payload)
{
    struct replay *r = &replay;
    if (e->op == OP_FLUSH) {
        r->flushes = grown(r->flushes, r->flush_count, &r->flush_room, sizeof(*r->flushes));
        r->flushes[r->flush_count++] = (struct flush) { e->number, r->completions };
        return;
    }
    struct change c = {
        .number = e->number,
        .range = { e->offset_bytes, e->length_bytes },
        .payload = e->op == OP_WRITE ? payload : NULL,
        .fua = e->flags & OP_FLAG_FUA,
    };
    for (size_t i = 0; i < r->change_count; i++)
        r->overlaps += !r->changes[i].completed && range_overlaps(r->changes[i].range, c.range);
    r->changes = grown(r->changes, r->change_count, &r->change_room, sizeof(*r->changes));
    r->changes[r->change_count++] = c;
}

static void on_flush_end(const struct record_event *e)
{
    struct replay *r = &replay;
    size_t i = 0;
    while (i < r->flush_count && r->flushes[i].number != e->request)
        i++;
    if (i == r->flush_count)
        die("event %llu: no such flush is in flight", (unsigned long long)e->number);
    uint64_t covers = r->flushes[i].covers;
    r->flushes[i] = r->flushes[--r->flush_count];
    if (e->result == 0) {
        make_certain(covers);
        return;
    }
    for (size_t n = 0; n < r->change_count; n++)
        r->changes[n].uncertain |= r->changes[n].completed && r->changes[n].completed <= covers;
}

static void on_complete(const struct record_event *e)
{
    struct replay *r = &replay;
    r->completions++;
    if (e->op == OP_FLUSH) {
        on_flush_end(e);
        return;
    }
    size_t i = r->change_count;
    while (i > 0 && r->changes[i - 1].number != e->request)
        i--;
    if (i == 0 || r->changes[i - 1].completed)
        die("event %llu: no such change is in flight", (unsigned long long)e->number);
    struct change *c = &r->changes[i - 1];
    c->completed = r->completions;
    c->uncertain |= e->result != 0;
    if (c->fua)
        make_certain(0);
}

/* A new daemon: what its predecessor had in flight has come to some end that nobody saw, or that was looked at. */
static void on_open(const struct record_event *e)
{
    struct replay *r = &replay;
    const uint8_t *found = NULL;
    while (r->found_at < r->found_count && r->founds[r->found_at].time_ns < e->time_ns)
        found = r->founds[r->found_at++].image;
    r->flush_count = 0;
    size_t count = r->change_count;
    for (size_t i = 0; i < count; i++) {
        struct change *c = &r->changes[i];
        if (c->completed)
            continue;
        c->completed = ++r->completions;
        c->uncertain = true;
        if (!found)
            continue;
        struct change as_found = {
            .number = e->number,
            .range = c->range,
            .payload = found + c->range.offset_bytes,
            .completed = ++r->completions,
        };
        r->changes = grown(r->changes, r->change_count, &r->change_room, sizeof(*r->changes));
        r->changes[r->change_count++] = as_found;
    }
}

static void step(const struct record_event *e)
{
    const uint8_t *payload = replay.log + replay.at_bytes + sizeof(struct record_event_header);
    switch (e->event) {
    case RECORD_OPEN: on_open(e); break;
    case RECORD_SUBMIT: on_submit(e, payload); break;
    case RECORD_COMPLETE: on_complete(e); break;
    case RECORD_CLOSE: break;
    }
    replay.at_bytes += bytes_of(e);
    replay.at++;
    replay.time_ns = e->time_ns;
}

static void walk(uint64_t to_event, uint64_t to_ns)
{
    struct record_event e;
    while (replay.at < to_event && peek(replay.at_bytes, replay.at + 1, &e) && e.time_ns <= to_ns)
        step(&e);
}

/* ---- commands ---- */

static void answer(void)
{
    const struct replay *r = &replay;
    uint64_t in_flight = 0;
    uint64_t sectors = 0;
    for (size_t i = 0; i < r->change_count; i++) {
        in_flight += !r->changes[i].completed;
        sectors += r->changes[i].range.length_bytes / SECTOR_BYTES;
    }
    printf("ok at=%llu time=%llu events=%llu first=%llu last=%llu uncertain=%zu in_flight=%llu sectors=%llu "
           "survived=%llu torn=%llu overlaps=%llu\n",
           (unsigned long long)r->at, (unsigned long long)r->time_ns, (unsigned long long)r->events,
           (unsigned long long)r->first_ns, (unsigned long long)r->last_ns, r->change_count,
           (unsigned long long)in_flight, (unsigned long long)sectors, (unsigned long long)r->survived,
           (unsigned long long)r->torn, (unsigned long long)r->overlaps);
}

static void tell_touched(uint64_t from_bytes, uint64_t to_bytes)
{
    struct record_event e;
    uint64_t number = 1;
    printf("ok");
    for (uint64_t at = sizeof(struct record_file_header); peek(at, number, &e); at += bytes_of(&e), number++)
        if (e.length_bytes && e.offset_bytes >= from_bytes && e.offset_bytes < to_bytes)
            printf(" %llu", (unsigned long long)e.time_ns);
    printf("\n");
}

static void on_command(char *line)
{
    char *save = NULL;
    const char *word = strtok_r(line, " \n", &save);
    const char *arg = strtok_r(NULL, " \n", &save);
    const char *path = strtok_r(NULL, "\n", &save);
    if (!word) {
        printf("error no command\n");
        return;
    }
    take_look_back();
    uint64_t number = arg ? strtoull(arg, NULL, 10) : 0;
    if (strcmp(word, "at") == 0 && arg) {
        walk(number, UINT64_MAX);
        answer();
    } else if (strcmp(word, "time") == 0 && arg) {
        walk(UINT64_MAX, number);
        answer();
    } else if (strcmp(word, "look") == 0 && arg) {
        look(arg);
        answer();
    } else if (strcmp(word, "cut") == 0 && arg && path) {
        look(arg);
        if (copy_image(path))
            answer();
        else
            printf("error %s: %s\n", path, strerror(errno));
        take_look_back();
    } else if (strcmp(word, "touched") == 0 && arg) {
        tell_touched(number, path ? strtoull(path, NULL, 10) : UINT64_MAX);
    } else if (strcmp(word, "flushes") == 0) {
        printf("ok");
        for (uint64_t i = 0; i < replay.flush_end_count; i++)
            printf(" %llu", (unsigned long long)replay.flush_ends_ns[i]);
        printf("\n");
    } else {
        printf("error no such command: %s\n", word);
    }
}

static void open_log(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        die("%s: %s", path, strerror(errno));
    replay.log_bytes = (uint64_t)st.st_size;
    if (replay.log_bytes < sizeof(struct record_file_header))
        die("%s: is no log of a recorded disk", path);
    void *log = mmap(NULL, replay.log_bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (log == MAP_FAILED)
        die("%s: %s", path, strerror(errno));
    close(fd);
    replay.log = log;
    replay.at_bytes = sizeof(struct record_file_header);
    struct err err = { 0 };
    if (record_file_header_decode(log, &replay.size_bytes, &err))
        die("%s: %s", path, err.text);
    if (replay.size_bytes > SIZE_BYTES_MAX)
        die("%s: the disk has %llu bytes, at most %llu can be replayed", path, (unsigned long long)replay.size_bytes,
            (unsigned long long)SIZE_BYTES_MAX);
}

static void open_work(const char *path)
{
    struct stat st;
    replay.work_fd = open(path, O_RDWR | O_CLOEXEC);
    if (replay.work_fd < 0 || fstat(replay.work_fd, &st) < 0)
        die("%s: %s", path, strerror(errno));
    if ((uint64_t)st.st_size != replay.size_bytes)
        die("%s: has %llu bytes, the recorded disk %llu", path, (unsigned long long)st.st_size,
            (unsigned long long)replay.size_bytes);
    void *work = mmap(NULL, replay.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, replay.work_fd, 0);
    replay.version = calloc(replay.size_bytes / SECTOR_BYTES, sizeof(*replay.version));
    if (work == MAP_FAILED || !replay.version)
        die("%s: out of memory", path);
    replay.work = work;
}

/* NS=PATH */
static void open_found(const char *text)
{
    struct replay *r = &replay;
    char *path;
    uint64_t time_ns = strtoull(text, &path, 10);
    if (*path++ != '=')
        die("%s: is no NS=FOUND", text);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        die("%s: %s", path, strerror(errno));
    if ((uint64_t)st.st_size != r->size_bytes)
        die("%s: has %llu bytes, the recorded disk %llu", path, (unsigned long long)st.st_size,
            (unsigned long long)r->size_bytes);
    void *image = mmap(NULL, r->size_bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (image == MAP_FAILED)
        die("%s: %s", path, strerror(errno));
    close(fd);
    size_t room = r->found_count;
    r->founds = grown(r->founds, r->found_count, &room, sizeof(*r->founds));
    r->founds[r->found_count++] = (struct found) { time_ns, image };
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fputs("usage: crash-replay LOG WORK [NS=FOUND...]\n", stderr);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    open_log(argv[1]);
    open_work(argv[2]);
    for (int i = 3; i < argc; i++)
        open_found(argv[i]);
    scan();
    answer();
    static char line[LINE_BYTES];
    while (fgets(line, sizeof(line), stdin))
        on_command(line);
    return 0;
}
