/* What `lockstep` prints: the JSON that INTERFACE promises, to the byte, and the same for eyes. */
#include "repl/cli/show.h"

#include <stdlib.h>
#include <string.h>

#include "repl/base/units.h"
#include "tests/unit/unit.h"

static char *text;
static size_t text_bytes;

static struct show begin(bool json, bool colour)
{
    return (struct show) { .out = open_memstream(&text, &text_bytes), .json = json, .colour = colour };
}

static void expect(struct show *s, const char *expected)
{
    fclose(s->out);
    assert_string_equal(text, expected);
    free(text);
}

static Lockstep__Control__Peer peer_b(void)
{
    Lockstep__Control__Peer p = LOCKSTEP__CONTROL__PEER__INIT;
    p.name = (char *)"paris-b";
    p.link = (char *)"connected";
    p.transport = (char *)"tcp";
    p.path = (char *)"10.0.0.2:7789";
    p.rtt_us = 412;
    p.leg = (char *)"up-to-date";
    return p;
}

static Lockstep__Control__VolumeStatus gold42(Lockstep__Control__Peer *peer)
{
    Lockstep__Control__VolumeStatus v = LOCKSTEP__CONTROL__VOLUME_STATUS__INIT;
    v.name = (char *)"gold42";
    v.state = (char *)"up";
    v.protected_ = true;
    v.role = (char *)"primary";
    v.epoch = 7;
    v.lsn = 123456;
    v.size_bytes = 42949672960;
    v.serving = true;
    v.leg = (char *)"up-to-date";
    v.device = (char *)"nbd:unix:/run/lockstep/gold42.sock";
    v.backing = (char *)"/dev/vg0/gold42";
    v.peer = peer;
    v.failover = (char *)"automatic";
    v.when_alone = (char *)"strict";
    return v;
}

static void status_is_json(void **state)
{
    Lockstep__Control__Peer peer = peer_b();
    Lockstep__Control__VolumeStatus v = gold42(&peer);
    Lockstep__Control__VolumeStatus *const list[] = { &v };
    struct show s = begin(true, false);
    show_status(&s, "paris-a", list, 1);
    expect(
        &s,
        "{\"version\":1,\"node\":\"paris-a\",\"volumes\":[{\"name\":\"gold42\",\"state\":\"up\","
        "\"role\":\"primary\",\"protected\":true,\"why_not\":null,\"epoch\":7,\"lsn\":123456,"
        "\"size_bytes\":42949672960,\"device\":\"nbd:unix:/run/lockstep/gold42.sock\",\"serving\":true,"
        "\"leg\":\"up-to-date\",\"backing\":\"/dev/vg0/"
        "gold42\",\"consistent\":null,\"writes_waiting\":0,\"oldest_waiting_us\":0,"
        "\"held\":null,\"alone\":null,\"diskless\":null,\"split_brain\":null,\"peer\":{\"name\":\"paris-b\",\"link\":"
        "\"connected\",\"reason\":null,"
        "\"transport\":\"tcp\","
        "\"path\":\"10.0.0.2:7789\",\"tls\":false,\"rtt_us\":412,\"leg\":\"up-to-date\","
        "\"out_of_sync_bytes\":0,\"resync\":null},\"verify\":null,\"resize\":null,\"failover\":\"automatic\","
        "\"when_alone\":\"strict\",\"witness\":null,\"offsite\":null}]}\n");
}

