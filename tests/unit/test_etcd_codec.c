/* What goes to etcd and comes from it, without a network: URLs, base64, decrees as JSON, the gateway's answers, and
 * what they mean for what was asked. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "repl/base/units.h"
#include "repl/witness/base64.h"
#include "repl/witness/etcd_gateway.h"
#include "repl/witness/etcd_judge.h"
#include "repl/witness/etcd_url.h"
#include "repl/witness/etcd_value.h"

#define CLUSTER UINT64_C(18446744073709551615)
#define NOW 1763872267 /* 2025-11-23T04:31:07Z */

static const struct id volume_id = { { 1, 2, 3 } };

static struct register_request swap_request(uint64_t expected_epoch, uint64_t expected_tag, uint64_t tag)
{
    struct register_request q = { .ask = REGISTER_SWAP,
                                  .volume_id = volume_id,
                                  .volume = "gold42",
                                  .node = "paris-a",
                                  .peer = "paris-b",
                                  .known_epoch = expected_epoch,
                                  .expected_epoch = expected_epoch,
                                  .expected_tag = expected_tag,
                                  .note = "\"quoted\", a line\nand \x01" };
    struct decree *d = &q.proposal;
    d->epoch = expected_epoch + 1;
    d->tag = tag;
    d->cause = expected_epoch ? DECREE_OUT : DECREE_FIRST;
    snprintf(d->primary, sizeof(d->primary), "paris-a");
    d->member_count = 2;
    d->members[0] = (struct decree_member) { "paris-a", { { 0xa } } };
    d->members[1] = (struct decree_member) { "paris-b", { { 0xb, [15] = 0xff } } };
    return q;
}

static struct register_request read_request(uint64_t known_epoch)
{
    struct register_request q = swap_request(0, 0, 1);
    q.ask = REGISTER_READ;
    q.known_epoch = known_epoch;
    return q;
}

static struct etcd_stored store(const struct register_request *swap, uint64_t mod_revision)
{
    struct etcd_stored s = { .cluster_id = CLUSTER, .mod_revision = mod_revision };
    s.value_bytes = etcd_value_encode(s.value, swap, CLUSTER, NOW);
    assert_int_not_equal(s.value_bytes, 0);
    return s;
}

/* ---- small forms ---- */

static void test_base64(void **state)
{
    static const struct {
        const char *plain, *text;
    } known[] = { { "", "" },
                  { "f", "Zg==" },
                  { "fo", "Zm8=" },
                  { "foo", "Zm9v" },
                  { "foob", "Zm9vYg==" },
                  { "fooba", "Zm9vYmE=" },
                  { "foobar", "Zm9vYmFy" } }; /* RFC 4648, 10 */
    char text[16], plain[16];
    for (unsigned i = 0; i < ARRAY_LEN(known); i++) {
        base64_encode(text, known[i].plain, strlen(known[i].plain));
        assert_string_equal(text, known[i].text);
        assert_int_equal(base64_decode(plain, sizeof(plain), text, strlen(text)), strlen(known[i].plain));
        assert_memory_equal(plain, known[i].plain, strlen(known[i].plain));
    }
    static const char *const bad[] = { "Z",    "Zg",       "Zg=",  "=",      "====", "Zh==",
                                       "Zm9=", "Zg==Zg==", "Z=g=", "Zm9v\n", "Zm9-", "Zm 9v   " };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(base64_decode(plain, sizeof(plain), bad[i], strlen(bad[i])), -EBADMSG);
    assert_int_equal(base64_decode(plain, 2, "Zm9v", 4), -EMSGSIZE);
    assert_int_equal(base64_decode(plain, 3, "Zm9v", 4), 3);
}

