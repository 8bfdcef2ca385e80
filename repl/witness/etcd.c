/* The register in etcd: questions to its members over HTTP, on a thread of its own.
 *
 * A question reads the volume's key; a swap that may be carried out then is one transaction, which compares the key
 * with what was read. A member that does not answer is passed over, and the next one is asked from the start: whether
 * the transaction was carried out, the key tells, by the proposal's tag.
 *
 * Rule leg-age: the node's age is read together with the key. When the answer is known, and the age that was asked with
 * is higher than what was read, it is put by a transaction of its own, once, and the answer is given whatever becomes
 * of that: no decree depends on an age. */
#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "repl/base/clock.h"
#include "repl/base/list.h"
#include "repl/witness/etcd_gateway.h"
#include "repl/witness/etcd_judge.h"
#include "repl/witness/etcd_url.h"
#include "repl/witness/register_backend.h"
#include "repl/witness/register_table.h"

#define ATTEMPTS_IN_TIMEOUT 3 /* members that may keep silent within one question's time; with fewer members, those */
#define PAUSE_MS 100          /* after all members were passed over: a leader may be being elected */
#define AGE_PART_OF_ATTEMPT 4 /* for so much of it an answer that is known waits for an age that is being put */
#define CONNECTIONS_PER_MEMBER_MAX 32
#define CONNECTION_IDLE_S_MAX 30 /* firewalls forget connections without a word, and a register is asked rarely */
#define IDLE_MS_MAX 3600000

enum question_state {
    QUESTION_NONE,     /* the slot is free */
    QUESTION_READING,  /* the key is asked for */
    QUESTION_SWAPPING, /* a transaction is under way */
    QUESTION_TELLING,  /* the answer is known, and an age is being put */
    QUESTION_PAUSING,  /* no member was of use; they are asked again after a while */
};

struct question {
    struct list link; /* in `asked`, then in `active` */
    bool taken;       /* from register_ask() until it is answered; under the mutex */
    enum question_state state;
    struct register_request request;
    uint64_t deadline_ns;
    uint64_t until_ns;    /* READING, SWAPPING: then this member is passed over; TELLING: then it is answered; PAUSING:
                             then it goes on */
    unsigned endpoint;    /* which one is asked */
    unsigned passed_over; /* members in a row */
    /* The tag of a transaction that may still be carried out as far as this client knows; also of earlier questions. */
    uint64_t unsure_tag;
    char refusal[REGISTER_REASON_BYTES];    /* etcd's, of the transaction; whether that is so the key has to tell */
    char last_fault[REGISTER_REASON_BYTES]; /* of the member that was passed over last */
    struct etcd_stored stored;              /* as read last */
    bool without_age;                       /* nothing but the volume's key is read: no more could be had */
    struct register_answer known;           /* SWAPPING: if it is carried out; TELLING: what is answered then */
    CURL *easy;                             /* NULL before the first use */
    char *answer;                           /* as it comes in; ETCD_ANSWER_BYTES_MAX, NULL before the first use */
    size_t answer_bytes;
    bool answer_too_long;
    char curl_error[CURL_ERROR_SIZE];
};

struct client {
    void (*answered)(void *context, uint32_t slot, const struct register_answer *answer);
    void *context;
    struct etcd_url url;
    char *tls_ca, *tls_cert, *tls_key;
    uint64_t timeout_ns, attempt_ns;
    CURLM *multi;
    struct curl_slist *headers;
    pthread_t thread;

    pthread_mutex_t mutex; /* `asked`, `closing`, and each question's `taken` */
    struct list asked;
    bool closing;

    /* The thread's own. */
    struct list active;
    unsigned preferred; /* the endpoint that new questions begin with: the last one that was of use */
    struct question questions[REGISTER_SLOTS_MAX];
};

static uint32_t slot_of(const struct client *c, const struct question *q) { return (uint32_t)(q - c->questions); }