static void what_is_not_known_is_null(void **state)
{
    Lockstep__Control__VolumeStatus v = LOCKSTEP__CONTROL__VOLUME_STATUS__INIT;
    v.name = (char *)"h";
    v.state = (char *)"down";
    v.why_not = (char *)"a \"quoted\\\" reason";
    v.device = (char *)"nbd:h:1";
    v.backing = (char *)"x";
    Lockstep__Control__Peer peer = LOCKSTEP__CONTROL__PEER__INIT;
    peer.name = (char *)"b";
    peer.link = (char *)"down";
    peer.leg = (char *)"none";
    v.peer = &peer;
    Lockstep__Control__VolumeStatus *const list[] = { &v };
    struct show s = begin(true, false);
    show_status(&s, "a", list, 1);
    expect(
        &s,
        "{\"version\":1,\"node\":\"a\",\"volumes\":[{\"name\":\"h\",\"state\":\"down\",\"role\":null,"
        "\"protected\":false,\"why_not\":\"a \\\"quoted\\\\\\\" reason\",\"epoch\":null,"
        "\"lsn\":null,\"size_bytes\":null,\"device\":\"nbd:h:1\",\"serving\":false,"
        "\"leg\":null,\"backing\":\"x\",\"consistent\":null,\"writes_waiting\":null,\"oldest_waiting_us\":null,"
        "\"held\":null,\"alone\":null,"
        "\"diskless\":null,\"split_brain\":null,"
        "\"peer\":{\"name\":\"b\",\"link\":\"down\",\"reason\":null,\"transport\":null,\"path\":null,\"tls\":false,"
        "\"rtt_us\":null,\"leg\":null,\"out_of_sync_bytes\":null,\"resync\":null},"
        "\"verify\":null,\"resize\":null,\"failover\":null,\"when_alone\":null,\"witness\":null,\"offsite\":null}]}\n");

    /* No leg: that is known. One that is up with its peer away: zeroes are zeroes, but the size is not fixed yet. */
    v.state = (char *)"not-created";
    v.peer = NULL;
    s = begin(true, false);
    show_status(&s, "a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "\"epoch\":null,"));
    assert_non_null(strstr(text, "\"leg\":\"none\","));
    free(text);
    v.state = (char *)"up";
    v.leg = (char *)"up-to-date";
    v.lsn = UINT64_MAX;
    s = begin(true, false);
    show_status(&s, "a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "\"epoch\":0,\"lsn\":18446744073709551615,\"size_bytes\":null,"));
    assert_non_null(strstr(text, "\"writes_waiting\":0,\"oldest_waiting_us\":0,"));
    free(text);
}

static void status_is_for_eyes(void **state)
{
    Lockstep__Control__Peer peer = peer_b();
    Lockstep__Control__VolumeStatus v = gold42(&peer);
    Lockstep__Control__VolumeStatus *const list[] = { &v };
    struct show s = begin(false, false);
    show_status(&s, "paris-a", list, 1);
    expect(
        &s,
        "node paris-a, 1 volume\n"
        "\n"
        "gold42  protected\n"
        "  role    primary, serving nbd:unix:/run/lockstep/gold42.sock\n"
        "  leg     up-to-date, /dev/vg0/gold42, 40 GiB\n"
        "  peer    paris-b: up-to-date, connected by tcp to 10.0.0.2:7789, round trip 412 us\n"
        "  policy  failover automatic; alone strict: writes wait for the peer: each acknowledged one is on two legs\n"
        "  writes  epoch 7, LSN 123456\n");
}

static void what_waits_is_told(void **state)
{
    Lockstep__Control__Peer peer = peer_b();
    peer.link = (char *)"connecting";
    peer.reason = (char *)"Connection refused";
    peer.out_of_sync_bytes = 1536 * 1024;
    Lockstep__Control__VolumeStatus v = gold42(&peer);
    v.protected_ = false;
    v.why_not = (char *)"no connection to paris-b";
    v.writes_waiting = 48;
    v.oldest_waiting_us = 978600;
    Lockstep__Control__VolumeStatus *const list[] = { &v, &v };
    struct show s = begin(false, false);
    show_status(&s, "paris-a", list, 2);
    static const char one[] =
        "\n"
        "gold42  not protected: no connection to paris-b\n"
        "  role    primary, serving nbd:unix:/run/lockstep/gold42.sock\n"
        "  leg     up-to-date, /dev/vg0/gold42, 40 GiB\n"
        "  peer    paris-b: up-to-date, connecting (Connection refused), 1.5 MiB out of sync\n"
        "  policy  failover automatic; alone strict: writes wait for the peer: each acknowledged one is on two legs\n"
        "  writes  epoch 7, LSN 123456, 48 wait for the peer, the oldest for 978.6 ms\n";
    char both[2048];
    snprintf(both, sizeof(both), "node paris-a, 2 volumes\n%s%s", one, one);
    expect(&s, both);
}

static void who_is_held_is_told(void **state)
{
    Lockstep__Control__Held held = LOCKSTEP__CONTROL__HELD__INIT;
    held.clients = 2;
    held.requests = 1;
    held.since_us = UINT64_C(1763820000) * 1000000;
    Lockstep__Control__VolumeStatus v = gold42(NULL);
    v.role = (char *)"secondary";
    v.serving = false;
    v.held = &held;
    Lockstep__Control__VolumeStatus *const list[] = { &v };
    struct show s = begin(false, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "  held    2 clients since 2025-11-22T14:00:00"));
    assert_non_null(strstr(text, ", when this node was deposed, with 1 request at least:\n"
                                 "          nothing is answered, or carried out; `lockstep demote gold42` ends it with "
                                 "an error\n"));
    free(text);
    s = begin(true, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "\"held\":{\"clients\":2,\"requests\":1,\"since\":\"2025-11-22T14:00:00"));
    free(text);
}

