/* The configuration: what is understood, and the one line for everything that is not. */
#include "repl/node/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "repl/node/printable.h"
#include "repl/node/quantity.h"
#include "tests/unit/unit.h"

static const struct config_options options = { .node = "a", .allow_test_faults = true };

#define NODES                                                                                                          \
    "nodes:\n"                                                                                                         \
    "  - name: a\n"                                                                                                    \
    "    backing: /dev/vg0/g\n"                                                                                        \
    "    paths: [127.0.0.1:1, 127.0.0.1:2]\n"                                                                          \
    "  - name: b\n"                                                                                                    \
    "    backing: /dev/vg0/g\n"                                                                                        \
    "    paths: [127.0.0.1:3, 127.0.0.1:4]\n"
#define VOLUME "volume: g\n" NODES                        /* 8 lines; what a test adds begins with line 9 */
#define ONE "volume: g\nnodes: [{name: a, backing: x}]\n" /* 2 lines */

static int parse(const char *text, struct volume_config *out, struct err *err)
{
    return config_parse((const uint8_t *)text, strlen(text), "dir/t.yaml", &options, out, err);
}

static void understood(const char *text, struct volume_config *out)
{
    struct err err = { 0 };
    if (parse(text, out, &err))
        fail_msg("expected to be understood:\n%s\nfound: %s", text, err.text);
}

static void everything_is_read(void **state)
{
    struct volume_config c;
    understood("volume: gold42\n"
               "size: 40GiB\n"
               "nodes:\n"
               "  - name: a\n"
               "    backing: /dev/vg0/gold42\n"
               "    metadata: internal\n"
               "    device: nbd:unix:sock/gold42.sock\n"
               "    paths: ['10.0.0.1:7789', '[fd00::1]:7789']\n"
               "  - name: paris-b\n"
               "    backing: b.img\n"
               "    metadata: b.meta\n"
               "    device: nbd:127.0.0.1:10809\n"
               "    paths:\n"
               "      - 10.0.0.2:7789\n"
               "      - host.example:7789\n"
               "link: {transport: auto, tls: none, dead-after: 500ms}\n"
               "when-alone: suspend\n"
               "when-deposed: wait\n"
               "activity-log: 1GiB\n"
               "failover: manual\n"
               "resync-rate: 200MiB\n"
               "verify-rate: 1 GiB\n"
               "verify: {every: 7d, at: \"03:05\"}\n",
               &c);
    assert_int_equal(c.verify_every_ns, UINT64_C(7) * 86400 * NS_PER_S);
    assert_int_equal(c.verify_at_minute, 185);
    assert_int_equal(c.resync_bytes_per_s, 200 * MIB);
    assert_int_equal(c.verify_bytes_per_s, GIB);
    assert_string_equal(c.volume, "gold42");
    assert_string_equal(c.file, "dir/t.yaml");
    assert_int_equal(c.line, 1);
    assert_int_equal(c.size_bytes, 40 * GIB);
    assert_int_equal(c.node_count, 2);
    assert_int_equal(c.self, 0);
    assert_string_equal(config_self(&c)->name, "a");
    assert_string_equal(config_self(&c)->backing, "/dev/vg0/gold42");
    assert_string_equal(config_self(&c)->metadata, "");
    assert_string_equal(config_self(&c)->device, "unix:dir/sock/gold42.sock");
    assert_int_equal(config_self(&c)->path_count, 2);
    assert_string_equal(config_self(&c)->paths[1], "[fd00::1]:7789");
    assert_string_equal(config_peer(&c)->name, "paris-b");
    assert_string_equal(config_peer(&c)->backing, "dir/b.img");
    assert_string_equal(config_peer(&c)->metadata, "dir/b.meta");
    assert_string_equal(config_peer(&c)->device, "127.0.0.1:10809");
    assert_false(config_self(&c)->device_is_open || config_peer(&c)->device_is_open);
    assert_string_equal(config_peer(&c)->paths[1], "host.example:7789");
    assert_int_equal(c.dead_after_ns, 500 * NS_PER_MS);
    assert_int_equal(c.when_alone, ALONE_SUSPEND);
    assert_int_equal(c.when_deposed, DEPOSED_WAIT);
    assert_int_equal(c.activity_log_bytes, GIB);
    assert_false(c.tls_missing);
    assert_true(c.link_is_open); /* with `tls: none` as well */
    assert_false(c.test.disk_fault_on || c.test.disk_delay_on || c.test.link_fault_on);
}

static void what_is_left_out_has_defaults(void **state)
{
    struct volume_config c;
    understood(VOLUME, &c);
    assert_int_equal(c.size_bytes, 0);
    assert_string_equal(config_self(&c)->device, "unix:/run/lockstep/g.sock");
    assert_string_equal(config_self(&c)->metadata, "");
    assert_int_equal(c.dead_after_ns, 2 * NS_PER_S);
    assert_int_equal(c.when_alone, ALONE_STRICT);
    assert_int_equal(c.when_deposed, DEPOSED_FAIL);
    understood(VOLUME "when-deposed: fail\n", &c);
    assert_int_equal(c.when_deposed, DEPOSED_FAIL);
    understood(VOLUME, &c);
    assert_int_equal(c.activity_log_bytes, 256 * GIB);
    assert_int_equal(c.resync_bytes_per_s, 0); /* no limit */
    assert_int_equal(c.verify_bytes_per_s, 0);
    assert_int_equal(c.verify_every_ns, 0); /* when somebody orders it */
    understood(VOLUME "verify: {every: 12h}\n", &c);
    assert_int_equal(c.verify_at_minute, CONFIG_ANY_TIME);
    assert_true(c.tls_missing); /* allowed on loopback only */
    assert_false(c.link_is_open);
    understood(VOLUME "link: {tls: none}\n", &c);
    assert_false(c.tls_missing || c.link_is_open);
}

static void a_device_that_others_reach_is_known(void **state)
{
    static const struct {
        const char *device;
        bool open;
    } devices[] = {
        { "10.0.0.1:10809", true },     { "0.0.0.0:10809", true }, { "[::]:10809", true },
        { "host.example:10809", true }, { "[::1]:10809", false },  { "unix:x.sock", false },
    };
    for (unsigned i = 0; i < ARRAY_LEN(devices); i++) {
        char text[256];
        struct volume_config c;
        snprintf(text, sizeof(text), "volume: g\nnodes: [{name: a, backing: x, device: 'nbd:%s'}]\n",
                 devices[i].device);
        understood(text, &c);
        assert_int_equal(config_self(&c)->device_is_open, devices[i].open);
    }
}