static const char *endpoint_of(const struct client *c, const struct question *q)
{
    return c->url.endpoints[q->endpoint];
}

static bool is_swap(const struct question *q) { return q->request.ask == REGISTER_SWAP; }

/* ---- the end of a question ---- */

static void stop_transfer(struct client *c, struct question *q)
{
    if (q->state == QUESTION_READING || q->state == QUESTION_SWAPPING || q->state == QUESTION_TELLING)
        curl_multi_remove_handle(c->multi, q->easy);
}

/* `q` is not looked at after this: it may be another question already. q->known may be the answer: it is this thread's.
 */
static void finish(struct client *c, struct question *q, const struct register_answer *answer)
{
    q->state = QUESTION_NONE;
    list_remove(&q->link);
    pthread_mutex_lock(&c->mutex);
    q->taken = false; /* who hears the answer may ask again at once, from another thread */
    pthread_mutex_unlock(&c->mutex);
    c->answered(c->context, slot_of(c, q), answer);
}

static void finish_in_words(struct client *c, struct question *q, enum register_outcome outcome, const char *reason)
{
    struct register_answer a = { .outcome = outcome };
    snprintf(a.reason, sizeof(a.reason), "%s", reason);
    finish(c, q, &a);
}

static void finish_unreachable(struct client *c, struct question *q)
{
    char reason[REGISTER_REASON_BYTES];
    snprintf(reason, sizeof(reason), "no member of etcd has answered; %.150s",
             q->last_fault[0] ? q->last_fault : "the time was too short");
    finish_in_words(c, q, REGISTER_UNREACHABLE, reason);
}

/* "Refused" says of a swap that it was not carried out. */
static void finish_refused(struct client *c, struct question *q, const char *reason)
{
    bool sure = !is_swap(q) || q->unsure_tag != q->request.proposal.tag; /* tags are never 0 */
    finish_in_words(c, q, sure ? REGISTER_REFUSED : REGISTER_UNREACHABLE, reason);
}

/* ---- transfers ---- */

static size_t take_answer(char *data, size_t one, size_t bytes, void *context)
{
    struct question *q = context;
    if (bytes > ETCD_ANSWER_BYTES_MAX - q->answer_bytes) {
        q->answer_too_long = true;
        return 0; /* ends the transfer */
    }
    memcpy(q->answer + q->answer_bytes, data, bytes);
    q->answer_bytes += bytes;
    return bytes;
}

/* Those that can fail do so for want of memory, or where this libcurl lacks what Debian's has. */
static bool set_options(const struct client *c, struct question *q, const char *path, const char *body,
                        size_t body_bytes)
{
    char url[ETCD_ENDPOINT_BYTES_MAX + 64];
    CURL *e = q->easy;
    snprintf(url, sizeof(url), "http%s://%s%s", c->url.tls ? "s" : "", endpoint_of(c, q), path);
    curl_easy_reset(e); /* connections stay */
    bool ok = curl_easy_setopt(e, CURLOPT_URL, url) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE, (long)body_bytes) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_COPYPOSTFIELDS, body) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_HTTPHEADER, c->headers) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_MAXAGE_CONN, (long)CONNECTION_IDLE_S_MAX) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_PROXY, "") == CURLE_OK; /* also none of the environment's */
    ok &= curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) == CURLE_OK;
    /* A look-up of a name that hangs is left to itself, and does not hold up the others. */
    ok &= curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, take_answer) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_WRITEDATA, q) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_PRIVATE, q) == CURLE_OK;
    ok &= curl_easy_setopt(e, CURLOPT_ERRORBUFFER, q->curl_error) == CURLE_OK;
    if (c->url.tls) {
        ok &= curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) == CURLE_OK;
        ok &= !c->tls_ca || curl_easy_setopt(e, CURLOPT_CAINFO, c->tls_ca) == CURLE_OK;
        /* No other certificates count than those that were named. */
        ok &= !c->tls_ca || curl_easy_setopt(e, CURLOPT_CAPATH, NULL) == CURLE_OK;
        ok &= !c->tls_cert || curl_easy_setopt(e, CURLOPT_SSLCERT, c->tls_cert) == CURLE_OK;
        ok &= !c->tls_key || curl_easy_setopt(e, CURLOPT_SSLKEY, c->tls_key) == CURLE_OK;
    }
    return ok;
}

