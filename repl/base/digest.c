/* XXH3-128 with a secret. */
#include "repl/base/digest.h"

#include <assert.h>

/* For XXH3_generateSecret(), which every libxxhash since 0.8.1 exports, but declares for static linking only. */
#define XXH_STATIC_LINKING_ONLY
#ifdef XXH_DISPATCHES /* see checksum.c */
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

static_assert(DIGEST_SECRET_BYTES >= XXH3_SECRET_SIZE_MIN, "long enough for the library");

void digest_key_make(struct digest_key *key, const void *seed, size_t seed_bytes)
{
    assert(seed_bytes > 0);
    XXH_errorcode code = XXH3_generateSecret(key->secret, sizeof(key->secret), seed, seed_bytes);
    assert(code == XXH_OK);
    (void)code;
}

struct digest digest128(const struct digest_key *key, const void *data, size_t length_bytes)
{
    XXH128_hash_t h = XXH3_128bits_withSecret(data, length_bytes, key->secret, sizeof(key->secret));
    return (struct digest) { .low = h.low64, .high = h.high64 };
}
