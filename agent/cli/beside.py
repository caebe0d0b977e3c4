"""Runs commands of `bootstrap` that a command of ours needs, and shows their progress."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from agent.beside import bootstrap_argv
from agent.errors import EXIT_DEGRADED, MusterError
from agent.tasks import cancel_and_wait

MAX_LINE_BYTES = 16_777_216  # a document of 1000 hosts

Told = Callable[[str], None]


async def run_bootstrap(*arguments: str, data: bytes, told: Told = lambda line: None) -> bytes:
    """Its standard output; `told` gets each line of its standard error. Raises MusterError with its last message.

    Exit code 3 isn't an error here: some hosts failed, which the document says.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *bootstrap_argv(*arguments), stdin=pipe, stdout=pipe, stderr=pipe, limit=MAX_LINE_BYTES
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    last: list[str] = []

    async def listen(stream: asyncio.StreamReader) -> None:
        async for line in stream:
            text = line.decode("utf-8", "replace").rstrip()
            last[:] = [*last, text][-2:]
            told(text)

    listening = asyncio.create_task(listen(process.stderr))
    try:
        process.stdin.write(data)
        process.stdin.close()
        out = await process.stdout.read()
        code = await process.wait()
        await listening
    except BaseException:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        await cancel_and_wait(listening)
        raise
    if code not in (0, EXIT_DEGRADED):
        raise _error(last)
    return out


def _error(last: list[str]) -> MusterError:
    """Its last message: a problem if it was given --json; else `error: what`, with the fix on the line below."""
    problem = _decoded(last[-1]) if last else {}
    if "detail" in problem:
        where, fix = (str(problem.get(key) or "") for key in ("where", "fix"))
        return MusterError(str(problem["detail"]), where=where or "bootstrap", fix=fix)
    first = next((line for line in last if line.startswith("error: ")), last[-1] if last else "it said nothing")
    rest = [line.strip() for line in last if line is not first and line.startswith("  ")]
    return MusterError(first.removeprefix("error: "), where="bootstrap", fix=" ".join(rest))


def progress_line(line: str) -> str | None:
    """A JSON line of `bootstrap --json --progress` for people: `n4: making keys`; None for anything else."""
    told = _decoded(line)
    if "text" not in told:
        return None
    return f"{told['host']}: {told['text']}" if told.get("host") else str(told["text"])


def _decoded(line: str) -> dict[str, Any]:
    """Empty if it isn't a JSON object."""
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