static void a_resync_is_told(void **state)
{
    Lockstep__Control__Resync resync = LOCKSTEP__CONTROL__RESYNC__INIT;
    resync.to_peer = true;
    resync.done_bytes = 768 * MIB;
    resync.total_bytes = 1024 * MIB;
    resync.rate_bytes_per_s = 100 * MIB;
    resync.equal_bytes = 4096;
    resync.sent_bytes = 8192;
    resync.zero_bytes = 512;
    Lockstep__Control__Peer peer = peer_b();
    peer.leg = (char *)"syncing";
    peer.out_of_sync_bytes = 256 * MIB;
    peer.resync = &resync;
    Lockstep__Control__VolumeStatus v = gold42(&peer);
    v.protected_ = false;
    v.why_not = (char *)"the leg of paris-b is being resynced";
    Lockstep__Control__VolumeStatus *const list[] = { &v };
    struct show s = begin(false, false);
    show_status(&s, "paris-a", list, 1);
    expect(
        &s,
        "node paris-a, 1 volume\n"
        "\n"
        "gold42  not protected: the leg of paris-b is being resynced\n"
        "  role    primary, serving nbd:unix:/run/lockstep/gold42.sock\n"
        "  leg     up-to-date, /dev/vg0/gold42, 40 GiB\n"
        "  peer    paris-b: syncing, connected by tcp to 10.0.0.2:7789, round trip 412 us, 256 MiB out of sync\n"
        "  resync  paris-b [###############     ] 75%, 768 MiB of 1 GiB, 100 MiB/s, 3.0 s left\n"
        "  policy  failover automatic; alone strict: writes wait for the peer: each acknowledged one is on two legs\n"
        "  writes  epoch 7, LSN 123456\n");
    s = begin(true, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "\"out_of_sync_bytes\":268435456,\"resync\":{\"to_peer\":true,"
                                 "\"done_bytes\":805306368,\"total_bytes\":1073741824,"
                                 "\"rate_bytes_per_s\":104857600,\"eta_s\":3,"
                                 "\"equal_bytes\":4096,\"sent_bytes\":8192,\"zero_bytes\":512}"));
    free(text);
    /* Nothing is known of the rate, or nothing is to be done. */
    resync.rate_bytes_per_s = 0;
    resync.done_bytes = 0;
    resync.total_bytes = 0;
    resync.to_peer = false;
    s = begin(true, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "\"rate_bytes_per_s\":0,\"eta_s\":null,"));
    free(text);
    s = begin(false, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "  resync  paris-a [####################] 100%, 0 B of 0 B\n"));
    free(text);
}

static void who_serves_without_a_leg_is_told(void **state)
{
    Lockstep__Control__Diskless diskless = LOCKSTEP__CONTROL__DISKLESS__INIT;
    diskless.epoch = 8;
    diskless.since_us = 1795400000123456;
    Lockstep__Control__Peer peer = peer_b();
    Lockstep__Control__VolumeStatus v = gold42(&peer);
    v.diskless = &diskless;
    v.leg = (char *)"failed";
    Lockstep__Control__VolumeStatus *const list[] = { &v };
    struct show s = begin(false, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(
        strstr(text, "  diskless since epoch 8, 2026-11-23T02:13:20.123Z: reads and writes go through paris-b"));
    free(text);
    s = begin(true, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "\"diskless\":{\"epoch\":8,\"since\":\"2026-11-23T02:13:20.123Z\"},"));
    free(text);
}

