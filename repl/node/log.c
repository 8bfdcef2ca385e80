/* The log: lines on stderr, or for the journal, that no volume's thread ever waits for. */
#include "repl/node/log.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "repl/base/units.h"
#include "repl/node/printable.h"
#include "repl/node/queue.h"

#define CLOSE_PATIENCE_MS 1000
#define OUTPUT_BYTES (LOG_TEXT_BYTES + NAME_BYTES_MAX + 64) /* below PIPE_BUF: a pipe that polls writable takes it */

struct line {
    struct timespec time; /* when it was said, not when it is written */
    enum log_level level;
    char volume[NAME_BYTES_MAX]; /* "": the daemon's own */
    char text[LOG_TEXT_BYTES];
};

struct log {
    struct log_config config;
    struct queue queue;
    pthread_t thread;
    atomic_bool closing;
};

const char *log_level_name(enum log_level level)
{
    switch (level) {
    case LOG_LEVEL_ERROR: return "error";
    case LOG_LEVEL_WARNING: return "warning";
    case LOG_LEVEL_INFO: return "info";
    case LOG_LEVEL_DEBUG: return "debug";
    }
    return "?";
}

bool log_level_from_name(const char *name, enum log_level *out)
{
    for (enum log_level level = LOG_LEVEL_ERROR; level <= LOG_LEVEL_DEBUG; level++) {
        if (strcmp(log_level_name(level), name) == 0) {
            *out = level;
            return true;
        }
    }
    return false;
}

static int syslog_priority(enum log_level level)
{
    switch (level) {
    case LOG_LEVEL_ERROR: return 3;
    case LOG_LEVEL_WARNING: return 4;
    case LOG_LEVEL_INFO: return 6;
    case LOG_LEVEL_DEBUG: return 7;
    }
    return 7;
}

bool log_fd_is_journal(int fd)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long dev = 0;
    unsigned long long ino = 0;
    struct stat st;
    return stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && fstat(fd, &st) == 0 && st.st_dev == dev &&
           st.st_ino == ino;
}

/* Waits until the descriptor takes a line; false: closing, and it did not for a while. */
static bool wait_writable(struct log *l)
{
    struct pollfd fds[2] = { { .fd = l->config.fd, .events = POLLOUT },
                             { .fd = queue_wake_fd(&l->queue), .events = POLLIN } };
    for (;;) {
        bool closing = atomic_load(&l->closing);
        /* While closing the wake stays unread, so only the descriptor is asked. */
        int n = poll(fds, closing ? 1 : 2, closing ? CLOSE_PATIENCE_MS : -1);
        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0 && fds[0].revents)
            return true;
        if (n == 0)
            return false;
        if (n > 0 && fds[1].revents)
            queue_awake(&l->queue);
    }
}

/* False: nobody will read it any more, or not in time. */
static bool put_out(struct log *l, const char *text, size_t bytes)
{
    while (bytes > 0) {
        if (!wait_writable(l))
            return false;
        ssize_t n = write(l->config.fd, text, bytes);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return true; /* disk full, reader gone: drop this line and try the next */
        if (n > 0) {
            text += n;
            bytes -= (size_t)n;
        }
    }
    return true;
}

static bool write_line(struct log *l, const struct line *line)
{
    char out[OUTPUT_BYTES];
    int n;
    const char *colon = line->volume[0] ? ": " : "";
    if (l->config.journal) {
        n = snprintf(out, sizeof(out), "<%d>%s%s%s\n", syslog_priority(line->level), line->volume, colon, line->text);
    } else {
        struct tm tm;
        char when[32];
        gmtime_r(&line->time.tv_sec, &tm);
        strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
        n = snprintf(out, sizeof(out), "%s.%03uZ %-7s %s%s%s\n", when,
                     (unsigned)((uint64_t)line->time.tv_nsec / NS_PER_MS), log_level_name(line->level), line->volume,
                     colon, line->text);
    }
    return put_out(l, out, (size_t)n);
}

static void compose(struct line *line, enum log_level level, const char *volume, const char *text, size_t text_bytes)
{
    clock_gettime(CLOCK_REALTIME, &line->time);
    line->level = level;
    snprintf(line->volume, sizeof(line->volume), "%s", volume ? volume : "");
    printable(line->text, sizeof(line->text), text, text_bytes);
}

static void *logger(void *arg)
{
    struct log *l = arg;
    bool going = true;
    while (going) {
        bool closing = atomic_load(&l->closing);
        struct line line;
        while (going && queue_take(&l->queue, &line))
            going = write_line(l, &line);
        uint64_t dropped = queue_take_dropped(&l->queue);
        if (going && dropped) {
            char text[96];
            int n = snprintf(text, sizeof(text), "%llu lines of this log were dropped: it was not read fast enough",
                             (unsigned long long)dropped);
            compose(&line, LOG_LEVEL_WARNING, NULL, text, (size_t)n);
            going = write_line(l, &line);
        }
        if (closing) /* seen before the last look into the queue */
            break;
        if (atomic_load(&l->closing)) /* its wake may have been swallowed while waiting for the reader */
            continue;
        struct pollfd fd = { .fd = queue_wake_fd(&l->queue), .events = POLLIN };
        while (poll(&fd, 1, -1) < 0 && errno == EINTR)
            ;
        queue_awake(&l->queue);
    }
    return NULL;
}

struct log *log_open(const struct log_config *config, struct err *err)
{
    struct log *l = calloc(1, sizeof(*l));
    if (!l) {
        err_set(err, -ENOMEM, "the log: out of memory");
        return NULL;
    }
    l->config = *config;
    int rc = queue_open(&l->queue, LOG_LINES, sizeof(struct line));
    if (rc) {
        err_set(err, rc, "the log: %s", strerror(-rc));
        free(l);
        return NULL;
    }
    /* Signals are the main thread's; a thread inherits the mask it is made under. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    rc = pthread_create(&l->thread, NULL, logger, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        err_set(err, -rc, "the log: no thread: %s", strerror(rc));
        queue_close(&l->queue);
        free(l);
        return NULL;
    }
    pthread_setname_np(l->thread, "log");
    return l;
}

void log_close(struct log *l)
{
    atomic_store(&l->closing, true);
    queue_wake(&l->queue);
    pthread_join(l->thread, NULL);
    queue_close(&l->queue);
    free(l);
}

void log_text(struct log *l, enum log_level level, const char *volume, const char *text)
{
    if (level > l->config.level)
        return;
    struct line line;
    compose(&line, level, volume, text, strlen(text));
    queue_put(&l->queue, &line);
}

void log_line(struct log *l, enum log_level level, const char *volume, const char *format, ...)
{
    if (level > l->config.level)
        return;
    char text[LOG_TEXT_BYTES];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    log_text(l, level, volume, text);
}
