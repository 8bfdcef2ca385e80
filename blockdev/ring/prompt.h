/* How soon a thread runs after it was woken. */
#pragma once

#include <stdint.h>

#define PROMPT_SLICE_NS UINT64_C(100000) /* the shortest that Linux takes */

/* Asks the scheduler to let the calling thread run soon after it is woken, ahead of threads that compute: by short
 * time slices, which Linux 6.12 and newer grant without privileges and without a larger share of the CPU. Older kernels
 * ignore it. A thread with another policy than the default one, given to it by its operator, keeps that as it is, and
 * so does nice. Threads started by it later inherit it. */
void thread_be_prompt(void);
