/* What a node and the witness send each other: any payload is refused with a reason, or gives a question or answer that
 * survives encoding and decoding unchanged; and a row answers any question without harm. */
#include <stdlib.h>
#include <string.h>

#include "repl/witness/register_table.h"
#include "repl/witness/witness_codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void judge(const struct register_request *q)
{
    struct register_row row;
    struct register_answer a;
    register_row_start(&row, "gold42", (struct id) { 0 }, NULL);
    if (register_row_ask(&row, q, &a) && q->peer[0])
        abort(); /* its peer has told nothing yet */
    if (register_tells_age(q, &a) && decree_is_none(&row.decree))
        abort(); /* of what nobody was promoted by, nothing is remembered */
    bool says_why = a.outcome == REGISTER_OLDER || a.outcome == REGISTER_UNCONFIRMED || a.outcome == REGISTER_REFUSED;
    if (says_why != (a.reason[0] != 0))
        abort();
    char reason[REGISTER_REASON_BYTES];
    if (!register_row_confirm(&row, reason))
        return;
    if (register_row_ask(&row, q, &a) && (a.outcome != REGISTER_DONE || row.decree.epoch != q->proposal.epoch))
        abort();
    if (!register_tells_age(q, &a))
        return;
    if (a.leg_age != 0 || !register_row_take_age(&row, q->node, q->leg_age))
        abort();
    register_row_ask(&row, q, &a);
    if (a.leg_age != q->leg_age || register_tells_age(q, &a))
        abort();
}

static void try_question(const uint8_t *data, size_t size)
{
    struct register_request q, again;
    uint64_t number, number_again;
    const char *why = NULL;
    if (witness_question_decode(data, size, &number, &q, &why) < 0) {
        if (!why)
            abort();
        return;
    }
    if (!q.volume[0] || !q.node[0] || strlen(q.peer) >= NAME_BYTES_MAX || strlen(q.note) >= sizeof(q.note))
        abort();
    uint8_t frame[WITNESS_FRAME_BYTES_MAX];
    uint8_t frame_again[WITNESS_FRAME_BYTES_MAX];
    size_t bytes = witness_question_encode(frame, number, &q);
    if (witness_frame_bytes(frame, bytes) != (int64_t)bytes ||
        witness_question_decode(frame + WITNESS_PREFIX_BYTES, bytes - WITNESS_PREFIX_BYTES, &number_again, &again,
                                &why) < 0)
        abort();
    if (witness_question_encode(frame_again, number_again, &again) != bytes || memcmp(frame, frame_again, bytes) != 0)
        abort();
    if (strcmp(q.volume, "gold42") == 0 && !q.over_older)
        judge(&q);
}

static void try_answer(const uint8_t *data, size_t size)
{
    struct register_answer a, again;
    uint64_t number, number_again;
    const char *why = NULL;
    if (witness_answer_decode(data, size, &number, &a, &why) < 0) {
        if (!why)
            abort();
        return;
    }
    if (a.decree.member_count > DECREE_MEMBERS_MAX || strlen(a.reason) >= sizeof(a.reason))
        abort();
    uint8_t frame[WITNESS_FRAME_BYTES_MAX];
    uint8_t frame_again[WITNESS_FRAME_BYTES_MAX];
    size_t bytes = witness_answer_encode(frame, number, &a);
    if (witness_answer_decode(frame + WITNESS_PREFIX_BYTES, bytes - WITNESS_PREFIX_BYTES, &number_again, &again, &why) <
        0)
        abort();
    if (witness_answer_encode(frame_again, number_again, &again) != bytes || memcmp(frame, frame_again, bytes) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    (void)witness_frame_bytes(data, size);
    try_question(data, size);
    try_answer(data, size);
    return 0;
}