static void failover_is_asked_for(void **state)
{
    struct volume_config c;
    understood(VOLUME, &c);
    assert_false(config_has_witness(&c));
    assert_false(c.failover_automatic);
    assert_int_equal(c.hooks.ns_max, 30 * NS_PER_S);
    assert_string_equal(c.hooks.promote, "");

    understood(VOLUME "witness: lockstep://10.9.0.1:7790\n", &c);
    assert_true(config_has_witness(&c));
    assert_string_equal(c.witness.url, "lockstep://10.9.0.1:7790");
    assert_true(c.failover_automatic); /* what a witness is there for */
    assert_int_equal(c.when_alone, ALONE_STRICT);
    assert_int_equal(c.fail_after_ns, 0);

    understood(VOLUME "witness: etcd+https://10.9.0.1:1,h:2\n"
                      "witness-tls: {ca: ca.pem, cert: /etc/c.pem, key: k.pem}\n"
                      "failover: manual\n"
                      "fail-after: 30s\n"
                      "hooks: {promote: bin/up, demote: /bin/down}\n"
                      "hook-timeout: 2min\n",
               &c);
    assert_string_equal(c.witness.url, "etcd+https://10.9.0.1:1,h:2");
    assert_string_equal(c.witness.tls_ca, "dir/ca.pem");
    assert_string_equal(c.witness.tls_cert, "/etc/c.pem");
    assert_string_equal(c.witness.tls_key, "dir/k.pem");
    assert_false(c.failover_automatic);
    assert_int_equal(c.fail_after_ns, 30 * NS_PER_S);
    assert_string_equal(c.hooks.promote, "dir/bin/up");
    assert_string_equal(c.hooks.demote, "/bin/down");
    assert_int_equal(c.hooks.ns_max, 120 * NS_PER_S);

    understood(VOLUME "witness: etcd+http://127.0.0.1:1,localhost:2\nfailover: automatic\nwhen-alone: suspend\n", &c);
    assert_true(c.failover_automatic);
    assert_int_equal(c.when_alone, ALONE_SUSPEND);
    assert_false(c.witness.is_open);
    understood(VOLUME "witness: etcd+http://127.0.0.1:1,10.9.0.1:2\n", &c);
    assert_true(c.witness.is_open);
    understood(VOLUME "witness: etcd+https://10.9.0.1:1,[fd00::1]:2,host_2.example:3\n", &c);
    assert_false(c.witness.is_open);
    understood(VOLUME "witness: lockstep://[::1]:7790\n", &c);
    assert_false(c.witness.is_open);
    understood(VOLUME "witness: lockstep://rome:7790\n", &c);
    assert_true(c.witness.is_open);

    understood(VOLUME "failover: manual\nhooks: {demote: x}\n", &c); /* hooks need no witness */
    assert_string_equal(c.hooks.demote, "dir/x");
}

static void going_on_alone_is_asked_for(void **state)
{
    struct volume_config c;
    understood(VOLUME "when-alone: continue\n", &c);
    assert_int_equal(c.when_alone, ALONE_CONTINUE);
}

static void a_single_node_is_a_volume(void **state)
{
    struct volume_config c;
    understood(ONE, &c);
    assert_int_equal(c.node_count, 1);
    assert_null(config_peer(&c));
    assert_int_equal(config_self(&c)->path_count, 0);
    assert_string_equal(config_self(&c)->backing, "dir/x");
    assert_false(c.tls_missing);
}

static void relative_names_begin_where_they_are_told(void **state)
{
    struct config_options here = { .node = "a", .directory = "/srv" };
    struct volume_config c;
    struct err err = { 0 };
    const char *text = "volume: g\nnodes: [{name: a, backing: x, metadata: /y, device: 'nbd:unix:z'}]\n";
    assert_int_equal(config_parse((const uint8_t *)text, strlen(text), "dir/t.yaml", &here, &c, &err), 0);
    assert_string_equal(config_self(&c)->backing, "/srv/dir/x");
    assert_string_equal(config_self(&c)->metadata, "/y");
    assert_string_equal(config_self(&c)->device, "unix:/srv/dir/z");
    assert_int_equal(config_parse((const uint8_t *)text, strlen(text), "/etc/t.yaml", &here, &c, &err), 0);
    assert_string_equal(config_self(&c)->backing, "/etc/x");
}

static void test_faults_are_read(void **state)
{
    struct volume_config c;
    understood(ONE "test:\n"
                   "  node: a\n"
                   "  boot: 2\n"
                   "  disk: {record: /var/tmp/a.rec, seed: 7, error: ENOSPC, write-errors-per-million: 10, "
                   "flush-errors-per-million: 1000000,\n"
                   "         short-transfers-per-million: 3, error-offset: 4KiB, error-length: 8KiB,\n"
                   "         error-after-requests: 99, delay-min: 100us, delay-max: 2ms}\n"
                   "  link: {seed: 18446744073709551615, drop-per-million: 1, corrupt-per-million: 2,\n"
                   "         cut-per-million: 3, delay-min: 1ms, stall: on}\n",
               &c);
    const struct config_test *t = &c.test;
    assert_true(t->disk_fault_on && t->disk_delay_on && t->link_fault_on);
    assert_int_equal(t->boot, 2);
    assert_string_equal(t->disk_record, "/var/tmp/a.rec");
    assert_int_equal(t->disk_fault.seed, 7);
    assert_int_equal(t->disk_fault.error, -ENOSPC);
    assert_int_equal(t->disk_fault.error_per_million[OP_READ], 0);
    assert_int_equal(t->disk_fault.error_per_million[OP_WRITE], 10);
    assert_int_equal(t->disk_fault.error_per_million[OP_FLUSH], 1000000);
    assert_int_equal(t->disk_fault.short_per_million, 3);
    assert_int_equal(t->disk_fault.error_offset_bytes, 4096);
    assert_int_equal(t->disk_fault.error_length_bytes, 8192);
    assert_int_equal(t->disk_fault.error_after_requests, 99);
    assert_int_equal(t->disk_delay.seed, 7);
    assert_int_equal(t->disk_delay.min_ns, 100 * NS_PER_US);
    assert_int_equal(t->disk_delay.max_ns, 2 * NS_PER_MS);
    assert_true(t->link_fault.seed == UINT64_MAX);
    assert_int_equal(t->link_fault.drop_per_million, 1);
    assert_int_equal(t->link_fault.corrupt_per_million, 2);
    assert_int_equal(t->link_fault.cut_per_million, 3);
    assert_int_equal(t->link_fault.delay_min_ns, NS_PER_MS);
    assert_int_equal(t->link_fault.delay_max_ns, NS_PER_MS);
    assert_true(t->link_fault.stall);

    understood(VOLUME "test: {node: b, disk: {delay-min: 1ms}}\n", &c); /* the other node's */
    assert_false(c.test.disk_delay_on);
}

