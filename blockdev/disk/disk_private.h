/* What the files of the disk share. */
#pragma once

#include <pthread.h>
#include <sys/stat.h>

#include "blockdev/disk/disk.h"

/* Ends an io without doing anything, from the loop. */
void disk_end_later(struct ring *r, struct disk_io *io, int32_t result);

/* A filter takes the io on its way down: `done` is called instead of the one above. */
void disk_filter_enter(struct disk *d, struct disk_io *io, disk_done_fn *done);

/* The filter that the io went through last, and its note. */
struct disk *disk_filter_of(const struct disk_io *io);
uint64_t *disk_filter_note(struct disk_io *io);

/* The io is as it was above that filter. */
void disk_filter_leave(struct disk_io *io);

/* Sets up what a filter has in common; 0 or a negative errno. */
int disk_filter_init(struct disk *d, const struct disk_ops *ops, struct disk *below, struct err *err);

/* disk_busy.c: who holds a backing that could not be locked, in words, for the end of a sentence. True when it is
 * certain to last: then waiting is in vain. `st` is of the backing. */
bool disk_busy_by(const char *path, const struct stat *st, char *who, size_t who_bytes);

/* True when a loop device stands on the file: that takes no lock, and may be mounted. `who` as above. */
bool disk_under_loop(const struct stat *st, char *who, size_t who_bytes);

/* disk_map.c: asks the file system on a thread of its own. */
struct disk_mapper {
    struct ring *ring;
    int fd;
    pthread_t thread;
    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t wake;
    struct list asked;
    bool stop;
};
int disk_mapper_open(struct disk_mapper *m, struct ring *r, int fd);
void disk_mapper_ask(struct disk_mapper *m, struct disk_map *map); /* map->task is posted when answered */
void disk_mapper_close(struct disk_mapper *m);                     /* nothing may be asked any more */
