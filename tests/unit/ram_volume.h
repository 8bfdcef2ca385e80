/* A volume in memory behind an NBD front on a real ring, with a thread of its own: what stands in for the engine where
 * only the front is tested or measured. */
#pragma once

#include <pthread.h>
#include <semaphore.h>

#include "blockdev/front/front.h"

#define RAM_REQUESTS_MAX 4096
#define RAM_NOTES_BYTES (256 * 1024)

struct ram_config {
    const char *address;
    uint64_t size_bytes;
    size_t arena_bytes;
    size_t keep_free_bytes;
    uint32_t logical_block_bytes;
    unsigned accept_changes_max; /* 0: without limit */
    unsigned accept_reads_max;
    bool serve; /* at once */
    bool no_unmap;
};

struct ram_volume {
    struct ram_config config;
    struct ring *ring;
    struct buf_pool pool;
    struct front *front;
    struct disk disk;
    pthread_t thread;
    sem_t ready;
    struct ring_task wake;
    uint64_t turns; /* of the loop */
    bool woken;
    uint8_t *data;

    /* The loop's thread only, or by ram_call(). */
    struct request waiting[RAM_REQUESTS_MAX];
    unsigned waiting_count;
    unsigned changes;
    unsigned reads;
    bool in_submit;

    /* A test also sets and reads these while the loop runs. */
    _Atomic bool hold_changes; /* requests are not answered */
    _Atomic bool hold_reads;
    _Atomic bool reverse; /* answered in reverse order */
    _Atomic bool fast_zero_is_slow;
    _Atomic uint64_t fail_offset_bytes; /* requests that touch this block fail; UINT64_MAX: none */
    _Atomic int32_t fail_result;
    _Atomic uint64_t submitted[8];
    _Atomic uint64_t fua_writes;
    _Atomic uint64_t kept_allocated;
    _Atomic uint64_t bad_checks;
    _Atomic uint64_t longest_bytes;
    _Atomic size_t lowest_free_bytes;
    _Atomic bool hole_map[64]; /* per 1/64 of the volume: what block status tells */
    _Atomic bool map_fails;
    _Atomic bool backing_is_stale; /* block status must not ask it */

    pthread_mutex_t notes_lock;
    char notes[RAM_NOTES_BYTES];
};

/* Exits with a message when it cannot. */
struct ram_volume *ram_open(const struct ram_config *config);
/* Closes the front, then all the rest; checks that nothing is left behind. */
void ram_close(struct ram_volume *v);
/* Runs a function on the loop's thread and waits for it. */
void ram_call(struct ram_volume *v, void (*fn)(struct ram_volume *v, void *arg), void *arg);
bool ram_noted(struct ram_volume *v, const char *text);
