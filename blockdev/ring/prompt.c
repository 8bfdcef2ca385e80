/* How soon a thread runs after it was woken.
 *
 * A write passes four wake-ups on its way through two nodes, and each may find its CPU taken by a thread that computes:
 * the application's, often. The scheduler (EEVDF) decides by virtual deadlines, and a short slice is a near deadline.
 */
#include "blockdev/ring/prompt.h"

#include <linux/sched.h>
#include <linux/sched/types.h> /* has a sched_param of its own: not beside <sched.h> */
#include <sys/syscall.h>
#include <unistd.h>

void thread_be_prompt(void)
{
    struct sched_attr attr = { 0 };
    if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) != 0 || attr.sched_policy != SCHED_NORMAL)
        return;
    attr.size = sizeof(attr);
    attr.sched_runtime = PROMPT_SLICE_NS;
    /* Refused by a container's seccomp filter, say: it works without, only less promptly. */
    (void)syscall(SYS_sched_setattr, 0, &attr, 0);
}