static void what_each_side_of_a_split_brain_has_is_shown(void **state)
{
    Lockstep__Control__ApartSide own = LOCKSTEP__CONTROL__APART_SIDE__INIT, other = own;
    own.epoch = 5;
    own.first_lsn = 500;
    own.lsn = 700;
    own.changed_known = true;
    own.changed_bytes = 8192;
    own.since_us = 1795400000123456;
    other.epoch = 6;
    other.first_lsn = 500;
    other.lsn = 900;
    Lockstep__Control__Apart apart = LOCKSTEP__CONTROL__APART__INIT;
    apart.rule = (char *)"split-brain";
    apart.common_epoch = 3;
    apart.differ_bytes_max = 40 * GIB;
    apart.own = &own;
    apart.peer = &other;
    Lockstep__Control__Peer peer = peer_b();
    Lockstep__Control__VolumeStatus v = gold42(&peer);
    v.apart = &apart;
    Lockstep__Control__VolumeStatus *const list[] = { &v };
    struct show s = begin(false, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text,
                           "  apart   split-brain: the same up to epoch 3; at most 40 GiB differ\n"
                           "          paris-a: on its own from epoch 5, LSN 500 (2026-11-23T02:13:20.123Z) to LSN "
                           "700; at most 8 KiB changed\n"
                           "          paris-b: on its own from epoch 6, LSN 500 to LSN 900; what it has changed is "
                           "not known: up to all of it\n"));
    free(text);
    s = begin(true, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(
        strstr(text, "\"split_brain\":{\"rule\":\"split-brain\",\"common_epoch\":3,\"differ_bytes_max\":42949672960,"
                     "\"local\":{\"epoch\":5,\"first_lsn\":500,\"lsn\":700,\"since\":\"2026-11-23T02:13:20.123Z\","
                     "\"changed_bytes\":8192},"
                     "\"peer\":{\"epoch\":6,\"first_lsn\":500,\"lsn\":900,\"since\":null,\"changed_bytes\":null}}"));
    free(text);
}

static void a_resize_is_shown(void **state)
{
    Lockstep__Control__Growth growth = LOCKSTEP__CONTROL__GROWTH__INIT;
    growth.done_bytes = 6 * GIB;
    growth.total_bytes = 8 * GIB;
    Lockstep__Control__Peer peer = peer_b();
    Lockstep__Control__VolumeStatus v = gold42(&peer);
    v.growth = &growth;
    Lockstep__Control__VolumeStatus *const list[] = { &v };
    struct show s = begin(false, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "  resize  zeroing what is added [###############     ] 75%, 6 GiB of 8 GiB\n"));
    free(text);
    s = begin(true, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(
        strstr(text, "\"resize\":{\"done_bytes\":6442450944,\"total_bytes\":8589934592,\"waits_for_peer\":false},"));
    free(text);
    growth.total_bytes = 0;
    growth.waits_for_peer = true;
    s = begin(false, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "  resize  waits for paris-b to have room, too\n"));
    free(text);
    s = begin(true, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "\"resize\":{\"done_bytes\":null,\"total_bytes\":null,\"waits_for_peer\":true},"));
    free(text);
}

static void who_goes_on_alone_is_told(void **state)
{
    Lockstep__Control__Alone alone = LOCKSTEP__CONTROL__ALONE__INIT;
    alone.epoch = 8;
    alone.since_us = 1795400000123456;
    Lockstep__Control__Peer peer = peer_b();
    peer.leg = (char *)"outdated";
    Lockstep__Control__VolumeStatus v = gold42(&peer);
    v.alone = &alone;
    Lockstep__Control__VolumeStatus *const list[] = { &v };
    struct show s = begin(false, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "  alone   since epoch 8, 2026-11-23T02:13:20.123Z: paris-b lacks what was written"));
    free(text);
    s = begin(true, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "\"alone\":{\"epoch\":8,\"since\":\"2026-11-23T02:13:20.123Z\"},"));
    free(text);
}