static void test_faults_need_permission(void **state)
{
    struct volume_config c;
    struct err err = { 0 };
    struct config_options strict = { .node = "a" };
    const char *text = ONE "test: {disk: {delay-min: 1ms}}\n";
    assert_int_equal(config_parse((const uint8_t *)text, strlen(text), "t.yaml", &strict, &c, &err), -EINVAL);
    assert_string_equal(
        err.text,
        "t.yaml:3: test: injects faults for tests: leave it out, or start lockstepd with --allow-test-faults");
}

#define NAME_63 "n23456789012345678901234567890123456789012345678901234567890123"
#define EXPECTED_NAME "expected a name of 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit"
#define EXPECTED_LOG "expected a size of 256MiB to 1TiB in steps of 4MiB, such as 256GiB"
#define EXPECTED_SIZE "expected a size of 4KiB to 64TiB in steps of 4KiB, such as 40GiB (units KiB, MiB, GiB, TiB)"
#define EXPECTED_TIME "expected a time of 100ms to 10min, such as 2s (units ms, s, min)"
#define EXPECTED_PATH "expected an address HOST:PORT such as 10.0.0.1:7789 or [fd00::1]:7789"
#define EXPECTED_ETCD "expected etcd+https://HOST:PORT,HOST:PORT,... (or etcd+http://)"
#define EXPECTED_WITNESS "expected lockstep://HOST:PORT, etcd+https://HOST:PORT,... or etcd+http://HOST:PORT,..."
#define EXPECTED_EVERY "expected a time of 1h to 366d, such as 7d (units s, min, h, d)"
#define EXPECTED_RATE "expected a size per second of 1MiB to 1TiB, such as 200MiB (units KiB, MiB, GiB, TiB)"
#define EXPECTED_FAIL_AFTER                                                                                            \
    "expected a time of at most 7d, longer than dead-after, such as 30s (units ms, s, min, h, d)"
#define VOLUME_KEYS                                                                                                    \
    "volume, size, nodes, link, witness, witness-tls, when-alone, when-deposed, failover, fail-after, activity-log, "  \
    "resync-rate, verify-rate, verify, hooks, hook-timeout, offsite, test"

