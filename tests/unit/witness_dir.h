/* Where tests of the witness have its database: a directory for each. */
#pragma once

extern char dir[96]; /* of the present test; it is not there before somebody makes it */

/* Of all of them. 0; -1: with errno. */
int make_top(void);
void remove_top(void);
/* Another one from now on. */
void next_dir(void);

/* A file's path in it, until the next call. */
const char *in_dir(const char *name);
void copy_file(const char *from, const char *to);