static void send_to_member(struct client *c, struct question *q, enum question_state state, const char *path,
                           const char *body, size_t body_bytes)
{
    uint64_t now = clock_ns();
    q->state = state;
    q->until_ns = min_u64(now + c->attempt_ns, q->deadline_ns);
    q->answer_bytes = 0;
    q->answer_too_long = false;
    q->curl_error[0] = 0;
    if (!q->easy)
        q->easy = curl_easy_init();
    if (!q->answer)
        q->answer = malloc(ETCD_ANSWER_BYTES_MAX);
    if (!q->easy || !q->answer || !set_options(c, q, path, body, body_bytes) ||
        curl_multi_add_handle(c->multi, q->easy) != CURLM_OK) {
        q->state = QUESTION_PAUSING; /* nothing is under way */
        q->until_ns = min_u64(now + PAUSE_MS * NS_PER_MS, q->deadline_ns);
        snprintf(q->last_fault, sizeof(q->last_fault), "out of memory");
    }
}

static void send_read(struct client *c, struct question *q)
{
    char body[ETCD_BODY_BYTES_MAX];
    if (q->without_age) {
        size_t bytes = etcd_range_body(body, q->request.volume);
        send_to_member(c, q, QUESTION_READING, ETCD_RANGE_PATH, body, bytes);
    } else {
        size_t bytes = etcd_read_body(body, q->request.volume, q->request.node);
        send_to_member(c, q, QUESTION_READING, ETCD_TXN_PATH, body, bytes);
    }
}

/* A member before 3.4.21 whose space is used up refuses each transaction, also one that only reads; and somebody may
 * have put more into that key than an answer may have. */
static void read_without_age(struct client *c, struct question *q)
{
    q->without_age = true;
    send_read(c, q);
}

static const char *node_whose_age_is_read(const struct question *q) { return q->without_age ? NULL : q->request.node; }

static void send_swap(struct client *c, struct question *q)
{
    char body[ETCD_BODY_BYTES_MAX], value[ETCD_VALUE_BYTES_MAX];
    size_t bytes = etcd_value_encode(value, &q->request, q->stored.cluster_id, time(NULL));
    if (bytes == 0) {
        finish_refused(
            c, q, "the decree cannot be written as etcd's value: a name that no configuration takes, or no memory");
        return;
    }
    bytes = etcd_txn_body(body, q->request.volume, node_whose_age_is_read(q), q->request.proposal.epoch, &q->stored,
                          value, bytes);
    send_to_member(c, q, QUESTION_SWAPPING, ETCD_TXN_PATH, body, bytes);
}

/* The answer is q->known. */
static void tell_age(struct client *c, struct question *q)
{
    char body[ETCD_BODY_BYTES_MAX];
    const struct etcd_age age = { .volume_id = q->request.volume_id, .age = q->request.leg_age };
    if (!q->without_age && etcd_age_is_due(&q->request, &q->stored, &q->known)) {
        size_t bytes = etcd_age_body(body, q->request.volume, q->request.node, &q->stored.age, &age);
        send_to_member(c, q, QUESTION_TELLING, ETCD_TXN_PATH, body, bytes);
        if (q->state == QUESTION_TELLING) {
            q->until_ns = min_u64(q->until_ns, clock_ns() + c->attempt_ns / AGE_PART_OF_ATTEMPT);
            return;
        }
    }
    finish(c, q, &q->known);
}

