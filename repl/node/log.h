/* The log: lines on stderr, or for the journal, that no volume's thread ever waits for.
 *
 * A line goes into a bounded queue, and a thread of the log's own writes it. When whoever reads stderr is too slow,
 * lines are dropped, and how many is told as soon as it goes on. */
#pragma once

#include <stdbool.h>

#include "repl/base/err.h"
#include "repl/node/volume_host.h"

#define LOG_TEXT_BYTES 640 /* of one line; longer ones are cut */
#define LOG_LINES 1024     /* that may wait to be written; a power of two */

struct log;

struct log_config {
    int fd;               /* where to; stays the caller's */
    enum log_level level; /* what is less urgent is left out */
    bool journal;         /* lines begin with "<N>" and have no time of their own (sd-daemon(3)) */
};

/* True if the descriptor leads to the journal: JOURNAL_STREAM names it. */
bool log_fd_is_journal(int fd);

struct log *log_open(const struct log_config *config, struct err *err);

/* Writes what waits, for at most a second, and ends the thread. */
void log_close(struct log *l);

/* From any thread; never blocks. `volume` may be NULL. Control characters in the text become '?'. */
void log_text(struct log *l, enum log_level level, const char *volume, const char *text);
void log_line(struct log *l, enum log_level level, const char *volume, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* "error", "warning", "info", "debug". */
const char *log_level_name(enum log_level level);
bool log_level_from_name(const char *name, enum log_level *out);
