"""What the process runtime keeps of a replica: read again by any later agent."""

from __future__ import annotations

from pathlib import Path

from agent.model.ledger import AssignedPort
from agent.model.spec import ReplicaKey
from agent.runtime.records import Record, Records

KEY = ReplicaKey(stack="shop", service="web", slot=1)
RECORD = Record(
    key=KEY,
    cluster="abcdefghijklmnop",
    agent="a" * 26,
    name="shop-web-1",
    revision=3,
    spec_hash="0123456789abcdef",
    ports=(AssignedPort(container_port=80, host_port=8080),),
    stop_grace_ms=10_000,
    run="ab" * 16,
    boot="c0ffee",
    pid=4711,
    start=99,
    started_at=1_700_000_000_000,
    earlier={"stdout": (12, 1_600_000_000_000)},
    ended=True,
    exit_code=7,
    reason="exit code 7",
)
WITH_MORE_FIELDS = (
    b'{"version":1,"key":{"stack":"shop","service":"web","slot":1},"cluster":"abcdefghijklmnop",'
    b'"agent":"aaaaaaaaaaaaaaaaaaaaaaaaaa","name":"shop-web-1","revision":3,"generation":2,'
    b'"spec_hash":"0123456789abcdef","ports":[{"container_port":80,"host_port":8080}],"stop_grace_ms":10000,'
    b'"run":"abababababababababababababababab","boot":"c0ffee","unit":"","pid":4711,"start":99,'
    b'"started_at":1700000000000,"earlier":{"stdout":[12,1600000000000]},"ended":true,"finished_at":1700000001000,'
    b'"exit_code":7,"reason":"exit code 7"}'
)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.write(RECORD)
    assert records.read(KEY) == RECORD
    assert records.all() == [RECORD]


def test_a_record_that_says_more_than_is_needed_is_read(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.path(KEY).write_bytes(WITH_MORE_FIELDS)
    assert records.read(KEY) == RECORD


def test_a_file_that_makes_no_sense_is_no_record(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for data in (b"", b"{}", WITH_MORE_FIELDS[:-1], WITH_MORE_FIELDS.replace(b'"web"', b'"job"')):
        records.path(KEY).write_bytes(data)
        assert records.read(KEY) is None
        assert records.all() == []
