/* The log: forms, levels, and that a reader who sleeps blocks nobody. */
#include "repl/node/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/unit.h"

static int ends[2]; /* a pipe: the log writes into ends[1] */

static int make_pipe(void **state) { return pipe2(ends, O_CLOEXEC); }

static int close_pipe(void **state)
{
    close(ends[0]);
    if (ends[1] >= 0)
        close(ends[1]);
    return 0;
}

static struct log *open_log(bool journal, enum log_level level)
{
    struct log_config config = { .fd = ends[1], .level = level, .journal = journal };
    struct err err;
    struct log *l = log_open(&config, &err);
    assert_non_null(l);
    return l;
}

/* Everything that was written, after the log is closed. */
static const char *written(void)
{
    static char text[1 << 20];
    size_t used = 0;
    close(ends[1]);
    ends[1] = -1;
    ssize_t n;
    while ((n = read(ends[0], text + used, sizeof(text) - 1 - used)) > 0)
        used += (size_t)n;
    text[used] = 0;
    return text;
}

static void journal_lines_have_a_priority(void **state)
{
    struct log *l = open_log(true, LOG_LEVEL_INFO);
    log_line(l, LOG_LEVEL_ERROR, "gold42", "disk %d", 7);
    log_line(l, LOG_LEVEL_WARNING, NULL, "careful");
    log_line(l, LOG_LEVEL_INFO, NULL, "two\nlines\x1b[31m");
    log_line(l, LOG_LEVEL_DEBUG, NULL, "left out");
    log_close(l);
    assert_string_equal(written(), "<3>gold42: disk 7\n<4>careful\n<6>two?lines?[31m\n");
}

static void other_lines_have_time_and_level(void **state)
{
    struct log *l = open_log(false, LOG_LEVEL_DEBUG);
    log_text(l, LOG_LEVEL_DEBUG, "g", "100% sure %s");
    log_close(l);
    unsigned year, month, day, hour, minute, second, ms;
    int at = 0;
    const char *line = written();
    assert_int_equal(
        sscanf(line, "%4u-%2u-%2uT%2u:%2u:%2u.%3uZ %n", &year, &month, &day, &hour, &minute, &second, &ms, &at), 7);
    assert_true(year >= 2020 && month <= 12 && day <= 31);
    assert_string_equal(line + at, "debug   g: 100% sure %s\n");
}

static void long_lines_are_cut(void **state)
{
    struct log *l = open_log(true, LOG_LEVEL_INFO);
    char text[2 * LOG_TEXT_BYTES];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    log_text(l, LOG_LEVEL_INFO, NULL, text);
    log_close(l);
    const char *line = written();
    assert_int_equal(strlen(line), 3 + LOG_TEXT_BYTES - 1 + 1);
    assert_string_equal(line + strlen(line) - 5, "x...\n");
}

static void *shout(void *arg)
{
    for (unsigned i = 0; i < 4 * LOG_LINES; i++)
        log_line(arg, LOG_LEVEL_INFO, "v", "line %u", i);
    return NULL;
}

static void nobody_waits_for_the_reader(void **state)
{
    struct log *l = open_log(true, LOG_LEVEL_INFO);
    pthread_t threads[2];
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, shout, l), 0);
    for (unsigned i = 0; i < 2; i++) /* far more than the pipe and the queue hold, and nobody reads */
        pthread_join(threads[i], NULL);
    log_close(l); /* gives up, or this test never ends */
    assert_non_null(strstr(written(), "<6>v: line 0\n"));
}

static void dropped_lines_are_told(void **state)
{
    struct log *l = open_log(true, LOG_LEVEL_INFO);
    shout(l); /* fills the pipe */
    shout(l); /* and the queue */
    static char text[1 << 20];
    size_t used = 0;
    /* The log goes on as soon as there is room, and tells before it takes up the next lines. */
    while (!strstr(text, "lines of this log were dropped")) {
        ssize_t n = read(ends[0], text + used, sizeof(text) - 1 - used);
        assert_true(n > 0);
        used += (size_t)n;
        text[used] = 0;
    }
    unsigned long long dropped = 0;
    const char *line = strstr(text, "<4>");
    assert_non_null(line);
    assert_int_equal(sscanf(line, "<4>%llu lines of this log were dropped: it was not read fast enough", &dropped), 1);
    assert_true(dropped > 0 && dropped < 8 * LOG_LINES);
    log_close(l);
}

static void a_reader_that_is_gone_is_survived(void **state)
{
    struct log *l = open_log(true, LOG_LEVEL_INFO);
    close(ends[0]);
    ends[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    log_line(l, LOG_LEVEL_INFO, NULL, "into the void");
    log_line(l, LOG_LEVEL_INFO, NULL, "again");
    log_close(l);
}

static void the_journal_is_recognised(void **state)
{
    unsetenv("JOURNAL_STREAM");
    assert_false(log_fd_is_journal(ends[1]));
    struct stat st;
    assert_int_equal(fstat(ends[1], &st), 0);
    char stream[64];
    snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    assert_true(log_fd_is_journal(ends[1]));
    assert_false(log_fd_is_journal(STDIN_FILENO));
    setenv("JOURNAL_STREAM", "garbage", 1);
    assert_false(log_fd_is_journal(ends[1]));
    unsetenv("JOURNAL_STREAM");
}

static void levels_have_names(void **state)
{
    enum log_level level;
    assert_true(log_level_from_name("warning", &level));
    assert_int_equal(level, LOG_LEVEL_WARNING);
    assert_false(log_level_from_name("loud", &level));
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(journal_lines_have_a_priority, make_pipe, close_pipe),
        cmocka_unit_test_setup_teardown(other_lines_have_time_and_level, make_pipe, close_pipe),
        cmocka_unit_test_setup_teardown(long_lines_are_cut, make_pipe, close_pipe),
        cmocka_unit_test_setup_teardown(nobody_waits_for_the_reader, make_pipe, close_pipe),
        cmocka_unit_test_setup_teardown(dropped_lines_are_told, make_pipe, close_pipe),
        cmocka_unit_test_setup_teardown(a_reader_that_is_gone_is_survived, make_pipe, close_pipe),
        cmocka_unit_test_setup_teardown(the_journal_is_recognised, make_pipe, close_pipe),
        cmocka_unit_test(levels_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
