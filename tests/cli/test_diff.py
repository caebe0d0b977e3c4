from __future__ import annotations

from agent.cli.diff import diff_lines, stack_diff
from agent.instruction import body_digest, encode_body
from agent.model.api import StackView
from agent.model.stack import Image, InstructionRef, Service, Stack, StackFile

SHOP = Stack(name="shop", services={"web": Service(image=Image(ref="web:1"))})


def running(scale: dict[str, int], deployed: Stack = SHOP) -> StackView:
    return StackView(
        name="shop",
        revision=3,
        deployed=InstructionRef(revision=1, digest=body_digest(encode_body(deployed))),
        phase="healthy",
        reason="",
        changed_by="alice",
        changed_at="2024-01-15T10:30:00Z",
        scale=scale,
        stopped=(),
        stack=deployed,
    )


def test_the_very_plan_that_is_deployed_changes_nothing() -> None:
    assert diff_lines(stack_diff(running({}), SHOP)) == ["shop: exactly what is deployed"]


def test_the_very_plan_that_is_deployed_still_ends_a_scale() -> None:
    lines = diff_lines(stack_diff(running({"web": 5}), SHOP))
    assert lines == ["shop: exactly what is deployed", "  web: the scale of 5 set since ends"]


def test_what_no_host_may_run_is_told_with_each_hosts_reason() -> None:
    wanted = Stack(
        name="shop",
        services={
            "web": Service(image=Image(ref="web:1"), labels={"zone": "c"}),
            "db": Service(image=Image(ref="web:1"), host="n1"),
            "later": Service(image=Image(ref="web:1"), labels={"zone": "c"}, replicas=0),
        },
    )
    lines = diff_lines(stack_diff(None, wanted, {"n1": {"zone": "a"}, "n2": {}}))
    assert lines == [
        "shop: revision 1",
        "+ db",
        "+ later",
        "+ web",
        "! web: no host may run it, so the deploy would fail: n1: label zone=c wanted, a there;"
        " n2: label zone=c wanted, none there",
    ]
    assert stack_diff(None, wanted, {"n1": {}, "n2": {"zone": "c"}}).nowhere == {}


def test_files_that_are_sent_along_are_named_where_they_are_not_the_same() -> None:
    def shop(**files: tuple[str, int]) -> Stack:
        sent = {name: StackFile(digest=digit * 64, size=1, mode=mode) for name, (digit, mode) in files.items()}
        return Stack(name="shop", services=SHOP.services, files=sent)

    before = shop(same=("1", 0o644), other=("2", 0o644), mode=("3", 0o644), gone=("4", 0o644))
    after = shop(same=("1", 0o644), other=("5", 0o644), mode=("3", 0o600), more=("6", 0o644))
    lines = diff_lines(stack_diff(running({}, before), after))
    assert lines == ["shop: revision 4", "  web", "- ./gone", "~ ./mode", "+ ./more", "~ ./other"]
    assert stack_diff(None, after).files == dict.fromkeys(("mode", "more", "other", "same"), "added")