static void the_witness_is_shown(void **state)
{
    char *in_sync[] = { (char *)"paris-a", (char *)"paris-b" };
    Lockstep__Control__Witness witness = LOCKSTEP__CONTROL__WITNESS__INIT;
    witness.state = (char *)"reachable";
    witness.epoch = 7;
    witness.primary = (char *)"paris-a";
    witness.cause = (char *)"in";
    witness.n_in_sync = 2;
    witness.in_sync = in_sync;
    Lockstep__Control__Peer peer = peer_b();
    Lockstep__Control__VolumeStatus v = gold42(&peer);
    v.witness = &witness;
    Lockstep__Control__VolumeStatus *const list[] = { &v };
    struct show s = begin(false, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "\n  witness reachable, epoch 7 (in), primary paris-a, in sync paris-a, paris-b\n"));
    assert_null(strstr(text, "until it answers"));
    free(text);
    s = begin(true, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text,
                           "\"witness\":{\"state\":\"reachable\",\"reason\":null,\"epoch\":7,\"primary\":\"paris-a\","
                           "\"cause\":\"in\",\"in_sync\":[\"paris-a\",\"paris-b\"],\"asks_for\":null,"
                           "\"asks_since\":null}"));
    free(text);

    witness.state = (char *)"unreachable";
    witness.reason = (char *)"10.9.0.1:7790 does not answer";
    witness.primary = (char *)"";
    witness.n_in_sync = 1;
    witness.asks_for = (char *)"out";
    witness.asks_since_us = 1795400000123456;
    s = begin(false, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text,
                           "\n  witness unreachable (10.9.0.1:7790 does not answer), last heard: epoch 7 (in), primary "
                           "nobody, in sync paris-a\n"
                           "          asked for \"out\" at 2026-11-23T02:13:20.123Z, without an answer yet\n"
                           "          until it answers: no takeover"));
    free(text);

    witness = (Lockstep__Control__Witness)LOCKSTEP__CONTROL__WITNESS__INIT; /* nothing was ever heard */
    witness.state = (char *)"older";
    s = begin(true, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "\"state\":\"older\",\"reason\":null,\"epoch\":null,\"primary\":null,\"cause\":null,"
                                 "\"in_sync\":null,"));
    free(text);
    s = begin(false, true);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "\033[1;31molder")); /* that needs a person */
    free(text);
}

/* What a person has, should he have to force its promotion. */
static void an_inconsistent_leg_tells_its_last_consistent_state(void **state)
{
    Lockstep__Control__Consistent consistent = LOCKSTEP__CONTROL__CONSISTENT__INIT;
    consistent.epoch = 6;
    consistent.lsn = 1200;
    Lockstep__Control__Peer peer = peer_b();
    Lockstep__Control__VolumeStatus v = gold42(&peer);
    Lockstep__Control__VolumeStatus *const list[] = { &v };
    v.leg = (char *)"syncing";
    struct show s = begin(false, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "  leg     syncing, /dev/vg0/gold42, 40 GiB\n"
                                 "          inconsistent, and has never been consistent\n"));
    free(text);
    v.consistent = &consistent;
    s = begin(false, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(
        strstr(text, "  leg     syncing, /dev/vg0/gold42, 40 GiB\n"
                     "          inconsistent: newer in part than its last consistent state, epoch 6, LSN 1200\n"));
    free(text);
    s = begin(true, false);
    show_status(&s, "paris-a", list, 1);
    fclose(s.out);
    assert_non_null(strstr(text, "\"consistent\":{\"epoch\":6,\"lsn\":1200},"));
    free(text);
}

/* Red is for what needs a person, and for nothing else. */
static void colours_mean_something(void **state)
{
    static const char red[] = "\033[1;31m";
    static const struct {
        const char *state;
        const char *leg;
        const char *link;
        const char *peer_leg;
        bool is_protected;
        bool needs_a_person;
    } cases[] = {
        { "up", "up-to-date", "connected", "up-to-date", true, false },
        { "up", "up-to-date", "connecting", "up-to-date", false, false },
        { "up", "up-to-date", "refused", "none", false, true },
        { "up", "failed", "connected", "up-to-date", false, true },
        { "up", "up-to-date", "connected", "failed", false, true },
        { "down", "", "down", "none", false, false },
        { "not-created", "", "down", "none", false, false },
        { "failed", "", "down", "none", false, true },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        Lockstep__Control__Peer peer = peer_b();
        peer.link = (char *)cases[i].link;
        peer.leg = (char *)cases[i].peer_leg;
        Lockstep__Control__VolumeStatus v = gold42(&peer);
        v.state = (char *)cases[i].state;
        v.leg = (char *)cases[i].leg;
        v.protected_ = cases[i].is_protected;
        Lockstep__Control__VolumeStatus *const list[] = { &v };
        struct show s = begin(false, true);
        show_status(&s, "a", list, 1);
        fclose(s.out);
        if ((strstr(text, red) != NULL) != cases[i].needs_a_person)
            fail_msg("case %zu:\n%s", i, text);
        free(text);
    }
}

static Lockstep__Control__Event link_lost(void)
{
    Lockstep__Control__Event e = LOCKSTEP__CONTROL__EVENT__INIT;
    e.sequence = 9;
    e.time_us = 1795400000123456;
    e.volume = (char *)"gold42";
    e.level = (char *)"warning";
    e.topic = (char *)"link";
    e.text = (char *)"lost paris-b";
    return e;
}

