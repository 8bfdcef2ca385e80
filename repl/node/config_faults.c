/* The section `test:` of a volume's file, which injects faults. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "repl/node/config_internal.h"
#include "repl/node/quantity.h"

#define PER_MILLION UINT64_C(1000000)

/* The table-driven part of `test:`; every value may be left out. */
struct number_key {
    const char *path;
    const char *value;
    uint64_t max;
    uint64_t *out;
};

static int read_numbers(struct reading *r, const struct number_key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (keys[i].value && !quantity_number(keys[i].value, keys[i].max, keys[i].out))
            return config_unexpected(&r->place, keys[i].path, r->err);
    return 0;
}

static int read_delay(struct reading *r, const char *section, const char *min, const char *max, uint64_t *min_ns,
                      uint64_t *max_ns)
{
    char path[KEY_PATH_BYTES];
    snprintf(path, sizeof(path), "%s.delay-min", section);
    if (min && (!quantity_time(min, min_ns) || *min_ns > CONFIG_TEST_DELAY_NS_MAX))
        return config_unexpected(&r->place, path, r->err);
    *max_ns = *min_ns;
    snprintf(path, sizeof(path), "%s.delay-max", section);
    if (max && (!quantity_time(max, max_ns) || *max_ns > CONFIG_TEST_DELAY_NS_MAX || *max_ns < *min_ns))
        return config_unexpected(&r->place, path, r->err);
    return 0;
}

static int read_test_disk(struct reading *r, const struct raw_test_disk *raw, struct config_test *test)
{
    uint64_t seed = 0;
    uint64_t rates[OP_FLUSH + 1] = { 0 };
    uint64_t shorts = 0;
    struct disk_fault_config *fault = &test->disk_fault;
    const struct number_key numbers[] = {
        { "test.disk.seed", raw->seed, UINT64_MAX, &seed },
        { "test.disk.read-errors-per-million", raw->read_errors, PER_MILLION, &rates[OP_READ] },
        { "test.disk.write-errors-per-million", raw->write_errors, PER_MILLION, &rates[OP_WRITE] },
        { "test.disk.discard-errors-per-million", raw->discard_errors, PER_MILLION, &rates[OP_DISCARD] },
        { "test.disk.zeroes-errors-per-million", raw->zeroes_errors, PER_MILLION, &rates[OP_WRITE_ZEROES] },
        { "test.disk.flush-errors-per-million", raw->flush_errors, PER_MILLION, &rates[OP_FLUSH] },
        { "test.disk.short-transfers-per-million", raw->short_transfers, PER_MILLION, &shorts },
        { "test.disk.error-after-requests", raw->error_after, UINT64_MAX, &fault->error_after_requests },
    };
    int rc = read_numbers(r, numbers, ARRAY_LEN(numbers));
    if (rc)
        return rc;
    fault->seed = seed;
    fault->short_per_million = (unsigned)shorts;
    bool any = shorts > 0;
    for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
        fault->error_per_million[i] = (unsigned)rates[i];
        any |= rates[i] > 0;
    }
    test->disk_fault_on = any;

    static const char *const words[] = { "EIO", "ENOSPC", "EROFS", "EREMOTEIO", NULL };
    static const int errors[] = { -EIO, -ENOSPC, -EROFS, -EREMOTEIO };
    int error = raw->error ? config_one_of(r, "test.disk.error", raw->error, words) : 0;
    if (error < 0)
        return error;
    fault->error = errors[error];

    if (raw->error_offset && !quantity_size(raw->error_offset, &fault->error_offset_bytes))
        return config_unexpected(&r->place, "test.disk.error-offset", r->err);
    if (raw->error_length && !quantity_size(raw->error_length, &fault->error_length_bytes))
        return config_unexpected(&r->place, "test.disk.error-length", r->err);

    if (raw->record &&
        (!*raw->record || !config_join_path(r, raw->record, test->disk_record, sizeof(test->disk_record))))
        return config_unexpected(&r->place, "test.disk.record", r->err);

    test->disk_delay_on = raw->delay_min || raw->delay_max;
    test->disk_delay.seed = seed;
    return read_delay(r, "test.disk", raw->delay_min, raw->delay_max, &test->disk_delay.min_ns,
                      &test->disk_delay.max_ns);
}

static int read_test_link(struct reading *r, const struct raw_test_link *raw, struct config_test *test)
{
    struct transport_fault_config *fault = &test->link_fault;
    uint64_t drop = 0;
    uint64_t corrupt = 0;
    uint64_t cut = 0;
    const struct number_key numbers[] = {
        { "test.link.seed", raw->seed, UINT64_MAX, &fault->seed },
        { "test.link.drop-per-million", raw->drop, PER_MILLION, &drop },
        { "test.link.corrupt-per-million", raw->corrupt, PER_MILLION, &corrupt },
        { "test.link.cut-per-million", raw->cut, PER_MILLION, &cut },
    };
    int rc = read_numbers(r, numbers, ARRAY_LEN(numbers));
    if (rc)
        return rc;
    fault->drop_per_million = (unsigned)drop;
    fault->corrupt_per_million = (unsigned)corrupt;
    fault->cut_per_million = (unsigned)cut;
    if (raw->stall && !config_switch_value(raw->stall, &fault->stall))
        return config_unexpected(&r->place, "test.link.stall", r->err);
    test->link_fault_on = true;
    return read_delay(r, "test.link", raw->delay_min, raw->delay_max, &fault->delay_min_ns, &fault->delay_max_ns);
}

int config_read_test(struct reading *r)
{
    const struct raw_test *raw = r->raw->test;
    if (!raw)
        return 0;
    if (!r->options->allow_test_faults)
        return config_wrong(&r->place, "test", r->err,
                            "injects faults for tests: leave it out, or start lockstepd with --allow-test-faults");
    struct config_test test = { 0 };
    if (raw->boot && !quantity_number(raw->boot, UINT64_MAX, &test.boot))
        return config_unexpected(&r->place, "test.boot", r->err);
    int rc = raw->disk ? read_test_disk(r, raw->disk, &test) : 0;
    if (!rc && raw->link)
        rc = read_test_link(r, raw->link, &test);
    if (rc)
        return rc;
    bool known = !raw->node;
    for (unsigned i = 0; i < r->out->node_count && !known; i++)
        known = strcmp(r->out->nodes[i].name, raw->node) == 0;
    if (!known)
        return config_unexpected(&r->place, "test.node", r->err);
    if (!raw->node || strcmp(raw->node, config_self(r->out)->name) == 0)
        r->out->test = test;
    return 0;
}
