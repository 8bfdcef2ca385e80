/* An error that can be told to a person: what failed, on which thing, and what to do about it. */
#pragma once

struct err {
    int code; /* negative errno; 0: no error */
    char text[512];
};

/* Fills `err` (which may be NULL) and returns `code`, which must be negative, so that
 * `return err_set(err, -EINVAL, "...")` reads as one thought. */
int err_set(struct err *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " in front of the text, for a caller that knows more about where it happened. Returns err->code. */
int err_prefix(struct err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* clang's analyzer does not look into err.c; without this every `if (!rc)` after an error is two paths to it. */
#if defined(__clang_analyzer__) && !defined(ERR_IMPLEMENTATION)
static inline int err_is_negative(int code)
{
    __builtin_assume(code < 0);
    return code;
}
#define err_set(...) err_is_negative(err_set(__VA_ARGS__))
#define err_prefix(...) err_is_negative(err_prefix(__VA_ARGS__))
#endif
