/* An error that can be told to a person: what failed, on which thing, and what to do about it. */
#pragma once

struct err {
    int code; /* negative errno; 0: no error */
    char text[512];
};

/* Fills `err` (which may be NULL) and returns `code`, so that `return err_set(err, -EINVAL, "...")` reads as one
 * thought. */
int err_set(struct err *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " in front of the text, for a caller that knows more about where it happened. Returns err->code. */
int err_prefix(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