static void events_are_lines(void **state)
{
    Lockstep__Control__Event e = link_lost();
    struct show s = begin(true, false);
    show_event(&s, &e);
    expect(&s, "{\"version\":1,\"sequence\":9,\"time\":\"2026-11-23T02:13:20.123Z\",\"volume\":\"gold42\","
               "\"level\":\"warning\",\"topic\":\"link\",\"text\":\"lost paris-b\"}\n");
    s = begin(false, false);
    show_event(&s, &e);
    expect(&s, "2026-11-23T02:13:20.123Z  gold42       warning link     lost paris-b\n");
    e.volume = (char *)"";
    s = begin(false, false);
    show_event(&s, &e);
    expect(&s, "2026-11-23T02:13:20.123Z  -            warning link     lost paris-b\n");
}

static void results_are_told(void **state)
{
    struct show s = begin(false, false);
    show_result(&s, CONTROL_DONE, "volume g is up");
    expect(&s, "volume g is up\n");
    s = begin(true, false);
    show_result(&s, CONTROL_REFUSED, "no");
    expect(&s, "{\"version\":1,\"exit_code\":3,\"text\":\"no\"}\n");
}

static void what_a_verify_found_is_listed(void **state)
{
    Lockstep__Control__Place a = LOCKSTEP__CONTROL__PLACE__INIT, b = LOCKSTEP__CONTROL__PLACE__INIT;
    a.offset_bytes = 4096;
    a.length_bytes = 8192;
    a.what = (char *)"the legs differ";
    b.offset_bytes = MIB;
    b.length_bytes = 4096;
    b.what = (char *)"cannot be read here";
    Lockstep__Control__Place *places[] = { &a, &b };
    Lockstep__Control__Places found = LOCKSTEP__CONTROL__PLACES__INIT;
    found.place = places;
    found.n_place = 2;
    found.total = 2;
    struct show s = begin(false, false);
    show_verify_result(&s, CONTROL_FAILED, "no", &found);
    expect(&s, "offset 4096, length 8192: the legs differ\noffset 1048576, length 4096: cannot be read here\n");
    found.total = 5;
    s = begin(false, false);
    show_verify_result(&s, CONTROL_FAILED, "no", &found);
    expect(&s, "offset 4096, length 8192: the legs differ\noffset 1048576, length 4096: cannot be read here\n"
               "and 3 more places\n");
    s = begin(true, false);
    show_verify_result(&s, CONTROL_FAILED, "no", &found);
    expect(&s, "{\"version\":1,\"exit_code\":1,\"text\":\"no\",\"differences\":["
               "{\"offset_bytes\":4096,\"length_bytes\":8192,\"what\":\"the legs differ\"},"
               "{\"offset_bytes\":1048576,\"length_bytes\":4096,\"what\":\"cannot be read here\"}],"
               "\"more_differences\":3}\n");
    s = begin(true, false);
    show_verify_result(&s, CONTROL_DONE, "equal", NULL);
    expect(&s, "{\"version\":1,\"exit_code\":0,\"text\":\"equal\",\"differences\":[],\"more_differences\":0}\n");
    s = begin(true, false);
    show_verify_result(&s, CONTROL_UNREACHABLE, "gone", NULL); /* nobody knows */
    expect(&s, "{\"version\":1,\"exit_code\":4,\"text\":\"gone\",\"differences\":null,\"more_differences\":null}\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_is_json),
        cmocka_unit_test(what_is_not_known_is_null),
        cmocka_unit_test(what_a_verify_found_is_listed),
        cmocka_unit_test(status_is_for_eyes),
        cmocka_unit_test(what_waits_is_told),
        cmocka_unit_test(colours_mean_something),
        cmocka_unit_test(events_are_lines),
        cmocka_unit_test(results_are_told),
        cmocka_unit_test(who_is_held_is_told),
        cmocka_unit_test(a_resync_is_told),
        cmocka_unit_test(what_each_side_of_a_split_brain_has_is_shown),
        cmocka_unit_test(a_resize_is_shown),
        cmocka_unit_test(the_witness_is_shown),
        cmocka_unit_test(who_goes_on_alone_is_told),
        cmocka_unit_test(an_inconsistent_leg_tells_its_last_consistent_state),
        cmocka_unit_test(who_serves_without_a_leg_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
