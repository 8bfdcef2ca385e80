/* A volume's register: what the engine asks it, and the answers on their way back to the volume's thread. */
#include "repl/node/volume_internal.h"

static void run_answer(struct ring_task *task)
{
    struct volume *v = container_of(task, struct volume, answer_task);
    volume_step(v, &(struct event) { .kind = EV_REGISTER, .answer = &v->answer });
}

/* On the thread of the register's client. The engine asks one thing at a time: nobody looks at `answer` meanwhile. */
static void answered(void *ctx, const struct register_answer *answer)
{
    struct volume *v = ctx;
    v->answer = *answer;
    v->answer_task.run = run_answer;
    ring_post(v->ring, &v->answer_task);
}

int volume_open_register(struct volume *v, struct err *err)
{
    if (!config_has_witness(&v->config))
        return 0;
    v->line = register_line_open(v->host.registers, &v->config, answered, v, err);
    return v->line ? 0 : err->code;
}
