/* Range locks in asking order. */
#include "repl/core/range_lock.h"

static uint64_t region_of(uint64_t offset_bytes) { return offset_bytes / RANGE_LOCK_REGION_BYTES; }

static bool is_wide(const struct range_lock *lock) { return lock->range.length_bytes > RANGE_LOCK_REGION_BYTES; }

static struct list *bucket_of(struct range_locks *locks, uint64_t region)
{
    static_assert(RANGE_LOCK_BUCKETS == 1 << (64 - 54), "the hash fills the table");
    /* Fibonacci hashing: neighbours, which are often in use at the same time, land far from each other. */
    return &locks->buckets[(region * UINT64_C(0x9e3779b97f4a7c15)) >> 54];
}

static bool conflict(const struct range_lock *a, const struct range_lock *b)
{
    return (a->exclusive || b->exclusive) && range_overlaps(a->range, b->range);
}

void range_locks_init(struct range_locks *locks)
{
    locks->next_order = 0;
    list_init(&locks->all);
    list_init(&locks->wide);
    for (unsigned i = 0; i < RANGE_LOCK_BUCKETS; i++)
        list_init(&locks->buckets[i]);
}

typedef void visit_fn(struct range_lock *lock, struct range_lock *other, struct list *granted);

/* Two narrow locks may be filed under two common regions; they count where their overlap begins. */
static bool meet_in_region(const struct range_lock *a, const struct range_lock *b, uint64_t region)
{
    return region_of(max_u64(a->range.offset_bytes, b->range.offset_bytes)) == region;
}

static void for_each_conflict(struct range_locks *locks, struct range_lock *lock, visit_fn *visit, struct list *granted)
{
    if (is_wide(lock)) {
        list_for_each (pos, &locks->all) {
            struct range_lock *other = container_of(pos, struct range_lock, in_all);
            if (other != lock && conflict(lock, other))
                visit(lock, other, granted);
        }
        return;
    }
    for (unsigned i = 0; i < lock->entry_count; i++) {
        uint64_t region = lock->entries[i].region;
        list_for_each (pos, bucket_of(locks, region)) {
            struct range_lock_entry *entry = container_of(pos, struct range_lock_entry, link);
            struct range_lock *other = entry->lock;
            if (entry->region == region && other != lock && conflict(lock, other) &&
                meet_in_region(lock, other, region))
                visit(lock, other, granted);
        }
    }
    list_for_each (pos, &locks->wide) {
        struct range_lock *other = container_of(pos, struct range_lock_entry, link)->lock;
        if (conflict(lock, other))
            visit(lock, other, granted);
    }
}

static void count_blocker(struct range_lock *lock, struct range_lock *other, struct list *granted)
{
    (void)other;
    (void)granted;
    lock->blockers++;
}

static void stop_blocking(struct range_lock *lock, struct range_lock *other, struct list *granted)
{
    if (other->order < lock->order)
        return;
    assert(other->blockers > 0);
    if (--other->blockers == 0)
        list_append(granted, &other->granted);
}

static void file_under(struct range_lock *lock, uint64_t region, struct list *head)
{
    struct range_lock_entry *entry = &lock->entries[lock->entry_count++];
    entry->lock = lock;
    entry->region = region;
    list_append(head, &entry->link);
}

bool range_lock(struct range_locks *locks, struct range_lock *lock, struct range range, bool exclusive)
{
    assert(range.length_bytes > 0);
    lock->range = range;
    lock->exclusive = exclusive;
    lock->blockers = 0;
    lock->order = locks->next_order++;
    lock->entry_count = 0;
    list_init(&lock->granted);
    if (is_wide(lock)) {
        file_under(lock, 0, &locks->wide);
    } else {
        uint64_t first = region_of(range.offset_bytes);
        uint64_t last = region_of(range_end(range) - 1);
        file_under(lock, first, bucket_of(locks, first));
        if (last != first)
            file_under(lock, last, bucket_of(locks, last));
    }
    list_append(&locks->all, &lock->in_all);
    for_each_conflict(locks, lock, count_blocker, NULL);
    return lock->blockers == 0;
}

void range_unlock(struct range_locks *locks, struct range_lock *lock, struct actions *out)
{
    struct list granted;
    list_init(&granted);
    for_each_conflict(locks, lock, stop_blocking, &granted);
    for (unsigned i = 0; i < lock->entry_count; i++)
        list_remove(&lock->entries[i].link);
    list_remove(&lock->in_all);
    list_remove(&lock->granted); /* its owner gives it up before it was told */
    for (struct list *node; (node = list_pop(&granted));) {
        struct range_lock *next = container_of(node, struct range_lock, granted);
        next->on_granted(next, out);
    }
}
