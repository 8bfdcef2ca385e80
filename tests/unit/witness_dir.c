/* Where tests of the witness have its database. */
#include "tests/unit/witness_dir.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/unit.h"

char dir[96];
static char top[64];

int make_top(void)
{
    /* Where syncing is quick, if it can be had: none of it is about the real disk. */
    snprintf(top, sizeof(top), "%s/lockstep-witness-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    return mkdtemp(top) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) { return remove(path); }

void remove_top(void) { nftw(top, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

void next_dir(void)
{
    static unsigned number;
    snprintf(dir, sizeof(dir), "%s/%u", top, number++);
}

const char *in_dir(const char *name)
{
    static char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

void copy_file(const char *from, const char *to)
{
    static uint8_t bytes[1 << 20];
    int in = open(from, O_RDONLY);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t n = read(in, bytes, sizeof(bytes));
    assert_true(n > 0 && n < (ssize_t)sizeof(bytes));
    assert_int_equal(write(out, bytes, (size_t)n), n);
    close(in);
    close(out);
}
