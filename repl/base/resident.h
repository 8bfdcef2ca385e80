/* Memory that a volume allocates once, when it is opened. */
#pragma once

#include <stddef.h>

/* Like calloc(), and every page of it is touched: what a daemon needs it has from the beginning, so that its memory
 * does not grow when something is used for the first time, and never runs short then. NULL: out of memory. free() gives
 * it back. */
void *resident_calloc(size_t count, size_t bytes);
