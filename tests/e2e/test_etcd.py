#!/usr/bin/python3
"""etcd as the register: three real members, one killed, two killed, one that stands still; two nodes that swap at once;
swaps whose answers are lost, or that arrive late; TLS."""

import json

from lib import proc, run
from lib.etcd import Etcd, Proxy, Tls
from lib.register import Probe, new_tag

VOLUMES = 200  # that one node asks for at once
SHARE_MS = 4000  # of each member of three, of a question's time: more than one that answers takes on a busy machine


def outcome(t, what, answer, wanted):
    t.check(answer["outcome"] == wanted, f"{what}: {wanted}", answer)
    return answer


def suite(t, etcd):
    t.step("the suite of all registers, as the embedded witness has to pass it")
    said = proc.run([run.BUILD / "tests/unit/test_witness", etcd.url()], timeout_s=60)
    for line in said.stdout.splitlines() + said.stderr.splitlines():
        if "rounds won" in line or "at once in" in line or "tests" in line:
            t.say(line)


def swaps(t, etcd):
    t.step("a first decree, and those that follow it")
    a, b = Probe(t, etcd.url()), Probe(t, etcd.url(*reversed(etcd.members)), "paris-b", "paris-a")
    none = outcome(t, "nothing there yet", a.read(), "stands")
    t.check(none["epoch"] == 0, "no decree", none)
    first = outcome(t, "a first decree", a.swap(None), "done")
    t.check(first["epoch"] == 1 and first["members"] == ["paris-a", "paris-b"], "the proposal is the answer", first)
    seen = outcome(t, "the other node reads, from another member", b.read(), "stands")
    t.check(seen["tag"] == first["tag"] and seen["primary"] == "paris-a", "and sees just that", seen)
    taken = outcome(t, "it takes over", b.swap(seen, cause="take", members=["paris-b"], note="it was silent"), "done")
    lost = outcome(t, "a swap of the former one", a.swap(first, cause="out", members=["paris-a"]), "lost")
    t.check(lost["epoch"] == 2 and lost["primary"] == "paris-b" and lost["tag"] == taken["tag"], "it is told who has won", lost)
    outcome(t, "a node that knows more than etcd", a.read(known_epoch=9), "older")
    outcome(t, "a swap of a node that knows more", a.swap(taken, known_epoch=9), "older")
    outcome(t, "another volume of the same name", a.read(volume_id=2), "refused")
    outcome(t, "a proposal that cannot be", a.swap(taken, tag=0), "refused")
    history = etcd.history()
    t.check(sorted(history) == [1, 2], "the history has both decrees", history)
    t.check(history[2]["cause"] == "take" and history[2]["asked_by"] == "paris-b" and history[2]["note"] == "it was silent"
            and history[2]["time"].endswith("Z"), "with cause, asker, time and note", history[2])
    t.check(etcd.get("/lockstep/gold") == json.dumps(history[2], separators=(",", ":")), "the last one stands in the key itself")
    return a, b, taken


def at_once(t, a, b, stands):
    t.step("two nodes swap at the same moment: one wins, and the other one is told so")
    wins = {a.node: 0, b.node: 0}
    for _ in range(t.rounds(50, 1000)):
        proposals = [p.proposal(stands) for p in (a, b)]
        for p, proposal in zip((a, b), proposals):
            p.ask(**proposal)
        answers = [p.answer() for p in (a, b)]
        won = [i for i, answer in enumerate(answers) if answer["outcome"] == "done"]
        if len(won) != 1 or answers[1 - won[0]]["outcome"] != "lost" or answers[1 - won[0]]["tag"] != proposals[won[0]]["tag"]:
            raise run.Failure(f"{proposals} had {answers}")
        stands = answers[won[0]]
        wins[(a, b)[won[0]].node] += 1
    t.check(sum(wins.values()) == stands["epoch"] - 2, f"each time exactly one: {wins}", stands)
    return stands


def many(t, etcd):
    t.step(f"{VOLUMES} volumes at once, over the connections of one client")
    a = Probe(t, etcd.url())
    for slot in range(VOLUMES):
        a.ask(**a.proposal(None, slot=slot, volume=f"v{slot}"))
    answers = [a.answer() for _ in range(VOLUMES)]
    t.check(all(x["outcome"] == "done" for x in answers), "all are done", [x for x in answers if x["outcome"] != "done"][:3])
    t.check(sorted(x["slot"] for x in answers) == list(range(VOLUMES)), "each has its own answer")
    t.say(f"the last one after {max(x['ms'] for x in answers):.0f} ms")
    one = sorted(a.read(f"v{n}", known_epoch=1)["ms"] for n in range(20))
    t.say(f"one read: {one[10]:.1f} ms, and at most {one[-1]:.1f} ms")
    a.close()


