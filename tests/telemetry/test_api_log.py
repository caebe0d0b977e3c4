"""The API log and its statistics (docs/seed.md "Log format", "API communication stats")."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.telemetry import api_log
from agent.telemetry.api_log import (
    MAX_ENDPOINTS,
    OTHER_ENDPOINTS,
    ApiLog,
    ApiRecord,
    ApiStats,
    api_record,
    duration_text,
)
from tests.support.waiting import wait_for_sync

LOG_FILE = "workers_api_communication.log"
SEED = {
    "timestamp": "2024-01-15T10:30:15.123Z",
    "source_host": "192.168.1.100",
    "source_port": 8443,
    "target_host": "192.168.1.101",
    "target_port": 8444,
    "method": "POST",
    "url": "/api/v1/translate",
    "status_code": 200,
    "request_size": 1024,
    "response_size": 2048,
    "duration": "150ms",
    "user_agent": "translator/2.0",
    "error": None,
}


def record(**changes: object) -> ApiRecord:
    """SEED's own example, with changes."""
    fields: dict[str, object] = {
        "at_s": 1705314615.123,
        "source": ("192.168.1.100", 8443),
        "target": ("192.168.1.101", 8444),
        "method": "POST",
        "url": "/api/v1/translate",
        "status_code": 200,
        "request_size": 1024,
        "response_size": 2048,
        "duration_s": 0.150,
        "user_agent": "translator/2.0",
    }
    return api_record(**(fields | changes))  # type: ignore[arg-type]  # the defaults above have the types


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / LOG_FILE


@pytest.fixture
def log(path: Path) -> Iterator[ApiLog]:
    made = ApiLog(path)
    yield made
    made.close()


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_is_seeds_json_in_seeds_order(log: ApiLog, path: Path) -> None:
    log.write(record())
    wait_for_sync(lambda: path.exists() and path.read_text().endswith("\n"))
    (line,) = path.read_text().splitlines()
    assert json.loads(line) == SEED
    assert list(json.loads(line)) == list(SEED)


def test_a_request_without_an_answer_says_why(log: ApiLog, path: Path) -> None:
    log.write(record(status_code=0, error="connection reset"))
    log.close()
    assert lines(path)[0]["error"] == "connection reset"


def test_a_header_full_of_newlines_stays_one_line(log: ApiLog, path: Path) -> None:
    log.write(record(user_agent='x"\n{"timestamp": "forged"}\n' + "y" * 10_000, url="/\r\n\x00é"))
    log.close()
    (line,) = lines(path)
    assert len(str(line["user_agent"])) <= 512
    assert line["url"] == "/\r\n\x00é"


def test_bytes_that_are_no_text_dont_keep_a_request_out_of_the_log(log: ApiLog, path: Path) -> None:
    """HTTP header bytes that aren't UTF-8 come as lone surrogates, which no JSON can carry."""
    log.write(record(user_agent="a\udcff\udcfe", url="/\udcff", method="G\udcffT"))
    log.close()
    (line,) = lines(path)
    assert (line["user_agent"], line["url"], line["method"]) == ("a??", "/?", "G?T")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.150, "150ms"), (0.0008, "0.8ms"), (0.0, "0ms"), (12.5, "12500ms"), (0.0000004, "0ms"), (-1.0, "0ms")],
)
def test_durations_are_milliseconds_as_seeds_jq_lines_read_them(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
    assert float(text.removesuffix("ms")) >= 0


def test_the_file_is_rotated_by_size_and_the_oldest_go(path: Path) -> None:
    log = ApiLog(path, max_bytes=1000, kept_files=2)
    for number in range(40):
        log.write(record(url=f"/{number}"))
    log.close()
    kept = sorted(path.parent.iterdir())
    assert len(kept) == 3
    assert all(file.stat().st_size <= 1000 for file in kept)
    order = [*kept[1:], kept[0]]  # the one without a stamp is the newest
    urls = [str(line["url"]) for file in order for line in lines(file)]
    assert urls == [f"/{n}" for n in range(40)][-len(urls) :]


def test_the_file_is_rotated_by_age_also_over_restarts(path: Path) -> None:
    old = ApiLog(path, max_age_s=3600)
    old.write(record(at_s=time.time() - 7200, url="/old"))
    old.close()
    again = ApiLog(path, max_age_s=3600)
    again.write(record(at_s=time.time(), url="/new"))
    again.close()
    assert [line["url"] for line in lines(path)] == ["/new"]
    (rotated,) = (file for file in path.parent.iterdir() if file != path)
    assert [line["url"] for line in lines(rotated)] == ["/old"]


def test_rotation_deletes_nothing_but_its_own_files(path: Path) -> None:
    path.parent.mkdir()
    mine = path.with_name(f"{LOG_FILE}.backup")
    mine.write_text("mine")
    log = ApiLog(path, max_bytes=300, kept_files=1)
    for _ in range(10):
        log.write(record())
    log.close()
    assert mine.read_text() == "mine"
    assert len(list(path.parent.iterdir())) == 3


def test_a_disk_that_fails_loses_lines_and_counts_them(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    log = ApiLog(blocked / LOG_FILE)
    log.write(record())
    wait_for_sync(lambda: log.drops["disk"] == 1)
    blocked.unlink()
    log.write(record())
    wait_for_sync(lambda: (blocked / LOG_FILE).exists())
    log.close()


def test_a_full_queue_drops_instead_of_waiting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_log, "MAX_QUEUED_LINES", 4)
    stuck = threading.Event()
    monkeypatch.setattr(ApiLog, "_append", lambda *_: stuck.wait())
    log = ApiLog(path)
    for _ in range(20):
        log.write(record())
    assert log.drops["queue"] >= 12
    stuck.set()
    log.close()


def test_the_statistics_are_seeds_object() -> None:
    stats = ApiStats()
    for _ in range(3):
        stats.count("/api/v1/translate", 200, 0.045)
    stats.count("/api/v1/health", 0, 0.045)
    stats.count("/api/v1/health", 503, 0.045)
    view = stats.view()
    assert view.total_requests == 5
    assert view.total_responses == 4
    assert view.error_count == 2  # no answer, or ≥ 500
    assert view.avg_duration == "45ms"
    assert view.requests_by_endpoint == {"/api/v1/translate": 3, "/api/v1/health": 2}


def test_no_requests_take_no_time() -> None:
    assert ApiStats().view().avg_duration == "0ms"


@given(st.lists(st.tuples(st.integers(0, 2 * MAX_ENDPOINTS), st.sampled_from([0, 200, 404, 500, 599])), max_size=800))
def test_the_statistics_add_up_and_stay_bounded(requests: list[tuple[int, int]]) -> None:
    stats = ApiStats()
    for endpoint, status in requests:
        stats.count(f"/{endpoint}", status, 0.001)
    view = stats.view()
    assert sum(view.requests_by_endpoint.values()) == view.total_requests == len(requests)
    assert view.total_responses == sum(status > 0 for _, status in requests)
    assert view.error_count == sum(status == 0 or status >= 500 for _, status in requests)
    assert len(view.requests_by_endpoint) <= MAX_ENDPOINTS + 1


def test_callers_cant_fill_the_memory_with_endpoints() -> None:
    stats = ApiStats()
    for number in range(10 * MAX_ENDPOINTS):
        stats.count(f"/{number}", 200, 0.0)
    view = stats.view()
    assert view.requests_by_endpoint[OTHER_ENDPOINTS] == 9 * MAX_ENDPOINTS
    assert len(view.requests_by_endpoint) == MAX_ENDPOINTS + 1
