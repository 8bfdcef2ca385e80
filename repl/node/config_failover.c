/* Which register says who serves a volume, and what only has a meaning where there is one. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "repl/node/config_internal.h"
#include "repl/node/quantity.h"
#include "repl/witness/etcd_url.h"

static const char witness_embedded[] = "lockstep://";
static const char witness_etcd[] = "etcd+https://";

static_assert(sizeof("etcd+https://") + ETCD_ENDPOINTS_MAX * (ETCD_ENDPOINT_BYTES_MAX + 1) <= CONFIG_WITNESS_BYTES &&
                  sizeof("lockstep://") + CONFIG_ADDRESS_BYTES <= CONFIG_WITNESS_BYTES,
              "whatever is a register's URL fits");

static bool begins_with(const char *text, const char *with) { return strncmp(text, with, strlen(with)) == 0; }

static int read_register_tls(struct reading *r)
{
    const struct raw_witness_tls *raw = r->raw->witness_tls;
    struct config_witness *w = &r->out->witness;
    if (!raw)
        return 0;
    if (!begins_with(w->url, witness_etcd))
        return config_wrong(&r->place, "witness-tls", r->err, "expected only with a witness of %s", witness_etcd);
    const struct {
        const char *path;
        const char *name;
        char *out;
    } files[] = {
        { "witness-tls.ca", raw->ca, w->tls_ca },
        { "witness-tls.cert", raw->cert, w->tls_cert },
        { "witness-tls.key", raw->key, w->tls_key },
    };
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        if (files[i].name && (!*files[i].name || !config_join_path(r, files[i].name, files[i].out, CONFIG_PATH_BYTES)))
            return config_unexpected(&r->place, files[i].path, r->err);
    if (!raw->cert != !raw->key)
        return config_wrong(&r->place, "witness-tls", r->err, "expected cert and key, or neither; found one of them");
    return 0;
}

static bool leaves_this_machine(const char *address)
{
    bool loopback;
    return !quantity_address(address, &loopback) || !loopback;
}

/* Whatever a register's client takes, and nothing that it refuses when the daemon starts. */
int config_read_register(struct reading *r)
{
    const char *url = r->raw->witness;
    struct config_witness *w = &r->out->witness;
    if (!url)
        return read_register_tls(r);
    if (begins_with(url, witness_embedded)) {
        const char *address = url + strlen(witness_embedded);
        if (!quantity_address(address, NULL))
            return config_unexpected(&r->place, "witness", r->err);
        w->is_open = leaves_this_machine(address);
    } else if (begins_with(url, "etcd+")) {
        struct etcd_url etcd;
        char error[sizeof(r->err->text)];
        if (etcd_url_parse(&etcd, url, error, sizeof(error)))
            return config_wrong(&r->place, "witness", r->err, "%s", error);
        for (unsigned i = 0; i < etcd.count; i++)
            w->is_open |= !etcd.tls && leaves_this_machine(etcd.endpoints[i]);
    } else {
        return config_unexpected(&r->place, "witness", r->err);
    }
    int n = snprintf(w->url, sizeof(w->url), "%s", url);
    assert(n > 0 && (size_t)n < sizeof(w->url));
    return read_register_tls(r);
}

/* What only has a meaning where a register says who serves. */
int config_read_failover(struct reading *r)
{
    const struct raw_volume *raw = r->raw;
    bool has_witness = config_has_witness(r->out);
    r->out->failover_automatic = has_witness;
    if (raw->failover) {
        static const char *const words[] = { "manual", "automatic", NULL };
        int rc = config_one_of(r, "failover", raw->failover, words);
        if (rc < 0)
            return rc;
        r->out->failover_automatic = rc == 1;
        if (rc == 1 && !has_witness)
            return config_wrong(&r->place, "failover", r->err,
                                "automatic needs a witness, which says who may serve: add one, or write manual");
    }
    if (has_witness && r->out->when_alone == ALONE_CONTINUE)
        return config_wrong(&r->place, "when-alone", r->err,
                            "continue does not go with a witness, which would not know of a primary that goes on "
                            "without asking it, and let the peer take over: write strict, or leave the witness out");
    if (!raw->fail_after)
        return 0;
    if (!has_witness)
        return config_wrong(&r->place, "fail-after", r->err, "expected only with a witness");
    if (r->out->when_alone == ALONE_SUSPEND)
        return config_wrong(&r->place, "fail-after", r->err,
                            "does not go with `when-alone: suspend`, where writes wait however long it takes");
    uint64_t *ns = &r->out->fail_after_ns;
    if (!quantity_time(raw->fail_after, ns) || *ns <= r->out->dead_after_ns || *ns > CONFIG_FAIL_AFTER_NS_MAX)
        return config_unexpected(&r->place, "fail-after", r->err);
    return 0;
}
