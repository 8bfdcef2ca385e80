/* Receiving a byte stream where its parts belong: any split into receives and any guess gives the same bytes. */
#include "tests/unit/unit.h"

#include <string.h>

#include "repl/base/prng.h"
#include "repl/base/scatter.h"
#include "repl/base/units.h"

/* Plays the kernel: the next `bytes` of the stream arrive. */
static void receive(struct scatter *s, const uint8_t *stream, size_t bytes)
{
    const struct iovec *iov = scatter_iov(s);
    size_t left = bytes;
    for (unsigned i = 0; left > 0; i++) {
        assert_true(i < scatter_iov_count(s));
        size_t part = min_u64(left, iov[i].iov_len);
        memcpy(iov[i].iov_base, stream, part);
        stream += part;
        left -= part;
    }
    scatter_received(s, bytes);
}

static void a_right_guess_is_not_copied(void **state)
{
    struct scatter s;
    uint8_t header[8], payload[16];
    scatter_reset(&s);
    assert_true(scatter_post(&s, header, sizeof(header)));
    assert_true(scatter_post(&s, payload, sizeof(payload)));
    assert_int_equal(s.room_bytes, 24);
    receive(&s, (const uint8_t *)"headerXXpayloadpayloadYY", 24);
    assert_int_equal(s.available_bytes, 24);
    assert_true(scatter_lies_at(&s, header, 8));
    scatter_take(&s, header, 8);
    assert_memory_equal(header, "headerXX", 8);
    assert_true(scatter_lies_at(&s, payload, 16));
    scatter_take(&s, payload, 16);
    assert_memory_equal(payload, "payloadpayloadYY", 16);
    assert_int_equal(s.count, 0); /* all taken: the list starts anew */
}

static void lies_at_also_tells_of_what_is_still_to_come(void **state)
{
    struct scatter s;
    uint8_t a[8], b[8];
    scatter_reset(&s);
    scatter_post(&s, a, 8);
    scatter_post(&s, b, 8);
    assert_true(scatter_lies_at(&s, a, 8));
    assert_false(scatter_lies_at(&s, a, 9)); /* would go on elsewhere */
    assert_false(scatter_lies_at(&s, b, 8)); /* not next */
    receive(&s, (const uint8_t *)"123", 3);
    assert_true(scatter_lies_at(&s, a, 8));
    uint8_t out[3];
    scatter_take(&s, out, 3);
    assert_memory_equal(out, "123", 3);
    assert_false(scatter_lies_at(&s, a, 5)); /* the next byte is at a + 3 now */
    assert_true(scatter_lies_at(&s, a + 3, 5));
}

static void a_full_list_says_so(void **state)
{
    struct scatter s;
    uint8_t places[SCATTER_PLACES_MAX + 1];
    scatter_reset(&s);
    for (unsigned i = 0; i < SCATTER_PLACES_MAX; i++)
        assert_true(scatter_post(&s, &places[i], 1));
    assert_false(scatter_post(&s, &places[SCATTER_PLACES_MAX], 1));
    assert_int_equal(scatter_iov_count(&s), SCATTER_PLACES_MAX);
    assert_int_equal(s.room_bytes, SCATTER_PLACES_MAX);
}

static void reset_forgets(void **state)
{
    struct scatter s;
    uint8_t place[4];
    scatter_reset(&s);
    scatter_post(&s, place, 4);
    receive(&s, (const uint8_t *)"ab", 2);
    scatter_reset(&s);
    assert_int_equal(s.available_bytes, 0);
    assert_int_equal(s.room_bytes, 0);
    assert_int_equal(scatter_iov_count(&s), 0);
    scatter_post(&s, place, 4);
    receive(&s, (const uint8_t *)"cdef", 4);
    scatter_take(&s, place, 4);
    assert_memory_equal(place, "cdef", 4);
}

/* The property that matters. A reader posts places of random sizes (its guess), the stream arrives in random portions,
 * and the reader takes parts of random sizes, sometimes into the place where they lie, sometimes elsewhere. Whatever
 * the dice say, the parts joined are the stream. */
static void any_split_and_any_guess_give_the_same_bytes(void **state)
{
    enum { STREAM_BYTES = 4096 };
    for (uint64_t seed = 1; seed <= 5000; seed++) {
        struct prng p = prng_seed(seed);
        uint8_t stream[STREAM_BYTES], out[STREAM_BYTES];
        /* Never reused within a run, so that a place stays valid as long as the contract asks for. */
        uint8_t arena[2 * STREAM_BYTES + 8192];
        size_t arena_used = 0;
        for (size_t i = 0; i < STREAM_BYTES; i++)
            stream[i] = (uint8_t)prng_next(&p);
        unsigned place_bytes_max = 1 + (unsigned)prng_below(&p, 200);
        unsigned receive_bytes_max = 1 + (unsigned)prng_below(&p, 400);
        unsigned take_bytes_max = 1 + (unsigned)prng_below(&p, 200);

        struct scatter s;
        scatter_reset(&s);
        size_t received = 0, taken = 0;
        size_t posted_open = 0; /* posted and not yet received: never more than the stream still has */
        while (taken < STREAM_BYTES) {
            switch (prng_below(&p, 3)) {
            case 0: {
                size_t bytes = 1 + prng_below(&p, place_bytes_max);
                bytes = min_u64(bytes, STREAM_BYTES - received - posted_open);
                /* The list starts anew only once all posted was received and taken, hence the odd full list. */
                if (bytes > 0 && scatter_post(&s, arena + arena_used, bytes)) {
                    arena_used += bytes + prng_below(&p, 2); /* some places touch, some don't */
                    posted_open += bytes;
                    assert_true(arena_used <= sizeof(arena));
                }
                break;
            }
            case 1: {
                size_t bytes = min_u64(prng_below(&p, receive_bytes_max + 1), s.room_bytes);
                receive(&s, stream + received, bytes);
                received += bytes;
                posted_open -= bytes;
                break;
            }
            case 2: {
                size_t bytes = min_u64(prng_below(&p, take_bytes_max + 1), s.available_bytes);
                if (bytes == 0)
                    break;
                uint8_t *lies = s.starts[s.next];
                if (scatter_lies_at(&s, lies, bytes) && prng_below(&p, 2)) {
                    scatter_take(&s, lies, bytes);
                    memcpy(out + taken, lies, bytes);
                } else {
                    scatter_take(&s, out + taken, bytes);
                }
                taken += bytes;
                break;
            }
            }
            assert_int_equal(s.available_bytes, received - taken);
            assert_int_equal(s.room_bytes, posted_open);
        }
        if (memcmp(stream, out, STREAM_BYTES) != 0)
            fail_msg("seed %llu: the bytes differ", (unsigned long long)seed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_right_guess_is_not_copied),
        cmocka_unit_test(lies_at_also_tells_of_what_is_still_to_come),
        cmocka_unit_test(a_full_list_says_so),
        cmocka_unit_test(reset_forgets),
        cmocka_unit_test(any_split_and_any_guess_give_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
