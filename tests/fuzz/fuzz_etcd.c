/* What etcd, or whoever answers in its place, may say: values, ages, answers of the gateway, errors; and URLs. Any
 * bytes are refused, or mean something that can be judged and written again. The first byte says which it is. */
#include <stdlib.h>
#include <string.h>

#include "repl/witness/base64.h"
#include "repl/witness/etcd_gateway.h"
#include "repl/witness/etcd_judge.h"
#include "repl/witness/etcd_url.h"
#include "repl/witness/etcd_value.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

static struct register_request request(enum register_ask ask)
{
    struct register_request q = { .ask = ask,
                                  .volume_id = { { 1 } },
                                  .volume = "a",
                                  .node = "paris-a",
                                  .known_epoch = 2,
                                  .leg_age = 3,
                                  .expected_epoch = 2,
                                  .expected_tag = 2,
                                  .proposal = { .epoch = 3, .tag = 3, .cause = DECREE_RENEW, .member_count = 1 } };
    q.proposal.members[0] = (struct decree_member) { "paris-a", { { 2 } } };
    return q;
}

/* What can be read can be written, and is the same then. */
static void fuzz_value(const char *text, size_t bytes)
{
    struct etcd_value v, back;
    if (etcd_value_decode(&v, text, bytes))
        return;
    check(v.decree.epoch > 0 && v.decree.epoch <= INT64_MAX && v.decree.tag != 0 && !id_is_none(v.volume_id));
    check(v.decree.member_count > 0 && v.decree.member_count <= DECREE_MEMBERS_MAX);
    struct register_request q = { .volume_id = v.volume_id, .proposal = v.decree };
    char again[ETCD_VALUE_BYTES_MAX];
    size_t n = etcd_value_encode(again, &q, v.cluster_id, 0);
    check(n > 0 && etcd_value_decode(&back, again, n) == 0 && memcmp(&back, &v, sizeof(v)) == 0);
}

static void fuzz_age(const char *text, size_t bytes)
{
    struct etcd_age v, back;
    char again[ETCD_AGE_BYTES_MAX];
    if (etcd_age_decode(&v, text, bytes))
        return;
    check(v.age > 0 && v.age <= INT64_MAX && !id_is_none(v.volume_id));
    size_t n = etcd_age_encode(again, &v);
    check(etcd_age_decode(&back, again, n) == 0 && memcmp(&back, &v, sizeof(v)) == 0);
}

static void fuzz_stored(const struct etcd_stored *stored)
{
    check(stored->cluster_id != 0 && stored->value_bytes <= sizeof(stored->value));
    struct register_answer a;
    struct register_request q = request(REGISTER_READ);
    check(!etcd_judge(&q, stored, &a));
    check(memchr(a.reason, 0, sizeof(a.reason)) != NULL);
    if (etcd_age_is_due(&q, stored, &a)) {
        const struct etcd_age age = { q.volume_id, q.leg_age };
        char body[ETCD_BODY_BYTES_MAX];
        check(a.leg_age < q.leg_age && !decree_is_none(&a.decree));
        check(etcd_age_body(body, q.volume, q.node, &stored->age, &age) < sizeof(body));
    }
    q = request(REGISTER_SWAP);
    if (!etcd_judge(&q, stored, &a))
        return;
    char body[ETCD_BODY_BYTES_MAX], value[ETCD_VALUE_BYTES_MAX];
    size_t n = etcd_value_encode(value, &q, stored->cluster_id, 0);
    check(n > 0 && etcd_txn_body(body, q.volume, q.node, q.proposal.epoch, stored, value, n) < sizeof(body));
}

static void fuzz_base64(const char *text, size_t bytes)
{
    uint8_t plain[ETCD_VALUE_BYTES_MAX];
    ssize_t n = base64_decode(plain, sizeof(plain), text, bytes);
    if (n < 0)
        return;
    char again[BASE64_BYTES(ETCD_VALUE_BYTES_MAX) + 1];
    base64_encode(again, plain, (size_t)n);
    check(strlen(again) == bytes && memcmp(again, text, bytes) == 0);
}

static void fuzz_url(const char *text, size_t bytes)
{
    struct etcd_url url;
    char copy[4096], error[128];
    if (bytes >= sizeof(copy))
        return;
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    if (etcd_url_parse(&url, copy, error, sizeof(error)) == 0)
        check(url.count > 0 && url.count <= ETCD_ENDPOINTS_MAX && strchr(url.endpoints[url.count - 1], ':'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const char *text = (const char *)data + 1;
    size--;
    struct etcd_stored stored;
    char reason[REGISTER_REASON_BYTES];
    bool put;
    switch (data[0] % 8) {
    case 0: fuzz_value(text, size); break;
    case 1:
        if (etcd_range_answer(&stored, "a", text, size) == 0)
            fuzz_stored(&stored);
        break;
    case 2:
        if (etcd_txn_answer(&put, &stored, "a", NULL, text, size) == 0)
            fuzz_stored(&stored);
        if (etcd_txn_answer(&put, &stored, "a", "paris-a", text, size) == 0)
            fuzz_stored(&stored);
        break;
    case 3:
        etcd_error_answer(reason, 500, text, size);
        check(reason[0] && memchr(reason, 0, sizeof(reason)));
        break;
    case 4: fuzz_base64(text, size); break;
    case 5: fuzz_url(text, size); break;
    case 6: fuzz_age(text, size); break;
    case 7:
        if (etcd_read_answer(&stored, "a", "paris-a", text, size) == 0)
            fuzz_stored(&stored);
        break;
    }
    return 0;
}