static const struct wrong {
    const char *text;
    const char *line; /* behind "dir/t.yaml:" */
} wrongs[] = {
    /* Not a configuration at all. */
    { "", "1: volume: expected a volume's configuration, found an empty file" },
    { "# nothing\n---\n", "3: expected a mapping with at least the keys volume and nodes, found nothing" },
    { "hello", "1: expected a mapping with at least the keys volume and nodes, found \"hello\"" },
    { "- a\n", "1: expected a mapping with at least the keys volume and nodes, found a list of 1" },
    { "volume: a\n b: c: d\n", "2: not YAML: mapping values are not allowed in this context" },
    { "volume: [a\n", "2: not YAML: did not find expected ',' or ']', while parsing a flow sequence" },
    { "volume: \xff\n", "1: not YAML: invalid leading UTF-8 octet" },
    { VOLUME "---\nvolume: h\n", "10: expected one document in the file, found a second one" },
    { "volume: g\nnodes: &n [*n]\n", "2: anchors and aliases are not supported here: write the value out" },
    { "volume: g\nsize: &s 1GiB\nx: *s\n", "2: anchors and aliases are not supported here: write the value out" },
    { "volume: [[[[[[[[[[]]]]]]]]]]\n", "1: nested more than 8 deep, which no key here is" },
    { VOLUME "? [a, b]\n: c\n", "9: expected a word as the key, found a list or a mapping" },
    { VOLUME "volume: h\n", "9: volume: expected each key once, found it also in line 1" },
    { VOLUME "link: {tls: none, tls: none}\n", "9: tls: expected each key once, found it also in line 9" },

    /* Keys. */
    { VOLUME "colour: blue\n", "9: colour: unknown key, expected one of: " VOLUME_KEYS },
    { VOLUME "a b: blue\n", "9: a b: unknown key, expected one of: " VOLUME_KEYS },
    { VOLUME "\"a\\nb\": blue\n", "9: a?b: unknown key" },
    { VOLUME "a.b: blue\n", "9: a.b: unknown key" },
    { VOLUME "link:\n  tls: none\n  dead_after: 2s\n",
      "11: link.dead_after: unknown key, expected one of: transport, tls, dead-after" },
    { VOLUME "    port: 3\n",
      "9: nodes[1].port: unknown key, expected one of: name, backing, metadata, device, paths" },
    { NODES, "1: volume: missing, " EXPECTED_NAME },
    { "volume: g\n", "1: nodes: missing, expected a list of one or two nodes" },
    { "volume: g\nnodes:\n  - name: a\n", "3: nodes[0].backing: missing, expected the name of a block device or file, "
                                          "at most 255 bytes with its directory" },
    { "volume: g\nnodes:\n  - {name: a, backing: x}\n  - {}\n", "4: nodes[1].name: missing, " EXPECTED_NAME },

    /* Types. */
    { "volume: [g]\n" NODES, "1: volume: " EXPECTED_NAME ", found a list of 1" },
    { "volume: g\nnodes: none\n", "2: nodes: expected a list of one or two nodes, found \"none\"" },
    { "volume: g\nnodes:\n", "2: nodes: expected a list of one or two nodes, found nothing" },
    { "volume: g\nnodes: [a]\n", "2: nodes[0]: expected a node: a mapping with name, backing, device, paths and "
                                 "metadata, found \"a\"" },
    { "volume: g\nnodes: [{name: a, backing: x, paths: y}]\n",
      "2: nodes[0].paths: expected a list of 1 to 8 addresses such as 10.0.0.1:7789, found \"y\"" },
    { VOLUME "link: none\n", "9: link: expected a mapping with transport, tls and dead-after, found \"none\"" },
    { VOLUME "link: {tls: [none]}\n",
      "9: link.tls: expected none, or a mapping with ca, cert and key, found a list of 1" },
    { VOLUME "size: {a: b}\n", "9: size: " EXPECTED_SIZE ", found a mapping" },
    { VOLUME "test: {disk: 3}\n", "9: test.disk: expected a mapping, found \"3\"" },

    /* Names. */
    { "volume: ''\n" NODES, "1: volume: " EXPECTED_NAME ", found nothing" },
    { "volume: a/b\n" NODES, "1: volume: " EXPECTED_NAME ", found \"a/b\"" },
    { "volume: -a\n" NODES, "1: volume: " EXPECTED_NAME ", found \"-a\"" },
    { "volume: a@b\n" NODES, "1: volume: " EXPECTED_NAME ", found \"a@b\"" },
    { "volume: " NAME_63 "4\n" NODES, "1: volume: " EXPECTED_NAME ", found \"" },
    { "volume: g\nnodes: [{name: 'a b', backing: x}]\n", "2: nodes[0].name: " EXPECTED_NAME ", found \"a b\"" },
    { "volume: g\nnodes:\n - {name: a, backing: x}\n - {name: a, backing: y}\n",
      "4: nodes[1].name: expected a name of its own for each node, found \"a\" a second time" },

    /* Sizes and times. */
    { VOLUME "size: 40\n", "9: size: " EXPECTED_SIZE ", found \"40\"" },
    { VOLUME "size: 40GB\n", "9: size: " EXPECTED_SIZE ", found \"40GB\"" },
    { VOLUME "size: 0GiB\n", "9: size: " EXPECTED_SIZE ", found \"0GiB\"" },
    { VOLUME "size: 65TiB\n", "9: size: " EXPECTED_SIZE ", found \"65TiB\"" },
    { VOLUME "size: 99999999999999999999TiB\n", "9: size: " EXPECTED_SIZE ", found \"99999999999999999999TiB\"" },
    { VOLUME "size: 5KiB\n", "9: size: " EXPECTED_SIZE ", found \"5KiB\"" },
    { VOLUME "size: -1GiB\n", "9: size: " EXPECTED_SIZE ", found \"-1GiB\"" },
    { VOLUME "activity-log: 252MiB\n", "9: activity-log: " EXPECTED_LOG ", found \"252MiB\"" },
    { VOLUME "activity-log: 2TiB\n", "9: activity-log: " EXPECTED_LOG ", found \"2TiB\"" },
    { VOLUME "activity-log: 258MiB\n", "9: activity-log: " EXPECTED_LOG ", found \"258MiB\"" },
    { VOLUME "activity-log: [1GiB]\n", "9: activity-log: " EXPECTED_LOG ", found a list of 1" },
    { VOLUME "resync-rate: 200\n", "9: resync-rate: " EXPECTED_RATE ", found \"200\"" },
    { VOLUME "resync-rate: 1023KiB\n", "9: resync-rate: " EXPECTED_RATE ", found \"1023KiB\"" },
    { VOLUME "verify-rate: 2TiB\n", "9: verify-rate: " EXPECTED_RATE ", found \"2TiB\"" },
    { VOLUME "verify: 7d\n", "9: verify: expected a mapping with every and at, found \"7d\"" },
    { VOLUME "verify: {at: \"03:00\"}\n", "9: verify.every: missing, " EXPECTED_EVERY },
    { VOLUME "verify: {every: 59min}\n", "9: verify.every: " EXPECTED_EVERY ", found \"59min\"" },
    { VOLUME "verify: {every: 367d}\n", "9: verify.every: " EXPECTED_EVERY ", found \"367d\"" },
    { VOLUME "verify: {every: 7d, at: \"24:00\"}\n",
      "9: verify.at: expected a time of day such as \"03:00\", in quotes, found \"24:00\"" },
    { VOLUME "verify-rate: \n", "9: verify-rate: " EXPECTED_RATE ", found nothing" },
    { VOLUME "link: {dead-after: 2}\n", "9: link.dead-after: " EXPECTED_TIME ", found \"2\"" },
    { VOLUME "link: {dead-after: 2 parsecs}\n", "9: link.dead-after: " EXPECTED_TIME ", found \"2 parsecs\"" },
    { VOLUME "link: {dead-after: 99ms}\n", "9: link.dead-after: " EXPECTED_TIME ", found \"99ms\"" },
    { VOLUME "link: {dead-after: 11min}\n", "9: link.dead-after: " EXPECTED_TIME ", found \"11min\"" },
    { VOLUME "link: {dead-after: }\n", "9: link.dead-after: " EXPECTED_TIME ", found nothing" },

    /* Nodes and addresses. */
    { "volume: g\nnodes: []\n", "2: nodes: expected one or two nodes, found 0" },
    { "volume: g\nnodes: [{name: a, backing: x}, {name: b, backing: x}, {name: c, backing: x}]\n",
      "2: nodes: expected one or two nodes, found 3" },
    { "volume: g\nnodes: [{name: a, backing: x}]\nlink: {tls: none}\n",
      "2: nodes: expected a second node, the peer, as there is link; found one node (a volume of a single node has "
      "neither link nor paths)" },
    { "volume: g\nnodes: [{name: a, backing: x, paths: ['127.0.0.1:1']}]\n",
      "2: nodes: expected a second node, the peer, as there is nodes[0].paths; found one node (a volume of a single "
      "node has neither link nor paths)" },
    { "volume: g\nnodes:\n - {name: a, backing: x, paths: ['127.0.0.1:1']}\n - {name: b, backing: x}\n",
      "4: nodes[1].paths: missing, expected a list of 1 to 8 addresses such as 10.0.0.1:7789" },
    { "volume: g\nnodes:\n - {name: a, backing: x, paths: ['127.0.0.1:1', '127.0.0.1:2']}\n"
      " - {name: b, backing: x, paths: ['127.0.0.1:3']}\n",
      "4: nodes[1].paths: expected as many paths as a has, since they are used in pairs: 2, found 1" },
    { "volume: g\nnodes:\n - {name: a, backing: x, paths: []}\n",
      "3: nodes[0].paths: expected a list of 1 to 8 addresses such as 10.0.0.1:7789, found a list of 0" },
    { "volume: g\nnodes:\n - {name: a, backing: x, paths: [1:1,2:1,3:1,4:1,5:1,6:1,7:1,8:1,9:1]}\n",
      "3: nodes[0].paths: expected a list of 1 to 8 addresses such as 10.0.0.1:7789, found a list of 9" },
    { "volume: g\nnodes:\n - name: a\n   backing: x\n   paths:\n    - 127.0.0.1:1\n    - 127.0.0.1:1\n",
      "7: nodes[0].paths[1]: expected every address once, found \"127.0.0.1:1\" a second time" },
    { "volume: g\nnodes:\n - {name: a, backing: x, paths: ['127.0.0.1:1']}\n"
      " - {name: b, backing: x, paths: ['127.0.0.1:1']}\n",
      "4: nodes[1].paths[0]: expected every address once, found \"127.0.0.1:1\" a second time" },
    { "volume: g\nnodes:\n - {name: a, backing: x, paths: [127.0.0.1]}\n",
      "3: nodes[0].paths[0]: " EXPECTED_PATH ", found \"127.0.0.1\"" },
    { "volume: g\nnodes:\n - {name: a, backing: x, paths: [127.0.0.300:1]}\n",
      "3: nodes[0].paths[0]: " EXPECTED_PATH ", found \"127.0.0.300:1\"" },
    { "volume: g\nnodes:\n - {name: a, backing: x, paths: ['fd00::1:7789']}\n",
      "3: nodes[0].paths[0]: " EXPECTED_PATH ", found \"fd00::1:7789\"" },
    { "volume: g\nnodes:\n - {name: a, backing: x, paths: ['h:0']}\n",
      "3: nodes[0].paths[0]: " EXPECTED_PATH ", found \"h:0\"" },
    { "volume: g\nnodes:\n - {name: a, backing: x, paths: ['h:65536']}\n",
      "3: nodes[0].paths[0]: " EXPECTED_PATH ", found \"h:65536\"" },
    { "volume: g\nnodes: [{name: q, backing: x}]\n",
      "2: nodes: expected this node, \"a\", among the nodes, found q: --node names one of them" },
    { "volume: g\nnodes: [{name: a, backing: x, metadata: ./../dir/x}, {name: q, backing: x, metadata: x}]\n",
      "2: nodes[1].metadata: expected internal, or another file or device than the backing, found the backing" },
    { "volume: g\nnodes: [{name: a, backing: ''}]\n", "2: nodes[0].backing: expected the name of a block device or "
                                                      "file, at most 255 bytes with its directory, found nothing" },
    { "volume: g\nnodes: [{name: a, backing: x, device: loop}]\n",
      "2: nodes[0].device: expected auto, nbd:unix:/PATH (at most 107 bytes), nbd:HOST:PORT, ublk or ublk:N, found "
      "\"loop\"" },
    { "volume: g\nnodes: [{name: a, backing: x, device: 'nbd:unix:'}]\n",
      "2: nodes[0].device: expected auto, nbd:unix:/PATH (at most 107 bytes), nbd:HOST:PORT, ublk or ublk:N, found "
      "\"nbd:unix:\"" },
    { "volume: g\nnodes: [{name: a, backing: x, device: 'ublk:x'}]\n",
      "2: nodes[0].device: expected auto, nbd:unix:/PATH (at most 107 bytes), nbd:HOST:PORT, ublk or ublk:N, found "
      "\"ublk:x\"" },
    { "volume: g\nnodes: [{name: a, backing: x, paths: [10.0.0.1:1]}, {name: b, backing: x, paths: [10.0.0.2:1]}]\n",
      "1: link.tls: missing, expected none to be written out, as the link leaves this machine unencrypted and "
      "unauthenticated" },
    { VOLUME "link: {tls: maybe}\n", "9: link.tls: expected none, or a mapping with ca, cert and key, found "
                                     "\"maybe\"" },
    { VOLUME "link: {tls: {ca: x}}\n", "9: link.tls.cert: missing, expected the name of a file" },
    { VOLUME "link: {transport: pigeon}\n", "9: link.transport: expected auto, tcp or rdma, found \"pigeon\"" },
    { VOLUME "when-alone: panic\n", "9: when-alone: expected strict, suspend or continue, found \"panic\"" },
    { VOLUME "when-deposed: hang\n", "9: when-deposed: expected fail or wait, found \"hang\"" },
    { VOLUME "when-deposed: [wait]\n", "9: when-deposed: expected fail or wait, found a list of 1" },
    { VOLUME "failover: maybe\n", "9: failover: expected manual or automatic, found \"maybe\"" },
    { VOLUME "witness: 10.0.0.1:1\n", "9: witness: " EXPECTED_WITNESS ", found \"10.0.0.1:1\"" },
    { VOLUME "witness: etcd+https://10.9.0.1:1,\n", "9: witness: " EXPECTED_ETCD ", found : this is no HOST:PORT" },
    { VOLUME "witness: etcd+https://10.9.0.1\n",
      "9: witness: " EXPECTED_ETCD ", found 10.9.0.1: this is no HOST:PORT" },
    { VOLUME "witness: etcd+https://u@h:1\n",
      "9: witness: " EXPECTED_ETCD ", found u@h:1: users of etcd's own are not supported, only certificates" },
    { VOLUME "witness: etcd+https://h:1,http://h:2\n",
      "9: witness: " EXPECTED_ETCD ", found http://h:2: the scheme is written once, before the first host" },
    { VOLUME "witness: etcd+ftp://h:1\n", "9: witness: " EXPECTED_ETCD ", found etcd+ftp://h:1: not a URL of etcd" },
    { VOLUME "witness: etcd+http://h:1,h:2,h:3,h:4,h:5,h:6,h:7,h:8,h:9,h:10\n",
      "9: witness: " EXPECTED_ETCD ", found more than 9 of them" },
    { VOLUME "witness: lockstep://*:7790\n", "9: witness: " EXPECTED_WITNESS ", found \"lockstep://*:7790\"" },
    { VOLUME "witness: lockstep://10.9.0.1\n", "9: witness: " EXPECTED_WITNESS ", found \"lockstep://10.9.0.1\"" },
    { VOLUME "witness-tls: {ca: x}\n", "9: witness-tls: expected only with a witness of etcd+https://" },
    { VOLUME "witness: lockstep://h:1\nwitness-tls: {ca: x}\n",
      "10: witness-tls: expected only with a witness of etcd+https://" },
    { VOLUME "witness: etcd+https://h:1\nwitness-tls: {cert: x}\n",
      "10: witness-tls: expected cert and key, or neither; found one of them" },
    { VOLUME "witness: etcd+https://h:1\nwitness-tls: {ca: ''}\n",
      "10: witness-tls.ca: expected the name of a file, at most 255 bytes with its directory, found nothing" },
    { VOLUME "witness: lockstep://h:1\nwhen-alone: continue\n",
      "10: when-alone: continue does not go with a witness, which would not know of a primary that goes on without "
      "asking it, and let the peer take over: write strict, or leave the witness out" },
    { VOLUME "failover: automatic\n",
      "9: failover: automatic needs a witness, which says who may serve: add one, or write manual" },
    { VOLUME "fail-after: 30s\n", "9: fail-after: expected only with a witness" },
    { VOLUME "witness: lockstep://h:1\nwhen-alone: suspend\nfail-after: 30s\n",
      "11: fail-after: does not go with `when-alone: suspend`, where writes wait however long it takes" },
    { VOLUME "witness: lockstep://h:1\nfail-after: 2s\n", "10: fail-after: " EXPECTED_FAIL_AFTER ", found \"2s\"" },
    { VOLUME "witness: lockstep://h:1\nfail-after: soon\n", "10: fail-after: " EXPECTED_FAIL_AFTER ", found \"soon\"" },
    { VOLUME "hooks: {promote: ''}\n",
      "9: hooks.promote: expected the name of a program, at most 255 bytes with its directory, found nothing" },
    { VOLUME "hook-timeout: 0s\n",
      "9: hook-timeout: expected a time of 1s to 10min, such as 30s (units s, min), found \"0s\"" },
    { VOLUME "offsite: {store: /srv}\n",
      "9: offsite.store: expected file:///DIRECTORY or s3+https://ENDPOINT/BUCKET/PREFIX, found \"/srv\"" },
    { VOLUME "offsite: {store: 'file:///x', at: 25:00}\n",
      "9: offsite.at: expected a time of day such as \"02:30\", in quotes, found \"25:00\"" },
    { VOLUME "test: {disk: {seed: 4x}}\n", "9: test.disk.seed: expected a number, found \"4x\"" },
    { VOLUME "test: {disk: {write-errors-per-million: 1000001}}\n",
      "9: test.disk.write-errors-per-million: expected a number of 0 to 1000000, found \"1000001\"" },
    { VOLUME "test: {disk: {delay-min: 2ms, delay-max: 1ms}}\n",
      "9: test.disk.delay-max: expected a time of at most 10min and at least delay-min, such as 2ms, found \"1ms\"" },
    { VOLUME "test: {disk: {error: EPERM}}\n",
      "9: test.disk.error: expected EIO, ENOSPC, EROFS or EREMOTEIO, found \"EPERM\"" },
    { VOLUME "test: {link: {stall: perhaps}}\n", "9: test.link.stall: expected on or off, found \"perhaps\"" },
    { VOLUME "test: {node: c}\n", "9: test.node: expected the name of one of the nodes, found \"c\"" },

    /* Right, but of a later version. */
    { VOLUME "link: {transport: rdma}\n", "9: link.transport: rdma is not supported by this version: use auto or tcp" },
    { VOLUME "link: {tls: {ca: x, cert: y, key: z}}\n",
      "9: link.tls: TLS is not supported by this version: write none, and keep the link on a network of its own" },
    { "volume: g\nnodes: [{name: a, backing: x, device: ublk}]\n",
      "2: nodes[0].device: ublk is not supported by this version: use nbd:unix:/PATH or auto" },
    { "volume: g\nnodes: [{name: a, backing: x, device: 'ublk:3'}]\n",
      "2: nodes[0].device: ublk is not supported by this version: use nbd:unix:/PATH or auto" },
    { VOLUME "hooks: {freeze: /x}\n",
      "9: hooks.freeze: freeze is not supported by this version: leave it out; there are no snapshots yet" },
    { VOLUME "hooks: {promote: /x, thaw: /x}\n",
      "9: hooks.thaw: thaw is not supported by this version: leave it out; there are no snapshots yet" },
    { VOLUME "offsite: {store: 'file:///x', at: '02:30', keep: 30d, continuous: off, key: k}\n",
      "9: offsite: offsite is not supported by this version: leave the section out; there are no snapshots yet" },
    { "metrics: 127.0.0.1:9\n", "1: metrics: metrics is not supported by this version: leave it out" },
};