/* The transfer has ended, and was of no use. */
static void note_fault(struct client *c, struct question *q, const char *fault)
{
    if (q->state == QUESTION_SWAPPING)
        q->unsure_tag = q->request.proposal.tag;
    snprintf(q->last_fault, sizeof(q->last_fault), "%.80s: %.100s", endpoint_of(c, q), fault);
    /* Others may have found a better one meanwhile. */
    if (c->preferred == q->endpoint)
        c->preferred = (q->endpoint + 1) % c->url.count;
    q->endpoint = c->preferred;
}

static void pass_over(struct client *c, struct question *q, const char *fault)
{
    note_fault(c, q, fault);
    if (++q->passed_over < c->url.count) {
        send_read(c, q);
        return;
    }
    q->passed_over = 0;
    q->state = QUESTION_PAUSING;
    q->until_ns = min_u64(clock_ns() + PAUSE_MS * NS_PER_MS, q->deadline_ns);
}

/* ---- answers ---- */

static void judge(struct client *c, struct question *q)
{
    if (!etcd_judge(&q->request, &q->stored, &q->known))
        tell_age(c, q);
    else if (q->refusal[0])
        finish_refused(c, q, q->refusal);
    else
        send_swap(c, q);
}

static void read_done(struct client *c, struct question *q)
{
    int rc = q->without_age
                 ? etcd_range_answer(&q->stored, q->request.volume, q->answer, q->answer_bytes)
                 : etcd_read_answer(&q->stored, q->request.volume, q->request.node, q->answer, q->answer_bytes);
    if (rc)
        pass_over(c, q, "the answer is none of etcd's");
    else
        judge(c, q);
}

static void swap_done(struct client *c, struct question *q)
{
    bool put;
    struct etcd_stored stands;
    if (etcd_txn_answer(&put, &stands, q->request.volume, node_whose_age_is_read(q), q->answer, q->answer_bytes)) {
        pass_over(c, q, "the answer is none of etcd's");
    } else if (put) {
        tell_age(c, q);
    } else {
        q->stored = stands;
        judge(c, q);
    }
}

static void not_done(struct client *c, struct question *q, long status)
{
    char reason[REGISTER_REASON_BYTES];
    if (etcd_error_answer(reason, status, q->answer, q->answer_bytes) == ETCD_TRIES_ELSEWHERE) {
        pass_over(c, q, reason);
    } else if (q->state == QUESTION_READING && !q->without_age) {
        read_without_age(c, q);
    } else if (q->state == QUESTION_SWAPPING) {
        /* A member that runs out of space while it carries out a transaction calls that an error, too. */
        snprintf(q->refusal, sizeof(q->refusal), "%s", reason);
        send_read(c, q);
    } else {
        finish_refused(c, q, reason);
    }
}

