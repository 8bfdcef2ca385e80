/* Checksums and digests are XXH3 whatever the CPU it is computed on: legs and peers of different machines must agree.
 */
#include "tests/unit/unit.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL /* the reference, compiled here and for the plain CPU */
#include <xxhash.h>

#include "repl/base/checksum.h"
#include "repl/base/digest.h"
#include "repl/base/prng.h"

#define DATA_BYTES (1024 * 1024 + 64)

static void known_values(void **state)
{
    /* From a little-endian machine without dispatching: what is on disk must stay readable. */
    assert_int_equal(checksum64("", 0), 0x2d06800538d394c2);
    uint8_t zeroes[4096] = { 0 };
    assert_int_equal(checksum64(zeroes, sizeof(zeroes)), XXH3_64bits(zeroes, sizeof(zeroes)));
}

static void equal_to_the_reference_for_every_kind_of_length(void **state)
{
    uint8_t *data = malloc(DATA_BYTES);
    assert_non_null(data);
    struct prng p = prng_seed(1);
    for (size_t i = 0; i < DATA_BYTES; i += 8) {
        uint64_t v = prng_next(&p);
        memcpy(data + i, &v, 8);
    }
    /* Short inputs take several ways of their own; long ones go by stripes, at any alignment. */
    for (size_t length = 0; length <= 2100; length++)
        assert_int_equal(checksum64(data + length % 64, length), XXH3_64bits(data + length % 64, length));
    for (unsigned i = 0; i < 200; i++) {
        size_t start = prng_next(&p) % 64, length = prng_next(&p) % (DATA_BYTES - 64);
        assert_int_equal(checksum64(data + start, length), XXH3_64bits(data + start, length));
    }
    free(data);
}

static void digests_are_equal_under_one_key_only(void **state)
{
    static uint8_t data[64 * 1024];
    struct digest_key key, same, other;
    digest_key_make(&key, "two nonces", 10);
    digest_key_make(&same, "two nonces", 10);
    digest_key_make(&other, "two nonceS", 10);
    for (size_t length = 512; length <= sizeof(data); length += 512) {
        struct digest d = digest128(&key, data, length);
        XXH128_hash_t reference = XXH3_128bits_withSecret(data, length, key.secret, sizeof(key.secret));
        assert_true(d.low == reference.low64 && d.high == reference.high64);
        assert_true(digest_equal(d, digest128(&same, data, length)));
        assert_false(digest_equal(d, digest128(&other, data, length)));
        data[length - 1] ^= 1;
        assert_false(digest_equal(d, digest128(&key, data, length)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_values),
        cmocka_unit_test(equal_to_the_reference_for_every_kind_of_length),
        cmocka_unit_test(digests_are_equal_under_one_key_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
