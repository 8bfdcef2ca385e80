/* Serves a volume in memory over NBD until it is killed: to try clients by hand, and to measure the front alone. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/unit/ram_volume.h"

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s unix:/PATH|HOST:PORT SIZE-IN-MIB\n", argv[0]);
        return 2;
    }
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);
    struct ram_config config = {
        .address = argv[1],
        .size_bytes = strtoull(argv[2], NULL, 10) * MIB,
        .arena_bytes = 32 * MIB,
        .keep_free_bytes = 8 * MIB,
        .serve = true,
    };
    struct ram_volume *v = ram_open(&config);
    /* Faulted in now, so that no measurement is of page faults. Nobody can have written yet who would mind. */
    madvise(v->data, config.size_bytes, MADV_POPULATE_WRITE);
    int sig;
    sigwait(&ends, &sig);
    fputs(v->notes, stdout);
    ram_close(v);
    return 0;
}