def lost_members(t, etcd, a, stands):
    t.step("one member of three is killed, the one that was asked so far: swaps go on")
    etcd.members[0].kill()
    stands = outcome(t, "a swap", a.swap(stands), "done")
    t.say(f"after {stands['ms']:.0f} ms")
    stands = outcome(t, "and another one", a.swap(stands), "done")
    t.say(f"after {stands['ms']:.0f} ms")

    t.step("a second one is killed: etcd has no leader, and nothing is decided")
    etcd.members[1].kill()
    quick = Probe(t, etcd.url(), timeout_ms=1500)
    unknown = outcome(t, "a read", quick.read(known_epoch=stands["epoch"]), "unreachable")
    t.check(unknown["ms"] > 1400, f"told when the time was over, with the reason: {unknown['reason']}", unknown)
    asked = quick.proposal(stands)
    quick.ask(**asked)
    outcome(t, "a swap", quick.answer(), "unreachable")

    t.step("one comes back: the same swap, asked again, is done once")
    etcd.members[1].start()
    etcd.wait_ready(etcd.members[1:])
    answers = []

    def answered():
        quick.ask(**asked)
        answers.append(quick.answer())
        return answers[-1]["outcome"] != "unreachable"
    run.wait_until("an answer in its time", answered, 30, describe=lambda: answers[-1:])
    again = outcome(t, "the retry", answers[-1], "done")
    t.check(again["tag"] == asked["tag"] and again["epoch"] == stands["epoch"] + 1, "with its own tag", again)
    etcd.members[0].start()
    etcd.wait_ready()
    quick.close()
    return again


def silent_member(t, etcd, stands):
    t.step("a member stands still (SIGSTOP), the one that is asked first: it is passed over")
    etcd.members[2].pause()
    p = Probe(t, etcd.url(*reversed(etcd.members)), timeout_ms=3 * SHARE_MS)
    stands = outcome(t, "a swap", p.swap(stands), "done")
    t.say(f"after {stands['ms']:.0f} ms")
    t.check(stands["ms"] >= 0.9 * SHARE_MS, "its share of the time was waited for", stands)
    later = outcome(t, "the next one", p.swap(stands), "done")
    t.check(later["ms"] < 0.9 * SHARE_MS, f"does not try it again: {later['ms']:.0f} ms", later)

    t.step("a client is closed in the middle of a question")
    stopped = Probe(t, etcd.url(etcd.members[2]), timeout_ms=60000)
    stopped.ask(ask="read", volume="gold")
    stopped.close(seconds=5)
    etcd.members[2].go_on()
    etcd.wait_ready()
    p.close()
    return later


def lost_answers(t, etcd, stands):
    proxy = Proxy(t, etcd.members[0])
    p = Probe(t, etcd.url(proxy.endpoint), timeout_ms=2000)

    t.step("the connection breaks when the swap has been carried out: the client finds it by its tag")
    proxy.mode = "deaf"
    asked = p.proposal(stands)
    p.ask(**asked)
    stands = outcome(t, "the swap", p.answer(), "done")
    t.check(proxy.seen.acquire(blocking=False) and stands["tag"] == asked["tag"], "its own", stands)

    t.step("nothing is heard any more after that: unreachable; asked again, it is done")
    proxy.mode = "silent"
    asked = p.proposal(stands)
    p.ask(**asked)
    outcome(t, "the swap", p.answer(), "unreachable")
    t.check(proxy.seen.acquire(blocking=False), "its answer was lost on the way")
    proxy.release()
    p.ask(**asked)
    stands = outcome(t, "the retry", p.answer(), "done")
    t.check(stands["tag"] == asked["tag"] and stands["epoch"] in etcd.history(), "its own", stands)

    t.step("a swap stays on the way, the other node's is carried out, and then it arrives")
    proxy.mode = "hold"
    late = p.proposal(stands, note="late")
    p.ask(**late)
    outcome(t, "the swap", p.answer(), "unreachable")
    t.check(proxy.seen.acquire(blocking=False), "it is on its way")
    b = Probe(t, etcd.url(), "paris-b", "paris-a")
    renewed = outcome(t, "the other node's", b.swap(stands), "done")
    proxy.release()
    now = outcome(t, "then", b.read(known_epoch=renewed["epoch"]), "stands")
    t.check(now["tag"] == renewed["tag"] and etcd.history()[now["epoch"]]["note"] != "late", "it has changed nothing", now)
    p.ask(**late)
    lost = outcome(t, "its retry", p.answer(), "lost")
    t.check(lost["tag"] == renewed["tag"], "lost to the other one", lost)

    t.step("the same, and nobody came first: it is carried out late, and the retry finds it")
    proxy.mode = "hold"
    late = p.proposal(lost)
    p.ask(**late)
    outcome(t, "the swap", p.answer(), "unreachable")
    proxy.release()
    p.ask(**late)
    done = outcome(t, "its retry", p.answer(), "done")
    t.check(done["tag"] == late["tag"], "its own", done)
    p.close()
    b.close()


