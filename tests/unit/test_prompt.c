/* Short slices for a thread, and nothing else of its scheduling changed. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "blockdev/ring/prompt.h"

#define sched_param kernel_sched_param /* <sched.h> has its own */
#include <linux/sched/types.h>
#undef sched_param

static struct sched_attr now(void)
{
    struct sched_attr attr = { 0 };
    assert_int_equal(syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0), 0);
    return attr;
}

static void on_a_thread(void *(*run)(void *))
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static bool slices_are_granted(void)
{
    struct utsname u;
    unsigned major = 0, minor = 0;
    uname(&u);
    sscanf(u.release, "%u.%u", &major, &minor);
    return major > 6 || (major == 6 && minor >= 12);
}

static bool has_default_policy;

static void *default_policy(void *ctx)
{
    /* Whatever this test was started with: idle, batch, nice. */
    struct sched_param param = { 0 };
    has_default_policy = sched_setscheduler(0, SCHED_OTHER, &param) == 0;
    if (!has_default_policy)
        return NULL;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 3);
    struct sched_attr before = now();
    thread_be_prompt();
    struct sched_attr after = now();
    assert_int_equal(after.sched_policy, SCHED_OTHER);
    assert_int_equal(after.sched_nice, before.sched_nice);
    assert_int_equal(after.sched_flags, before.sched_flags);
    if (slices_are_granted())
        assert_int_equal(after.sched_runtime, PROMPT_SLICE_NS);
    return NULL;
}

static void the_default_policy_gets_short_slices(void **state)
{
    on_a_thread(default_policy);
    if (!has_default_policy) {
        printf("skipped: not allowed to leave the policy that this test was started with\n");
        skip();
    }
    if (!slices_are_granted())
        printf("skipped: this kernel is older than 6.12 and does not grant slices; only looked at what stays\n");
}

static void *batch_policy(void *ctx)
{
    struct sched_param param = { 0 };
    assert_int_equal(sched_setscheduler(0, SCHED_BATCH, &param), 0);
    struct sched_attr before = now();
    thread_be_prompt();
    struct sched_attr after = now();
    assert_int_equal(after.sched_policy, SCHED_BATCH);
    assert_int_equal(after.sched_runtime, before.sched_runtime);
    return NULL;
}

static void what_the_operator_chose_stays(void **state) { on_a_thread(batch_policy); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_default_policy_gets_short_slices),
        cmocka_unit_test(what_the_operator_chose_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
