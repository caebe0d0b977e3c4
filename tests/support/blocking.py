"""The event loop never blocks: what counts as blocking in code of ``agent``, and where it is allowed after all."""

from __future__ import annotations

from blockbuster import BlockBuster, BlockBusterFunction

# Beyond what blockbuster knows: calls that wait for a disk, a name server or another process.
ALSO_BLOCKING = (
    "io.open",
    "builtins.open",
    "os.fsync",
    "os.fdatasync",
    "os.open",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "sqlite3.connect",
    "subprocess.Popen.wait",
    "subprocess.Popen.communicate",
)

# (file's end, function) where blocking is allowed, each with its reason.
ALLOWED = {
    ("<frozen importlib._bootstrap>", "_find_and_load"): "a late import reads its module once",
    ("<frozen importlib._bootstrap_external>", "get_data"): "the same, by a loader",
    ("asyncio/base_events.py", "subprocess_exec"): "fork and exec: asyncio itself has no other way",
    ("logging/__init__.py", "emit"): "one short line to the log",
    ("linecache.py", "updatecache"): "a traceback reads source lines, after something went wrong already",
}


def blocking_detector() -> BlockBuster:
    """Return a detector that raises BlockingError for a blocking call below a frame of ``agent`` in a running loop."""
    detector = BlockBuster("agent")
    for name in ALSO_BLOCKING:
        detector.functions[name] = BlockBusterFunction(None, name, scanned_modules="agent")
    for function in detector.functions.values():
        for filename, caller in ALLOWED:
            function.can_block_in(filename, caller)
    return detector