static void transfer_done(struct client *c, struct question *q, CURLcode result)
{
    long status = 0;
    curl_easy_getinfo(q->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_multi_remove_handle(c->multi, q->easy);
    if (q->state == QUESTION_TELLING) {
        finish(c, q, &q->known);
        return;
    }
    if (q->answer_too_long && q->state == QUESTION_READING && !q->without_age)
        read_without_age(c, q);
    else if (q->answer_too_long)
        pass_over(c, q, "the answer is longer than any of etcd's to Lockstep");
    else if (result != CURLE_OK)
        pass_over(c, q, q->curl_error[0] ? q->curl_error : curl_easy_strerror(result));
    else if (status != 200)
        not_done(c, q, status);
    else if (q->state == QUESTION_SWAPPING)
        swap_done(c, q);
    else
        read_done(c, q);
}

/* ---- the thread ---- */

static void begin(struct client *c, struct question *q)
{
    list_append(&c->active, &q->link);
    q->endpoint = c->preferred;
    q->passed_over = 0;
    q->without_age = false;
    q->refusal[0] = 0;
    q->last_fault[0] = 0;
    const char *fault = register_request_fault(&q->request);
    if (fault)
        finish_in_words(c, q, REGISTER_REFUSED, fault);
    else
        send_read(c, q);
}

/* False: it is to end. */
static bool take_asked(struct client *c)
{
    struct list asked;
    list_init(&asked);
    pthread_mutex_lock(&c->mutex);
    bool closing = c->closing;
    for (struct list *l; !closing && (l = list_pop(&c->asked));)
        list_append(&asked, l);
    pthread_mutex_unlock(&c->mutex);
    for (struct list *l; (l = list_pop(&asked));)
        begin(c, container_of(l, struct question, link));
    return !closing;
}

static void look_at_time(struct client *c, struct question *q, uint64_t now)
{
    char fault[64] = "";
    if (now < q->until_ns)
        return;
    if (q->state == QUESTION_TELLING) {
        stop_transfer(c, q);
        finish(c, q, &q->known);
        return;
    }
    if (q->state != QUESTION_PAUSING) {
        stop_transfer(c, q);
        snprintf(fault, sizeof(fault), "no answer within %llu ms", (unsigned long long)(c->attempt_ns / NS_PER_MS));
    }
    if (now >= q->deadline_ns) {
        if (fault[0])
            note_fault(c, q, fault);
        finish_unreachable(c, q);
    } else if (fault[0]) {
        pass_over(c, q, fault);
    } else {
        send_read(c, q);
    }
}

/* Milliseconds until the next of the questions' times, rounded up. */
static int next_time(const struct client *c)
{
    uint64_t now = clock_ns(), wait = IDLE_MS_MAX * NS_PER_MS;
    list_for_each (l, &c->active) {
        const struct question *q = container_of(l, struct question, link);
        wait = min_u64(wait, q->until_ns > now ? q->until_ns - now : 0);
    }
    return (int)((wait + NS_PER_MS - 1) / NS_PER_MS);
}

static void *client_thread(void *context)
{
    struct client *c = context;
    while (take_asked(c)) {
        int running, left;
        curl_multi_perform(c->multi, &running);
        for (CURLMsg *m; (m = curl_multi_info_read(c->multi, &left));) {
            struct question *q;
            CURLcode result = m->data.result; /* `m` goes with the handle */
            if (m->msg == CURLMSG_DONE && curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &q) == CURLE_OK)
                transfer_done(c, q, result);
        }
        uint64_t now = clock_ns();
        list_for_each_safe (l, &c->active)
            look_at_time(c, container_of(l, struct question, link), now);
        curl_multi_poll(c->multi, NULL, 0, next_time(c), NULL);
    }
    return NULL;
}

/* ---- opening and closing ---- */

static void global_init(void) { curl_global_init(CURL_GLOBAL_DEFAULT); }

static void client_free(struct client *c)
{
    for (unsigned i = 0; i < REGISTER_SLOTS_MAX; i++) {
        struct question *q = &c->questions[i];
        stop_transfer(c, q);
        if (q->easy)
            curl_easy_cleanup(q->easy);
        free(q->answer);
    }
    if (c->multi)
        curl_multi_cleanup(c->multi);
    curl_slist_free_all(c->headers);
    free(c->tls_ca);
    free(c->tls_cert);
    free(c->tls_key);
    pthread_mutex_destroy(&c->mutex);
    free(c);
}

/* curl reads the files for each new connection: what is put in their place counts from then on. */
static int take_tls_file(char **out, const char *path, const char *what, char *error, size_t error_bytes)
{
    if (!path)
        return 0;
    if (access(path, R_OK)) {
        int rc = -errno;
        snprintf(error, error_bytes, "the register's %s, %s: %s", what, path, strerror(-rc));
        return rc;
    }
    *out = strdup(path);
    return *out ? 0 : -ENOMEM;
}