static void test_urls(void **state)
{
    struct etcd_url u;
    char error[200];
    assert_int_equal(etcd_url_parse(&u, "etcd+https://a.example:2379,[fe80::1]:2380,10.0.0.1:1", error, sizeof(error)),
                     0);
    assert_true(u.tls);
    assert_int_equal(u.count, 3);
    assert_string_equal(u.endpoints[0], "a.example:2379");
    assert_string_equal(u.endpoints[1], "[fe80::1]:2380");
    assert_string_equal(u.endpoints[2], "10.0.0.1:1");
    assert_int_equal(etcd_url_parse(&u, "etcd+http://localhost:2379", error, sizeof(error)), 0);
    assert_false(u.tls);
    static const char *const bad[] = {
        "etcd://a:1",
        "etcd+http://",
        "etcd+http://a",
        "etcd+http://a:",
        "etcd+http://:1",
        "etcd+http://a:0",
        "etcd+http://a:65536",
        "etcd+http://a:1,",
        "etcd+http://a:1,,b:1",
        "etcd+http://a:1/",
        "etcd+http://a:1/v3",
        "etcd+http://user:secret@a:1",
        "etcd+http://a:1,http://b:1",
        "etcd+http://a b:1",
        "etcd+http://fe80::1:1",
        "etcd+http://[fe80::1:1",
        "etcd+http://[]:1",
        "etcd+http://a:1,b:1,c:1,d:1,e:1,f:1,g:1,h:1,i:1,j:1",
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        error[0] = 0;
        assert_int_equal(etcd_url_parse(&u, bad[i], error, sizeof(error)), -EINVAL);
        assert_non_null(strstr(error, "expected etcd+https://HOST:PORT"));
    }
}

static void test_keys(void **state)
{
    char key[ETCD_KEY_BYTES_MAX];
    assert_int_equal(etcd_key(key, "gold42"), strlen("/lockstep/gold42"));
    assert_string_equal(key, "/lockstep/gold42");
    etcd_history_key(key, "gold42", 7);
    assert_string_equal(key, "/lockstep/gold42/history/00000000000000000007");
    char longest[NAME_BYTES_MAX];
    memset(longest, 'v', sizeof(longest));
    longest[sizeof(longest) - 1] = 0;
    assert_true(etcd_history_key(key, longest, UINT64_MAX) < sizeof(key));
    assert_int_equal(etcd_age_key(key, "gold42", "paris-a"), strlen("/lockstep/gold42/age/paris-a"));
    assert_string_equal(key, "/lockstep/gold42/age/paris-a");
    assert_true(etcd_age_key(key, longest, longest) < sizeof(key));
}

/* ---- values ---- */

static void test_value_there_and_back(void **state)
{
    struct register_request q = swap_request(6, 99, UINT64_C(0xfedcba9876543210));
    struct etcd_stored s = store(&q, 1);
    assert_non_null(strstr(s.value,
                           "\"lockstep\":1,\"volume_id\":\"01020300000000000000000000000000\",\"cluster_id\":"
                           "\"18446744073709551615\",\"epoch\":7,\"tag\":\"fedcba9876543210\",\"cause\":\"out\","
                           "\"primary\":\"paris-a\""));
    assert_non_null(
        strstr(s.value, "\"time\":\"2025-11-23T04:31:07Z\",\"note\":\"\\\"quoted\\\", a line\\nand \\u0001\"}"));
    struct etcd_value v;
    assert_int_equal(etcd_value_decode(&v, s.value, s.value_bytes), 0);
    assert_true(id_equal(v.volume_id, volume_id));
    assert_int_equal(v.decree.epoch, 7);
    assert_int_equal(v.decree.member_count, 2);
    assert_string_equal(v.decree.members[1].node, "paris-b");
    assert_true(id_equal(v.decree.members[1].leg_id, q.proposal.members[1].leg_id));
    assert_true(v.decree.tag == q.proposal.tag);

    /* Every cause, the largest epoch, nobody. */
    for (enum decree_cause c = DECREE_FIRST; c <= DECREE_ADOPT; c++) {
        q.proposal.cause = c;
        q.proposal.epoch = INT64_MAX;
        q.proposal.primary[0] = 0;
        s = store(&q, 1);
        assert_int_equal(etcd_value_decode(&v, s.value, s.value_bytes), 0);
        assert_int_equal(v.decree.cause, c);
        assert_int_equal(v.decree.epoch, INT64_MAX);
        assert_string_equal(v.decree.primary, "");
    }
    /* The longest of all. */
    memset(q.note, 1, sizeof(q.note) - 1);
    memset(q.node, 'n', NAME_BYTES_MAX - 1);
    memset(q.proposal.primary, 'n', NAME_BYTES_MAX - 1);
    memset(q.proposal.members[0].node, 'n', NAME_BYTES_MAX - 1);
    memset(q.proposal.members[1].node, 'm', NAME_BYTES_MAX - 1);
    store(&q, 1);
    /* What nobody would take is not written. */
    q.proposal.tag = 0;
    char out[ETCD_VALUE_BYTES_MAX];
    assert_int_equal(etcd_value_encode(out, &q, CLUSTER, NOW), 0);
}

