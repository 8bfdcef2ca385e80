/* Where a file has data and where holes, asked beside the ring: lseek() may have to read the file system's metadata. */
#include <errno.h>

#include "blockdev/disk/disk_private.h"

#define STACK_BYTES (64 * KIB)

static void add_run(struct disk_map *map, uint64_t length_bytes, bool hole)
{
    map->runs[map->run_count++] = (struct disk_run) { length_bytes, hole };
}

/* Whatever changes meanwhile: a hole is claimed only where one was found, whole blocks only. */
static void find_runs(int fd, struct disk_map *map)
{
    const uint64_t end = map->offset_bytes + map->length_bytes;
    uint64_t at = map->offset_bytes;
    map->run_count = 0;
    while (at < end && map->run_count < map->runs_max) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA);
        if (data < 0 && errno == ENXIO) { /* nothing but a hole up to the end of the file */
            add_run(map, end - at, true);
            return;
        }
        if (data < 0) { /* it cannot tell */
            add_run(map, end - at, false);
            return;
        }
        uint64_t hole_end = min_u64(align_down((uint64_t)data, BLOCK_BYTES), end);
        if (hole_end > at) {
            add_run(map, hole_end - at, true);
            at = hole_end;
            continue;
        }
        off_t hole = lseek(fd, data, SEEK_HOLE);
        uint64_t data_end = hole < 0 ? end : min_u64(align_up((uint64_t)hole, BLOCK_BYTES), end);
        data_end = max_u64(data_end, at + BLOCK_BYTES); /* punched between the two calls */
        add_run(map, data_end - at, false);
        at = data_end;
    }
}

static void *answer(void *arg)
{
    struct disk_mapper *m = arg;
    pthread_mutex_lock(&m->lock);
    for (;;) {
        struct list *node = list_pop(&m->asked);
        if (node) {
            struct disk_map *map = container_of(node, struct disk_map, link);
            pthread_mutex_unlock(&m->lock);
            find_runs(m->fd, map);
            ring_post(m->ring, &map->task);
            pthread_mutex_lock(&m->lock);
        } else if (m->stop) {
            break;
        } else {
            pthread_cond_wait(&m->wake, &m->lock);
        }
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

int disk_mapper_open(struct disk_mapper *m, struct ring *r, int fd)
{
    m->ring = r;
    m->fd = fd;
    m->stop = false;
    list_init(&m->asked);
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->wake, NULL);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    int rc = pthread_create(&m->thread, &attr, answer, m);
    pthread_attr_destroy(&attr);
    return -rc;
}

void disk_mapper_ask(struct disk_mapper *m, struct disk_map *map)
{
    pthread_mutex_lock(&m->lock);
    list_append(&m->asked, &map->link);
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
}

void disk_mapper_close(struct disk_mapper *m)
{
    pthread_mutex_lock(&m->lock);
    m->stop = true;
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
    pthread_join(m->thread, NULL);
    pthread_cond_destroy(&m->wake);
    pthread_mutex_destroy(&m->lock);
}