static int take_tls(struct client *c, const struct register_options *o, char *error, size_t error_bytes)
{
    if (!c->url.tls)
        return 0;
    if (!o->tls_cert != !o->tls_key) {
        snprintf(error, error_bytes, "a certificate and its key are given together, or neither");
        return -EINVAL;
    }
    int rc = take_tls_file(&c->tls_ca, o->tls_ca, "ca", error, error_bytes);
    rc = rc ? rc : take_tls_file(&c->tls_cert, o->tls_cert, "cert", error, error_bytes);
    return rc ? rc : take_tls_file(&c->tls_key, o->tls_key, "key", error, error_bytes);
}

static int make_multi(struct client *c)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, global_init);
    c->multi = curl_multi_init();
    static const char *const headers[] = {
        "Content-Type: application/json",
        "Expect:", /* nothing is announced */
        /* A member without a leader says so at once, and does not wait for one. */
        "Grpc-Metadata-hasleader: true",
    };
    for (unsigned i = 0; i < ARRAY_LEN(headers); i++) {
        struct curl_slist *more = curl_slist_append(c->headers, headers[i]);
        if (!more)
            return -ENOMEM;
        c->headers = more;
    }
    bool ok = c->multi != NULL;
    ok = ok && curl_multi_setopt(c->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)CONNECTIONS_PER_MEMBER_MAX) == CURLM_OK;
    ok = ok && curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS,
                                 (long)CONNECTIONS_PER_MEMBER_MAX * (long)c->url.count) == CURLM_OK;
    return ok ? 0 : -ENOMEM;
}

static int start_thread(struct client *c)
{
    /* Signals are the main thread's; SIGPIPE stays blocked here, which OpenSSL's writes may cause. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int rc = pthread_create(&c->thread, NULL, client_thread, c);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0)
        pthread_setname_np(c->thread, "etcd");
    return -rc;
}

static int etcd_open(void **out, const struct register_options *o, char *error, size_t error_bytes)
{
    struct etcd_url url;
    int rc = etcd_url_parse(&url, o->url, error, error_bytes);
    if (rc)
        return rc;
    struct client *c = calloc(1, sizeof(*c)); /* pages of slots that are never used stay untouched */
    if (!c) {
        snprintf(error, error_bytes, "out of memory");
        return -ENOMEM;
    }
    pthread_mutex_init(&c->mutex, NULL);
    list_init(&c->asked);
    list_init(&c->active);
    c->url = url;
    c->answered = o->answered;
    c->context = o->context;
    c->timeout_ns = o->timeout_ms * NS_PER_MS;
    c->attempt_ns = c->timeout_ns / min_u64(url.count, ATTEMPTS_IN_TIMEOUT);
    error[0] = 0;
    rc = take_tls(c, o, error, error_bytes);
    rc = rc ? rc : make_multi(c);
    rc = rc ? rc : start_thread(c);
    if (rc) {
        if (!error[0])
            snprintf(error, error_bytes, "etcd's client: %s", strerror(-rc));
        client_free(c);
        return rc;
    }
    *out = c;
    return 0;
}

static void etcd_ask(void *client, uint32_t slot, const struct register_request *request)
{
    struct client *c = client;
    struct question *q = &c->questions[slot];
    pthread_mutex_lock(&c->mutex);
    assert(!q->taken);
    q->taken = true;
    q->request = *request;
    q->deadline_ns = clock_ns() + c->timeout_ns;
    list_append(&c->asked, &q->link);
    pthread_mutex_unlock(&c->mutex);
    curl_multi_wakeup(c->multi);
}

static void etcd_close(void *client)
{
    struct client *c = client;
    pthread_mutex_lock(&c->mutex);
    c->closing = true;
    pthread_mutex_unlock(&c->mutex);
    curl_multi_wakeup(c->multi);
    pthread_join(c->thread, NULL);
    client_free(c);
}

const struct register_backend etcd_backend = { etcd_open, etcd_ask, etcd_close };