def ages(t, etcd):
    t.step("the highest age that a node told of its leg")
    proxy = Proxy(t, etcd.members[0])
    p = Probe(t, etcd.url(proxy.endpoint), timeout_ms=2000)
    first = outcome(t, "a first decree, with an age", p.swap(None, volume="aged", leg_age=5), "done")
    t.check(first["leg_age"] == 0 and etcd.age("aged") == 5, "there was none, and it is there now", first)
    revision = etcd.call("/v3/kv/range", key="Zm9v")["header"]["revision"]
    seen = outcome(t, "the same again", p.read("aged", known_epoch=1, leg_age=5), "stands")
    put_back = outcome(t, "one that was put back from an old copy", p.read("aged", known_epoch=1, leg_age=3), "stands")
    t.check(seen["leg_age"] == put_back["leg_age"] == 5, "are told which it was", put_back)
    now = etcd.call("/v3/kv/range", key="Zm9v")["header"]["revision"]
    t.check(now == revision, "and nothing is written for them", (revision, now))

    t.step("what becomes of an age changes no answer")
    proxy.mode = "silent"
    held = outcome(t, "nothing is heard of it any more", p.read("aged", known_epoch=1, leg_age=6), "stands")
    t.check(proxy.seen.acquire(blocking=False) and held["tag"] == first["tag"], f"it is answered with what was read, after {held['ms']:.0f} ms", held)
    proxy.release()
    proxy.mode = "hold"
    outcome(t, "it stays on the way", p.read("aged", known_epoch=1, leg_age=7), "stands")
    t.check(proxy.seen.acquire(blocking=False), "it is on its way")
    direct = Probe(t, etcd.url())
    outcome(t, "a higher one comes first", direct.read("aged", known_epoch=1, leg_age=9), "stands")
    proxy.release()
    t.check(etcd.age("aged") == 9, "then the late one changes nothing", etcd.age("aged"))
    p.close()

    t.step("what is none of Lockstep's where an age should be")
    for value, then in (("hello", 10), ("", 11), ("x" * 10000, 12), ("x" * 200000, 12), ('{"lockstep":2}', None)):
        etcd.put("/lockstep/aged/age/paris-a", value)
        answer = outcome(t, f"{value[:20]!r}, {len(value)} bytes", direct.read("aged", known_epoch=1, leg_age=then or 13), "stands")
        t.check(answer["leg_age"] == 0, "no age is known", answer)
        stays = len(value) > 100000 or then is None
        t.check((etcd.get("/lockstep/aged/age/paris-a") == value) if stays else (etcd.age("aged") == then),
                "it stays" if stays else "it makes room")
        first = outcome(t, "a swap", direct.swap(first, volume="aged", leg_age=1), "done")
    direct.close()


def tls(t):
    t.step("TLS on both sides, with certificates of one authority")
    ours, theirs = Tls(t), Tls(t, "stranger")
    etcd = Etcd(t, "etcd-tls", tls=ours).start()
    good = Probe(t, etcd.url(), tls=ours.client)
    first = outcome(t, "a swap", good.swap(None), "done")
    for what, words in {"with another authority's certificate of the server": (theirs.ca, ours.client_cert, ours.client_key),
                        "with a certificate of another authority": (ours.ca, theirs.client_cert, theirs.client_key),
                        "without a certificate": (ours.ca,)}.items():
        p = Probe(t, etcd.url(), tls=words, timeout_ms=1000)
        answers = [outcome(t, what, p.read(), "unreachable")]
        # A member's alert and its end of the connection race each other.
        run.wait_until("the reason is told", lambda: "certificate" in answers[-1]["reason"] or answers.append(p.read()), 20,
                       describe=lambda: answers[-1])
        t.say(answers[-1]["reason"])
    p = Probe(t, f"etcd+http://{etcd.members[0].endpoint}", timeout_ms=1000)
    answer = outcome(t, "without TLS", p.read(), "unreachable")
    t.say(answer["reason"])
    outcome(t, "the good one still", good.read(known_epoch=first["epoch"]), "stands")
    good.close()


def test(t):
    etcd = Etcd(t, members=3).start()
    suite(t, etcd)
    a, b, stands = swaps(t, etcd)
    stands = at_once(t, a, b, stands)
    many(t, etcd)
    stands = lost_members(t, etcd, a, stands)
    stands = silent_member(t, etcd, stands)
    lost_answers(t, etcd, stands)
    ages(t, etcd)
    a.close()
    b.close()
    tls(t)


if __name__ == "__main__":
    run.main(test, limit_s=170, long_limit_s=900)