static void what_is_wrong_is_told_in_one_line(void **state)
{
    unsigned failures = 0;
    for (size_t i = 0; i < ARRAY_LEN(wrongs); i++) {
        struct volume_config c;
        struct err err = { 0 };
        if (parse(wrongs[i].text, &c, &err) == 0)
            fail_msg("expected an error for:\n%s", wrongs[i].text);
        char expected[1024];
        int n = snprintf(expected, sizeof(expected), "dir/t.yaml:%s", wrongs[i].line);
        if (strncmp(err.text, expected, (size_t)n) != 0 || strchr(err.text, '\n')) {
            print_error("of:\n%s\nexpected: %s\nfound:    %s\n", wrongs[i].text, expected, err.text);
            failures++;
        }
    }
    assert_int_equal(failures, 0);
}

static int parse_witness(const char *text, struct witness_config *out, struct err *err)
{
    return config_parse_witness((const uint8_t *)text, strlen(text), "dir/w.yaml", &options, out, err);
}

static void a_witness_is_read(void **state)
{
    struct witness_config w;
    struct err err = { 0 };
    static const char text[] = "witness: {listen: '10.9.0.1:7790', state: registers, tls: none}\n";
    assert_int_equal(parse_witness(text, &w, &err), 0);
    assert_string_equal(w.listen, "10.9.0.1:7790");
    assert_string_equal(w.state, "dir/registers");
    assert_true(w.is_open && !w.tls_missing);
    assert_int_equal(parse_witness("witness: {listen: '127.0.0.1:7790', state: /srv/w}\n", &w, &err), 0);
    assert_string_equal(w.state, "/srv/w");
    assert_true(!w.is_open && w.tls_missing);
    assert_true(config_is_witness((const uint8_t *)text, strlen(text), "w.yaml"));
    static const char volume[] = VOLUME "witness: {listen: '10.9.0.1:7790'}\n";
    assert_false(config_is_witness((const uint8_t *)volume, strlen(volume), "w.yaml"));
}

