/* Counts what each thread of a program allocates, for test_no_alloc.py: LD_PRELOAD, with LOCKSTEP_ALLOC_FILE naming a
 * file of struct shared that the test maps, too. */
#undef _FILE_OFFSET_BITS /* else <sys/mman.h> makes mmap() another name of mmap64() */
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS_MAX 256
#define TRACES_MAX 4
#define TRACE_DEPTH 8

/* test_no_alloc.py reads it: keep both alike. */
struct slot {
    int64_t tid;
    uint64_t allocations; /* malloc, calloc, realloc and its relatives */
    uint64_t frees;
    uint64_t mappings; /* mmap, mremap, munmap */
    uint64_t trace_count;
    uint64_t traces[TRACES_MAX][TRACE_DEPTH]; /* return addresses of the first ones after `armed` was set */
};

struct shared {
    _Atomic uint64_t armed; /* set by the test */
    _Atomic uint64_t slots_used;
    struct slot slots[THREADS_MAX];
};

/* glibc's own names of what is replaced here: no dlsym(), which allocates itself. */
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *p, size_t bytes);
extern void *__libc_memalign(size_t align, size_t bytes);
extern void __libc_free(void *p);

static struct shared *shared;
static __thread struct slot *mine __attribute__((tls_model("initial-exec")));
static __thread int inside __attribute__((tls_model("initial-exec")));

static void *raw_mmap(void *addr, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    return (void *)syscall(SYS_mmap, addr, bytes, protection, flags, fd, offset);
}

__attribute__((constructor)) static void attach(void)
{
    void *warm_up[1];
    backtrace(warm_up, 1); /* loads libgcc, which allocates: now, not later */
    const char *path = getenv("LOCKSTEP_ALLOC_FILE");
    if (!path)
        return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *map = raw_mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        shared = map;
}

static struct slot *slot_of_thread(void)
{
    if (!shared || inside)
        return NULL;
    if (!mine) {
        uint64_t i = atomic_fetch_add(&shared->slots_used, 1);
        if (i >= THREADS_MAX)
            abort();
        mine = &shared->slots[i];
        mine->tid = syscall(SYS_gettid);
    }
    return mine;
}

static void trace(struct slot *s)
{
    if (!atomic_load_explicit(&shared->armed, memory_order_relaxed) || s->trace_count >= TRACES_MAX)
        return;
    inside = 1;
    void *frames[TRACE_DEPTH] = { 0 };
    backtrace(frames, TRACE_DEPTH);
    for (int i = 0; i < TRACE_DEPTH; i++)
        s->traces[s->trace_count][i] = (uint64_t)(uintptr_t)frames[i];
    s->trace_count++;
    inside = 0;
}

static void count_allocation(void)
{
    struct slot *s = slot_of_thread();
    if (!s)
        return;
    s->allocations++;
    trace(s);
}

static void count_mapping(void)
{
    struct slot *s = slot_of_thread();
    if (!s)
        return;
    s->mappings++;
    trace(s);
}

void *malloc(size_t bytes)
{
    count_allocation();
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    count_allocation();
    return __libc_calloc(count, bytes);
}

void *realloc(void *p, size_t bytes)
{
    count_allocation();
    return __libc_realloc(p, bytes);
}

void *memalign(size_t align, size_t bytes)
{
    count_allocation();
    return __libc_memalign(align, bytes);
}

void *aligned_alloc(size_t align, size_t bytes) { return memalign(align, bytes); }

int posix_memalign(void **out, size_t align, size_t bytes)
{
    if (align < sizeof(void *) || (align & (align - 1)))
        return EINVAL;
    void *p = memalign(align, bytes);
    if (!p)
        return ENOMEM;
    *out = p;
    return 0;
}

void free(void *p)
{
    struct slot *s = p ? slot_of_thread() : NULL;
    if (s)
        s->frees++;
    __libc_free(p);
}

void *mmap(void *addr, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    count_mapping();
    return raw_mmap(addr, bytes, protection, flags, fd, offset);
}

void *mmap64(void *addr, size_t bytes, int protection, int flags, int fd, off_t offset) __attribute__((alias("mmap")));

int munmap(void *addr, size_t bytes)
{
    count_mapping();
    return (int)syscall(SYS_munmap, addr, bytes);
}