#define ID "\"01020300000000000000000000000000\""
#define GOOD                                                                                                           \
    "\"lockstep\":1,\"volume_id\":" ID ",\"cluster_id\":\"7\",\"epoch\":3,\"tag\":\"000000000000000a\","               \
    "\"cause\":\"first\",\"primary\":\"a\",\"members\":[{\"node\":\"a\",\"leg_id\":" ID "}]"

static int decode(const char *text)
{
    struct etcd_value v;
    return etcd_value_decode(&v, text, strlen(text));
}

/* GOOD with one piece of it replaced. */
static int decode_with(const char *old, const char *new)
{
    char text[1024];
    const char *at = strstr("{" GOOD "}", old);
    assert_non_null(at);
    snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - ("{" GOOD "}")), "{" GOOD "}", new, at + strlen(old));
    return decode(text);
}

static void test_values_that_are_none(void **state)
{
    assert_int_equal(decode("{" GOOD "}"), 0);
    assert_int_equal(decode("{" GOOD ",\"colour\":{\"of\":[1,2]}}\n"), 0);
    static const char *const bad[] = {
        "",
        "{}",
        "[]",
        "null",
        "hello",
        "{" GOOD,
        "{" GOOD "}}",
        "{" GOOD "} {}",
        "\"x\"",
        "{'a':1}",
        "{\"lockstep\":0}",
        "{\"lockstep\":\"\"}",
        "{\"lockstep\":-1}",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(decode(bad[i]), -EBADMSG);
    static const char *const wrong[][2] = {
        { "\"epoch\":3", "\"epoch\":0" },
        { "\"epoch\":3", "\"epoch\":-3" },
        { "\"epoch\":3", "\"epoch\":9223372036854775808" },
        { "\"epoch\":3", "\"epoch\":99999999999999999999999999" },
        { "\"epoch\":3", "\"epoch\":3.0" },
        { "\"epoch\":3", "\"epoch\":[3]" },
        { "\"epoch\":3", "\"epoch\":\"\"" },
        { "\"epoch\":3,", "" },
        { "000a\"", "0000\"" },
        { "000a\"", "000A\"" },
        { "000a\"", "000\"" },
        { "\"cause\":\"first\"", "\"cause\":\"because\"" },
        { "\"primary\":\"a\"", "\"primary\":\"a b\"" },
        { "\"primary\":\"a\"", "\"primary\":\"a\\u0000b\"" },
        { "\"primary\":\"a\"", "\"primary\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"" },
        { "\"primary\":\"a\"", "\"primary\":null" },
        { "\"node\":\"a\"", "\"node\":\"\"" },
        { "\"volume_id\":" ID, "\"volume_id\":\"00000000000000000000000000000000\"" },
        { "\"cluster_id\":\"7\"", "\"cluster_id\":\"18446744073709551616\"" },
        { "\"members\":[{\"node\":\"a\",\"leg_id\":" ID "}]", "\"members\":[]" },
        { "\"members\":[{\"node\":\"a\",\"leg_id\":" ID "}]", "\"members\":[null]" },
        { "}]", "},{\"node\":\"b\",\"leg_id\":" ID "}]" },
    };
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++)
        if (decode_with(wrong[i][0], wrong[i][1]) != -EBADMSG)
            fail_msg("%s was taken", wrong[i][1]);
    assert_int_equal(decode_with("\"lockstep\":1", "\"lockstep\":2"), -ENOTSUP);
    assert_int_equal(decode("{\"lockstep\":2,\"otherwise\":true}"), -ENOTSUP);
    struct etcd_value v;
    assert_int_equal(etcd_value_decode(&v, "{" GOOD "}\0", sizeof("{" GOOD "}")), -EBADMSG);
}

static void test_ages(void **state)
{
    static const uint64_t ages[] = { 1, 12, INT64_MAX };
    char text[ETCD_AGE_BYTES_MAX];
    struct etcd_age back;
    for (unsigned i = 0; i < ARRAY_LEN(ages); i++) {
        const struct etcd_age a = { volume_id, ages[i] };
        size_t bytes = etcd_age_encode(text, &a);
        assert_int_equal(bytes, strlen(text));
        assert_int_equal(etcd_age_decode(&back, text, bytes), 0);
        assert_true(id_equal(back.volume_id, volume_id) && back.age == ages[i]);
    }
    assert_string_equal(text, "{\"lockstep\":1,\"volume_id\":" ID ",\"age\":9223372036854775807}");
    static const char good[] = "{\"lockstep\":1,\"volume_id\":" ID ",\"age\":3,\"colour\":\"blue\"}\n";
    assert_int_equal(etcd_age_decode(&back, good, strlen(good)), 0);
    static const char *const bad[] = {
        "",
        "{}",
        "12",
        "hello",
        "{\"lockstep\":1}",
        "{\"lockstep\":1,\"volume_id\":" ID "}",
        "{\"lockstep\":1,\"age\":3}",
        "{\"lockstep\":0,\"volume_id\":" ID ",\"age\":3}",
        "{\"lockstep\":1,\"volume_id\":" ID ",\"age\":0}",
        "{\"lockstep\":1,\"volume_id\":" ID ",\"age\":-3}",
        "{\"lockstep\":1,\"volume_id\":" ID ",\"age\":3.5}",
        "{\"lockstep\":1,\"volume_id\":" ID ",\"age\":9223372036854775808}",
        "{\"lockstep\":1,\"volume_id\":\"00000000000000000000000000000000\",\"age\":3}",
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(etcd_age_decode(&back, bad[i], strlen(bad[i])), -EBADMSG);
    static const char later[] = "{\"lockstep\":2}";
    assert_int_equal(etcd_age_decode(&back, later, strlen(later)), -ENOTSUP);
}

/* ---- the gateway ---- */

#define HEADER "\"header\":{\"cluster_id\":\"324952591200643719\",\"revision\":\"5\"}"
#define KEY "L2xvY2tzdGVwL2E=" /* /lockstep/a */

static int range_answer(struct etcd_stored *s, const char *text)
{
    return etcd_range_answer(s, "a", text, strlen(text));
}

static void test_range_answers(void **state)
{
    struct etcd_stored s;
    char body[ETCD_BODY_BYTES_MAX];
    etcd_range_body(body, "a");
    assert_string_equal(body, "{\"key\":\"" KEY "\"}");

    assert_int_equal(range_answer(&s, "{" HEADER "}"), 0);
    assert_int_equal(s.mod_revision, 0);
    assert_int_equal(s.cluster_id, 324952591200643719);
    assert_int_equal(
        range_answer(&s, "{" HEADER ",\"kvs\":[{\"key\":\"" KEY "\",\"mod_revision\":\"5\",\"value\":\"eyJ9\"}]}"), 0);
    assert_int_equal(s.mod_revision, 5);
    assert_int_equal(s.value_bytes, 3);
    assert_memory_equal(s.value, "{\"}", 3);
    assert_int_equal(range_answer(&s, "{" HEADER ",\"kvs\":[{\"key\":\"" KEY "\",\"mod_revision\":\"5\"}]}\n"), 0);
    assert_int_equal(s.value_bytes, 0);

    static const char *const bad[] = {
        "",
        "{}",
        "<html>hello</html>",
        "{\"header\":{}}",
        "{\"header\":[]}",
        "{\"header\":{\"cluster_id\":\"0\"}}",
        "{" HEADER ",\"kvs\":[null]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"" KEY "\"}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"" KEY "\",\"mod_revision\":\"-5\"}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"" KEY "\",\"mod_revision\":\"5\",\"value\":\"%%%%\"}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"L2E=\",\"mod_revision\":\"5\",\"value\":\"eyJ9\"}]}",
        "{" HEADER ",\"kvs\":[{\"key\":\"" KEY "\",\"mod_revision\":\"5\"},{\"key\":\"" KEY
        "\",\"mod_revision\":\"5\"}]}",
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(range_answer(&s, bad[i]), -EBADMSG);
}

static void test_txn(void **state)
{
    char body[ETCD_BODY_BYTES_MAX];
    struct etcd_stored s = { .mod_revision = 0 };
    etcd_txn_body(body, "a", NULL, 1, &s, "v", 1);
    assert_string_equal(body, "{\"compare\":[{\"target\":\"MOD\",\"result\":\"EQUAL\",\"key\":\"" KEY
                              "\",\"mod_revision\":\"0\"}],\"success\":[{\"request_put\":{\"key\":\"" KEY
                              "\",\"value\":\"dg==\"}},{\"request_put\":{\"key\":"
                              "\"L2xvY2tzdGVwL2EvaGlzdG9yeS8wMDAwMDAwMDAwMDAwMDAwMDAwMQ==\",\"value\":\"dg==\"}}],"
                              "\"failure\":[{\"request_range\":{\"key\":\"" KEY "\"}}]}");
    s = (struct etcd_stored) { .mod_revision = 12, .value_bytes = 1, .value = "w" };
    etcd_txn_body(body, "a", NULL, 1, &s, "v", 1);
    assert_non_null(strstr(body, ",\"mod_revision\":\"12\"},{\"target\":\"VALUE\",\"result\":\"EQUAL\",\"key\":\"" KEY
                                 "\",\"value\":\"dw==\"}],"));

    bool put;
    static const char yes[] =
        "{" HEADER ",\"succeeded\":true,\"responses\":[{\"response_put\":{}},{\"response_put\":{}}]}";
    assert_int_equal(etcd_txn_answer(&put, &s, "a", NULL, yes, strlen(yes)), 0);
    assert_true(put);
    static const char no[] = "{" HEADER ",\"responses\":[{\"response_range\":{\"header\":{},\"kvs\":[{\"key\":\"" KEY
                             "\",\"mod_revision\":\"9\",\"value\":\"dw==\"}],\"count\":\"1\"}}]}";
    assert_int_equal(etcd_txn_answer(&put, &s, "a", NULL, no, strlen(no)), 0);
    assert_false(put);
    assert_int_equal(s.mod_revision, 9);
    static const char gone[] = "{" HEADER ",\"responses\":[{\"response_range\":{\"header\":{}}}]}";
    assert_int_equal(etcd_txn_answer(&put, &s, "a", NULL, gone, strlen(gone)), 0);
    assert_int_equal(s.mod_revision, 0);
    static const char *const bad[] = { "{" HEADER "}", "{\"succeeded\":true}", "{" HEADER ",\"responses\":[]}",
                                       "{" HEADER ",\"responses\":[{}]}", "{" HEADER ",\"succeeded\":1}" };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(etcd_txn_answer(&put, &s, "a", NULL, bad[i], strlen(bad[i])), -EBADMSG);
}

#define AGE_KEY "L2xvY2tzdGVwL2EvYWdlL2I=" /* /lockstep/a/age/b */
#define RANGES(decree, age)                                                                                            \
    "\"responses\":[{\"response_range\":{\"header\":{}" decree "}},{\"response_range\":{\"header\":{}" age "}}]"
#define KVS(key, revision, value)                                                                                      \
    ",\"kvs\":[{\"key\":\"" key "\",\"mod_revision\":\"" revision "\",\"value\":\"" value "\"}],\"count\":\"1\""

/* The volume's key and a node's age are read at one moment, and each is put by itself. */
static void test_reads_with_ages(void **state)
{
    char body[ETCD_BODY_BYTES_MAX];
    struct etcd_stored s = { .mod_revision = 12, .value_bytes = 1, .value = "w" };
    etcd_read_body(body, "a", "b");
    assert_string_equal(body, "{\"success\":[{\"request_range\":{\"key\":\"" KEY "\"}},"
                              "{\"request_range\":{\"key\":\"" AGE_KEY "\"}}]}");
    etcd_txn_body(body, "a", "b", 1, &s, "v", 1);
    assert_non_null(strstr(body, "\"failure\":[{\"request_range\":{\"key\":\"" KEY "\"}},"
                                 "{\"request_range\":{\"key\":\"" AGE_KEY "\"}}]}"));
    const struct etcd_age age = { volume_id, 3 };
    etcd_age_body(body, "a", "b", &(struct etcd_stored_age) { 0 }, &age);
    assert_string_equal(body, "{\"compare\":[{\"target\":\"MOD\",\"result\":\"EQUAL\",\"key\":\"" AGE_KEY
                              "\",\"mod_revision\":\"0\"}],\"success\":[{\"request_put\":{\"key\":\"" AGE_KEY
                              "\",\"value\":\"eyJsb2Nrc3RlcCI6MSwidm9sdW1lX2lkIjoiMDEwMjAzMDAwMDAwMDAwMDAwMDAwMDAwMDAw"
                              "MDAwMDAiLCJhZ2UiOjN9\"}}]}");
    etcd_age_body(body, "a", "b", &(struct etcd_stored_age) { .mod_revision = 9, .value_bytes = 1, .value = "w" },
                  &age);
    assert_non_null(strstr(body,
                           ",\"mod_revision\":\"9\"},{\"target\":\"VALUE\",\"result\":\"EQUAL\",\"key\":\"" AGE_KEY
                           "\",\"value\":\"dw==\"}],"));

    static const char both[] =
        "{" HEADER ",\"succeeded\":true," RANGES(KVS(KEY, "9", "dw=="), KVS(AGE_KEY, "11", "eyJ9")) "}";
    assert_int_equal(etcd_read_answer(&s, "a", "b", both, strlen(both)), 0);
    assert_int_equal(s.mod_revision, 9);
    assert_int_equal(s.age.mod_revision, 11);
    assert_int_equal(s.age.value_bytes, 3);
    assert_memory_equal(s.age.value, "{\"}", 3);
    static const char neither[] = "{" HEADER ",\"succeeded\":true," RANGES("", "") "}";
    assert_int_equal(etcd_read_answer(&s, "a", "b", neither, strlen(neither)), 0);
    assert_int_equal(s.mod_revision + s.age.mod_revision, 0);
    bool put;
    static const char stands[] = "{" HEADER "," RANGES(KVS(KEY, "9", "dw=="), KVS(AGE_KEY, "11", "eyJ9")) "}";
    assert_int_equal(etcd_txn_answer(&put, &s, "a", "b", stands, strlen(stands)), 0);
    assert_false(put);
    assert_int_equal(s.age.mod_revision, 11);
    static const char *const bad[] = {
        "{" HEADER "}",
        "{" HEADER ",\"responses\":[{\"response_range\":{\"header\":{}}}]}",
        "{" HEADER ",\"responses\":[{\"response_range\":{}},{\"response_put\":{}}]}",
        "{" HEADER "," RANGES("", KVS(KEY, "9", "dw==")) "}",
        "{" HEADER "," RANGES(KVS(AGE_KEY, "9", "dw=="), "") "}",
        "{" HEADER "," RANGES("", KVS(AGE_KEY, "0", "dw==")) "}",
        "{" HEADER "," RANGES("", KVS(AGE_KEY, "9", "%%%%")) "}",
    };
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(etcd_read_answer(&s, "a", "b", bad[i], strlen(bad[i])), -EBADMSG);
}

static void test_errors(void **state)
{
    static const struct {
        long status;
        const char *body;
        enum etcd_trouble trouble;
        const char *says;
    } cases[] = {
        { 503, "{\"error\":\"etcdserver: no leader\",\"message\":\"etcdserver: no leader\",\"code\":14}",
          ETCD_TRIES_ELSEWHERE, "etcdserver: no leader" },
        { 503, "{\"error\":\"etcdserver: too many requests\",\"code\":8}", ETCD_TRIES_ELSEWHERE, "too many" },
        { 429, "{\"code\":8,\"message\":\"etcdserver: mvcc: database space exceeded\"}", ETCD_REFUSES, "NOSPACE" },
        { 500, "{\"message\":\"etcdserver: corrupt cluster\",\"code\":15}", ETCD_REFUSES, "CORRUPT" },
        { 400, "{\"message\":\"etcdserver: user name is empty\",\"code\":3}", ETCD_REFUSES, "--client-cert-auth" },
        { 403, "{\"message\":\"etcdserver: permission denied\",\"code\":7}", ETCD_REFUSES, "/lockstep/" },
        { 404, "Not Found", ETCD_TRIES_ELSEWHERE, "etcd 3.4" },
        { 502, "<html>", ETCD_TRIES_ELSEWHERE, "HTTP status 502" },
        { 500, "{\"message\":\"\\u001b[31mred\"}", ETCD_TRIES_ELSEWHERE, "?[31mred" },
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        char reason[REGISTER_REASON_BYTES];
        assert_int_equal(etcd_error_answer(reason, cases[i].status, cases[i].body, strlen(cases[i].body)),
                         cases[i].trouble);
        if (!strstr(reason, cases[i].says))
            fail_msg("\"%s\" does not say \"%s\"", reason, cases[i].says);
    }
}

/* ---- what it means ---- */

static enum register_outcome judged(const struct register_request *q, const struct etcd_stored *s, bool put,
                                    struct register_answer *a)
{
    assert_int_equal(etcd_judge(q, s, a), put);
    return a->outcome;
}

static void test_judge(void **state)
{
    struct register_answer a;
    const struct etcd_stored nothing = { .cluster_id = CLUSTER };
    struct register_request first = swap_request(0, 0, 11), read = read_request(0);

    assert_int_equal(judged(&read, &nothing, false, &a), REGISTER_STANDS);
    assert_int_equal(a.decree.epoch, 0);
    read.known_epoch = 4;
    assert_int_equal(judged(&read, &nothing, false, &a), REGISTER_OLDER);
    assert_int_equal(judged(&first, &nothing, true, &a), REGISTER_DONE);

    struct etcd_stored one = store(&first, 5);
    read.known_epoch = 1;
    assert_int_equal(judged(&read, &one, false, &a), REGISTER_STANDS);
    assert_int_equal(a.decree.epoch, 1);
    assert_int_equal(a.decree.tag, 11);
    assert_int_equal(judged(&first, &one, false, &a), REGISTER_DONE); /* a retry: own tag */
    struct register_request other = swap_request(0, 0, 12);
    assert_int_equal(judged(&other, &one, false, &a), REGISTER_LOST);
    assert_int_equal(a.decree.tag, 11);

    struct register_request out = swap_request(1, 11, 13);
    assert_int_equal(judged(&out, &one, true, &a), REGISTER_DONE);
    out.known_epoch = 2;
    assert_int_equal(judged(&out, &one, false, &a), REGISTER_OLDER);

    struct register_request adopt = swap_request(0, 0, 14);
    adopt.known_epoch = 7;
    adopt.proposal.epoch = 8;
    adopt.proposal.cause = DECREE_ADOPT;
    adopt.over_older = true;
    assert_int_equal(judged(&adopt, &one, true, &a), REGISTER_DONE);
    assert_int_equal(judged(&adopt, &nothing, true, &a), REGISTER_DONE);

    struct register_request stranger = out;
    stranger.volume_id.bytes[0]++;
    assert_int_equal(judged(&stranger, &one, false, &a), REGISTER_REFUSED);
    assert_non_null(strstr(a.reason, "another volume of this name is in /lockstep/gold42; "));
}

static void put_age(struct etcd_stored *s, const char *text)
{
    s->age = (struct etcd_stored_age) { .mod_revision = 9 };
    s->age.value_bytes = (size_t)snprintf(s->age.value, sizeof(s->age.value), "%s", text);
}

static void test_judge_ages(void **state)
{
    struct register_answer a;
    struct register_request first = swap_request(0, 0, 11), read = read_request(1);
    struct etcd_stored s = store(&first, 5);
    read.leg_age = 3;
    assert_int_equal(judged(&read, &s, false, &a), REGISTER_STANDS);
    assert_int_equal(a.leg_age, 0);
    assert_true(etcd_age_is_due(&read, &s, &a));
    put_age(&s, "{\"lockstep\":1,\"volume_id\":" ID ",\"age\":3}");
    assert_int_equal(judged(&read, &s, false, &a), REGISTER_STANDS);
    assert_int_equal(a.leg_age, 3);
    assert_false(etcd_age_is_due(&read, &s, &a));
    read.leg_age = 4;
    assert_true(etcd_age_is_due(&read, &s, &a));
    struct register_request out = swap_request(1, 11, 13);
    out.leg_age = 4;
    assert_int_equal(judged(&out, &s, true, &a), REGISTER_DONE); /* what is answered, and told, when it has succeeded */
    assert_int_equal(a.leg_age, 3);
    assert_true(etcd_age_is_due(&out, &s, &a));
    /* What is none, and another volume's that had the name, stands in nobody's way. */
    static const char *const others[] = { "", "hello", "{\"lockstep\":1,\"volume_id\":" ID ",\"age\":0}",
                                          ("{\"lockstep\":1,\"volume_id\":\"77000000000000000000000000000000\","
                                           "\"age\":9}") };
    for (unsigned i = 0; i < ARRAY_LEN(others); i++) {
        put_age(&s, others[i]);
        assert_int_equal(judged(&out, &s, true, &a), REGISTER_DONE);
        assert_int_equal(a.leg_age, 0);
        assert_true(etcd_age_is_due(&out, &s, &a));
    }
    /* A later version's does neither, and stays. */
    put_age(&s, "{\"lockstep\":2}");
    assert_int_equal(judged(&out, &s, true, &a), REGISTER_DONE);
    assert_int_equal(a.leg_age, 0);
    assert_false(etcd_age_is_due(&out, &s, &a));
    /* Of a snapshot: an older register's age is as true as ever. */
    put_age(&s, "{\"lockstep\":1,\"volume_id\":" ID ",\"age\":3}");
    s.cluster_id = 77;
    assert_int_equal(judged(&read, &s, false, &a), REGISTER_OLDER);
    assert_int_equal(a.leg_age, 3);
    /* A volume that has no decree, a new disk, one that is refused: none is remembered. */
    struct etcd_stored nothing = { .cluster_id = CLUSTER };
    read.known_epoch = 0;
    assert_int_equal(judged(&read, &nothing, false, &a), REGISTER_STANDS);
    assert_false(etcd_age_is_due(&read, &nothing, &a));
    s.cluster_id = CLUSTER;
    read.volume_id = (struct id) { { 0 } };
    assert_int_equal(judged(&read, &s, false, &a), REGISTER_STANDS);
    assert_int_equal(a.leg_age, 0);
    assert_false(etcd_age_is_due(&read, &s, &a));
    read.volume_id = (struct id) { { 77 } };
    assert_int_equal(judged(&read, &s, false, &a), REGISTER_REFUSED);
    assert_int_equal(a.leg_age, 0);
    assert_false(etcd_age_is_due(&read, &s, &a));
}

static void test_judge_foreign_values(void **state)
{
    struct register_answer a;
    struct register_request read = read_request(0), adopt = swap_request(0, 0, 14);
    adopt.proposal.cause = DECREE_ADOPT;
    adopt.over_older = true;
    struct etcd_stored s = { .cluster_id = CLUSTER, .mod_revision = 3, .value_bytes = 5, .value = "hello" };
    assert_int_equal(judged(&read, &s, false, &a), REGISTER_REFUSED);
    assert_non_null(strstr(a.reason, "etcdctl del"));
    assert_int_equal(judged(&adopt, &s, false, &a), REGISTER_REFUSED);
    s.value_bytes = 0;
    assert_int_equal(judged(&read, &s, false, &a), REGISTER_REFUSED);
    s.value_bytes = (size_t)snprintf(s.value, sizeof(s.value), "{\"lockstep\":2}");
    assert_int_equal(judged(&read, &s, false, &a), REGISTER_REFUSED);
    assert_non_null(strstr(a.reason, "upgrade this node"));
}

/* Restored from a snapshot, under another cluster id: older, whatever its epoch. */
static void test_judge_other_cluster(void **state)
{
    struct register_answer a;
    struct register_request first = swap_request(0, 0, 11), out = swap_request(1, 11, 13), read = read_request(1);
    struct etcd_stored s = store(&first, 5);
    s.cluster_id = 77;
    assert_int_equal(judged(&read, &s, false, &a), REGISTER_OLDER);
    assert_non_null(strstr(a.reason, "adopt"));
    assert_int_equal(a.decree.epoch, 1);
    assert_int_equal(judged(&out, &s, false, &a), REGISTER_OLDER);
    assert_int_equal(judged(&first, &s, false, &a), REGISTER_OLDER);
    struct register_request adopt = swap_request(0, 0, 14);
    adopt.known_epoch = 7;
    adopt.proposal.epoch = 8;
    adopt.proposal.cause = DECREE_ADOPT;
    adopt.over_older = true;
    assert_int_equal(judged(&adopt, &s, true, &a), REGISTER_DONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base64),
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_value_there_and_back),
        cmocka_unit_test(test_values_that_are_none),
        cmocka_unit_test(test_ages),
        cmocka_unit_test(test_range_answers),
        cmocka_unit_test(test_txn),
        cmocka_unit_test(test_reads_with_ages),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_judge),
        cmocka_unit_test(test_judge_ages),
        cmocka_unit_test(test_judge_foreign_values),
        cmocka_unit_test(test_judge_other_cluster),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
