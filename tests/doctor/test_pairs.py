"""Which pairs of hosts are named, and which aren't."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.doctor import diagnose
from agent.doctor.pairs import pair_findings
from agent.model.doctor import Examination, Finding, Firewall, HostAnswer
from tests.doctor.hosts import address, answers, cluster, id_of, of, sees, well

NAMES = ("n1", "n2", "n3", "n4")


def found(exams: dict[str, Examination]) -> list[Finding]:
    return list(pair_findings(answers(*exams.values())))


def cut(exams: dict[str, Examination], one: str, other: str) -> None:
    """Nothing passes between the two."""
    for source, target in ((one, other), (other, one)):
        sees(exams, source, target, connects="silent", linked=False, heard_udp=False)


def test_hosts_that_reach_each_other_are_well() -> None:
    assert diagnose(answers(*cluster(*NAMES).values())) == ()


def test_a_pair_that_is_cut_is_named_both_ways_and_nobody_else() -> None:
    exams = cluster(*NAMES)
    cut(exams, "n1", "n3")
    tcp, udp = found(exams)
    assert (tcp.severity, tcp.where) == ("error", "n1 and n3")
    assert tcp.what == "can't reach each other on 9998/tcp: n1 to n3: no answer, n3 to n1: no answer"
    assert (udp.severity, udp.where) == ("error", "n1 and n3")
    assert "9998/udp, either way" in udp.what


def test_udp_that_is_blocked_one_way_is_named_with_its_direction() -> None:
    exams = cluster(*NAMES)
    sees(exams, "n2", "n1", heard_udp=False)
    (finding,) = found(exams)
    assert (finding.severity, finding.where) == ("error", "n1 to n2")
    assert "n2 hears nothing of n1 on 9998/udp" in finding.what
    assert "towards n2" in finding.fix


def test_tcp_that_is_blocked_one_way_is_a_warning_since_one_link_is_enough() -> None:
    exams = cluster(*NAMES)
    sees(exams, "n1", "n2", connects="silent")
    (finding,) = found(exams)
    assert (finding.severity, finding.where) == ("warning", "n1 to n2")


def test_a_firewall_that_is_known_gives_the_very_command() -> None:
    exams = cluster("n1", "n2")
    sees(exams, "n2", "n1", heard_udp=False)
    command = "nft insert rule inet filter input udp dport 9998 accept"
    exams["n2"] = replace(exams["n2"], firewalls=(Firewall(name="nftables", commands=(command,)),))
    (finding,) = found(exams)
    assert finding.fix == f"On n2: `{command}`"


def test_a_host_that_nobody_reaches_is_one_finding_with_everybodys_word() -> None:
    exams = cluster(*NAMES)
    del exams["n4"]
    for name in exams:
        sees(exams, name, "n4", connects="refused", linked=False, heard_udp=False)
    silent = HostAnswer(id=id_of("n4"), host="n4", what="n1 has no link with n4")
    (finding,) = pair_findings([*answers(*exams.values()), silent])
    assert finding.where == "n4"
    assert finding.what == f"nobody reaches it on {address('n4')}:9998 (n1: refused, n2: refused, n3: refused)"
    assert "systemctl status muster-agent" in finding.fix


def test_a_host_that_is_reached_but_gave_no_answer_is_told_to_be_asked_itself() -> None:
    exams = cluster("n1", "n2")
    del exams["n2"]
    silent = HostAnswer(id=id_of("n2"), host="n2", what="no answer within 5 s")
    (finding,) = pair_findings([*answers(*exams.values()), silent])
    assert (finding.check, finding.where) == ("agent", "n2")
    assert "sudo agent doctor" in finding.fix


def test_one_ends_word_is_enough() -> None:
    """n2 was partitioned from who asks, so it couldn't be asked; n3 reaches it."""
    exams = cluster("n1", "n2", "n3")
    cut(exams, "n1", "n2")
    del exams["n2"]
    silent = HostAnswer(id=id_of("n2"), host="n2", what="n1 has no link with n2")
    places = {finding.where for finding in pair_findings([*answers(*exams.values()), silent])}
    assert "n1 and n2" in places
    assert "n2 and n3" not in places


def test_only_hosts_that_were_asked_for_are_judged_by_their_own_word() -> None:
    exam = well("n1", *NAMES)
    assert list(pair_findings(answers(exam))) == []


@given(st.sets(st.sampled_from(list(combinations(NAMES, 2)))))
def test_exactly_the_pairs_that_are_cut_are_named_or_who_lost_everybody(pairs: set[tuple[str, str]]) -> None:
    exams = cluster(*NAMES)
    for one, other in pairs:
        cut(exams, one, other)
    named = {f.where for f in found(exams) if f.severity == "error" and "/tcp" in f.what}
    assert named == {f"{one} and {other}" for one, other in pairs}


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=12), st.sets(st.sampled_from(NAMES))
)
def test_udp_directions_that_are_deaf_are_all_named(deaf: list[tuple[str, str]], silent: set[str]) -> None:
    exams = cluster(*NAMES)
    for hearer, source in deaf:
        sees(exams, hearer, source, heard_udp=False)
    for name in silent:
        del exams[name]
    told = " ".join(f"{f.where} {f.what}" for f in of(found(exams), "network"))
    for hearer, source in deaf:
        if hearer in exams and hearer != source:
            assert hearer in told
            assert source in told