static void what_is_wrong_with_a_witness_is_told(void **state)
{
    static const struct {
        const char *text;
        const char *line;
    } cases[] = {
        { "witness: {state: w, tls: none}\n", "1: witness.listen: missing, expected an address" },
        { "witness: {listen: '1.2.3.4:5', tls: none}\n", "1: witness.state: missing, expected the name" },
        { "witness: {listen: '1.2.3.4:0', state: w, tls: none}\n", "1: witness.listen: expected an address" },
        { "witness: {listen: '1.2.3.4', state: w, tls: none}\n", "1: witness.listen: expected an address" },
        { "witness: {listen: '1.2.3.4:5', state: '', tls: none}\n", "1: witness.state: expected the name" },
        { "witness: {listen: '1.2.3.4:5', state: w}\n", "1: witness.tls: missing, expected none" },
        { "witness: {listen: '1.2.3.4:5', state: w, tls: some}\n", "1: witness.tls: expected none" },
        { "witness: {listen: '1.2.3.4:5', state: w, tls: {ca: a, cert: b, key: c}}\n",
          "1: witness.tls: TLS is not supported by this version" },
        { "witness:\n  listen: '1.2.3.4:5'\n  state: w\n  tls: none\n  port: 5\n", "5: witness.port: unknown key" },
        { "witness: {listen: '1.2.3.4:5', state: w, tls: none}\nsize: 5GiB\n", "2: size: unknown key" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct witness_config w;
        struct err err = { 0 };
        char expected[256];
        snprintf(expected, sizeof(expected), "dir/w.yaml:%s", cases[i].line);
        assert_int_equal(parse_witness(cases[i].text, &w, &err), -EINVAL);
        if (strncmp(err.text, expected, strlen(expected)) != 0)
            fail_msg("of:\n%s\nexpected: %s\nfound:    %s", cases[i].text, expected, err.text);
    }
}

static void longest_names_fit(void **state)
{
    struct volume_config c;
    understood("volume: " NAME_63 "\nnodes: [{name: a, backing: x}]\n", &c);
    assert_string_equal(c.volume, NAME_63);
    assert_string_equal(config_self(&c)->device, "unix:/run/lockstep/" NAME_63 ".sock");
}

static void overlong_paths_are_errors(void **state)
{
    char name[CONFIG_PATH_BYTES + 1];
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    char text[2048];
    struct volume_config c;
    struct err err;
    snprintf(text, sizeof(text), "volume: g\nnodes: [{name: a, backing: /%s}]\n", name + 2); /* 255 bytes */
    understood(text, &c);
    snprintf(text, sizeof(text), "volume: g\nnodes: [{name: a, backing: /%s}]\n", name + 1);
    assert_int_equal(parse(text, &c, &err), -EINVAL);
    assert_non_null(strstr(err.text, "dir/t.yaml:2: nodes[0].backing: expected "));
    snprintf(text, sizeof(text), "volume: g\nnodes: [{name: a, backing: x, device: 'nbd:unix:/%.107s'}]\n", name);
    assert_int_equal(parse(text, &c, &err), -EINVAL);
    assert_non_null(strstr(err.text, "dir/t.yaml:2: nodes[0].device: expected "));
    assert_int_equal(config_parse((const uint8_t *)ONE, strlen(ONE), name, &options, &c, &err), -EINVAL);
}

/* Files and directories. */

static char dir[64];

static void put(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static int make_dir(void **state)
{
    snprintf(dir, sizeof(dir), "/tmp/test_config.XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

static void __attribute__((format(printf, 2, 3))) wrong_file(const char *name, const char *format, ...)
{
    char path[128];
    snprintf(path, sizeof(path), "%s%s%s", dir, *name ? "/" : "", name);
    char expected[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(expected, sizeof(expected), format, ap);
    va_end(ap);
    struct config c;
    struct err err = { 0 };
    assert_int_equal(config_load(path, &options, &c, &err), -EINVAL);
    assert_string_equal(err.text, expected);
}

static void a_file_is_loaded(void **state)
{
    put("one", VOLUME); /* any name will do when it is named */
    char path[128];
    snprintf(path, sizeof(path), "%s/one", dir);
    struct config c;
    struct err err = { 0 };
    assert_int_equal(config_load(path, &options, &c, &err), 0);
    assert_int_equal(c.count, 1);
    assert_string_equal(c.volumes[0].file, path);
    config_free(&c);
}

static void a_directory_is_loaded(void **state)
{
    struct config c;
    struct err err = { 0 };
    assert_int_equal(config_load(dir, &options, &c, &err), 0);
    assert_int_equal(c.count, 0);
    config_free(&c);

    put("b.yaml", "volume: h\nnodes: [{name: a, backing: h}]\n");
    put("a.yml", "volume: g\nnodes: [{name: a, backing: g}]\n");
    put("ignored.txt", "?");
    put(".hidden.yaml", "?");
    assert_int_equal(config_load(dir, &options, &c, &err), 0);
    assert_int_equal(c.count, 2);
    assert_string_equal(c.volumes[0].volume, "g");
    assert_string_equal(c.volumes[1].volume, "h");
    config_free(&c);
}

static void volumes_share_nothing(void **state)
{
    static const struct {
        const char *text;
        const char *what;
        const char *file; /* in the directory */
    } twins[] = {
        { "volume: g\nnodes: [{name: a, backing: y, device: 'nbd:h:2'}]\n", "the name g", NULL },
        { "\nvolume: h\nnodes: [{name: a, backing: x, device: 'nbd:h:2'}]\n", "the backing ", "x" },
        { "volume: h\nnodes: [{name: a, backing: y, metadata: m, device: 'nbd:h:2'}]\n", "the metadata ", "m" },
        { "volume: h\nnodes: [{name: a, backing: y, device: 'nbd:h:1'}]\n", "the device h:1", NULL },
    };
    put("a.yaml", "volume: g\nnodes: [{name: a, backing: x, metadata: m, device: 'nbd:h:1'}]\n");
    for (size_t i = 0; i < ARRAY_LEN(twins); i++) {
        put("b.yaml", twins[i].text);
        char shared[128];
        snprintf(shared, sizeof(shared), "%s%s%s%s", twins[i].what, twins[i].file ? dir : "", twins[i].file ? "/" : "",
                 twins[i].file ? twins[i].file : "");
        wrong_file("",
                   "%s/b.yaml:%d: volume: expected every volume of this node to have its own, found %s also in "
                   "%s/a.yaml:1",
                   dir, twins[i].text[0] == '\n' ? 2 : 1, shared, dir);
    }
    put("a.yaml", VOLUME);
    put("b.yaml", "volume: h\nnodes: [{name: a, backing: y, paths: ['127.0.0.1:9', '127.0.0.1:2']},\n"
                  "{name: b, backing: y, paths: ['127.0.0.1:7', '127.0.0.1:8']}]\n");
    wrong_file("",
               "%s/b.yaml:1: volume: expected every volume of this node to have its own, found the path "
               "127.0.0.1:2 also in %s/a.yaml:1",
               dir, dir);
}

static void unreadable_files_are_errors(void **state)
{
    wrong_file("nothing", "%s/nothing: cannot be read: No such file or directory", dir);
    char path[128];
    snprintf(path, sizeof(path), "%s/dangling.yaml", dir);
    assert_int_equal(symlink("nowhere", path), 0);
    wrong_file("", "%s/dangling.yaml: cannot be read: No such file or directory", dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/fifo.yaml", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    wrong_file("", "%s/fifo.yaml: expected a YAML file, found something that is no regular file", dir);
    unlink(path);
    if (geteuid() != 0) { /* root can read everything */
        put("secret.yaml", VOLUME);
        snprintf(path, sizeof(path), "%s/secret.yaml", dir);
        assert_int_equal(chmod(path, 0), 0);
        wrong_file("secret.yaml", "%s/secret.yaml: cannot be read: Permission denied", dir);
    }
    put("big.yaml", "");
    snprintf(path, sizeof(path), "%s/big.yaml", dir);
    assert_int_equal(truncate(path, CONFIG_FILE_BYTES_MAX + 1), 0);
    wrong_file("big.yaml", "%s/big.yaml: expected a file of at most 256 KiB", dir);
}

static void this_host_is_found_by_its_name(void **state)
{
    char host[256];
    assert_int_equal(gethostname(host, sizeof(host)), 0);
    struct config_options by_host = { 0 };
    struct volume_config c;
    struct err err = { 0 };
    char text[1024];
    snprintf(text, sizeof(text), "volume: g\nnodes: [{name: %.63s, backing: x}]\n", host);
    if (config_parse((const uint8_t *)text, strlen(text), "t", &by_host, &c, &err))
        fail_msg("%s", err.text);
    snprintf(text, sizeof(text), "volume: g\nnodes: [{name: other, backing: x}]\n");
    assert_int_equal(config_parse((const uint8_t *)text, strlen(text), "t", &by_host, &c, &err), -EINVAL);
    char expected[512];
    snprintf(expected, sizeof(expected),
             "t:2: nodes: expected this node, \"%s\", among the nodes, found other: say "
             "which one this is with --node NAME",
             host);
    assert_string_equal(err.text, expected);
}

static void addresses(void **state)
{
    bool loopback = false;
    static const char *const good[] = { "10.0.0.1:1", "[::1]:65535", "a.b-c.d9:7789", "localhost:1", "h:1" };
    static const char *const bad[] = { "",      ":1",      "h",      "h:",    "h:+1",  "h:1x",        "h:000001",
                                       "-h:1",  "h-:1",    "h..x:1", ".h:1",  "h.:1",  "::1:1",       "[]:1",
                                       "[::1]", "1.2.3:1", "[h]:1",  "h_x:1", "h 1:1", "[1.2.3.4]:1", "1.2.3.4.5:1" };
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        if (!quantity_address(good[i], &loopback))
            fail_msg("%s", good[i]);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (quantity_address(bad[i], &loopback))
            fail_msg("%s", bad[i]);
    assert_true(quantity_address("127.3.2.1:1", &loopback) && loopback);
    assert_true(quantity_address("[::1]:1", &loopback) && loopback);
    assert_true(quantity_address("localhost:1", &loopback) && loopback);
    assert_true(quantity_address("[fd00::1]:1", &loopback) && !loopback);
    assert_true(quantity_address("10.0.0.1:1", &loopback) && !loopback);
}

static void text_is_made_printable(void **state)
{
    static const struct {
        const char *in;
        const char *out;
    } cases[] = {
        { "", "" },
        { "12345678901", "12345678901" },
        { "123456789012", "12345678..." },
        { "a\nb\x1b\x7f", "a?b??" },
        { "gr\xc3\xbc\xc3\x9f", "gr\xc3\xbc\xc3\x9f" },
        { "\xc2\x85", "?" }, /* U+0085, a control character */
        { "\xff\xc0\x80", "???" },
        { "\xed\xa0\x80", "???" },
        { "\xe2\x82", "??" },
        { "1234567\xe2\x82\xac\xe2\x82\xac", "1234567..." },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char out[12];
        size_t n = printable(out, sizeof(out), cases[i].in, strlen(cases[i].in));
        assert_int_equal(n, strlen(out));
        if (strcmp(out, cases[i].out) != 0)
            fail_msg("%zu: expected \"%s\", found \"%s\"", i, cases[i].out, out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_read),
        cmocka_unit_test(what_is_left_out_has_defaults),
        cmocka_unit_test(a_device_that_others_reach_is_known),
        cmocka_unit_test(failover_is_asked_for),
        cmocka_unit_test(going_on_alone_is_asked_for),
        cmocka_unit_test(a_single_node_is_a_volume),
        cmocka_unit_test(relative_names_begin_where_they_are_told),
        cmocka_unit_test(test_faults_are_read),
        cmocka_unit_test(test_faults_need_permission),
        cmocka_unit_test(what_is_wrong_is_told_in_one_line),
        cmocka_unit_test(a_witness_is_read),
        cmocka_unit_test(what_is_wrong_with_a_witness_is_told),
        cmocka_unit_test(longest_names_fit),
        cmocka_unit_test(overlong_paths_are_errors),
        cmocka_unit_test_setup_teardown(a_file_is_loaded, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_directory_is_loaded, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(volumes_share_nothing, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(unreadable_files_are_errors, make_dir, remove_dir),
        cmocka_unit_test(this_host_is_found_by_its_name),
        cmocka_unit_test(addresses),
        cmocka_unit_test(text_is_made_printable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
