/* Memory that is there from the beginning. */
#include "repl/base/resident.h"

#include <stdlib.h>

#define PAGE_BYTES_MIN 4096

void *resident_calloc(size_t count, size_t bytes)
{
    void *memory = calloc(count, bytes);
    /* Through a volatile pointer: a compiler knows that it is zero already. */
    volatile char *page = memory;
    for (size_t i = 0; memory && i < count * bytes; i += PAGE_BYTES_MIN)
        page[i] = 0;
    return memory;
}
