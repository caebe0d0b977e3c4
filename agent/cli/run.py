"""`agent run`: the daemon. Configuration, log, signals, systemd's watchdog; the agent and its API in between."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from agent.cli.room import Room, is_for_want_of_room
from agent.config import Config, read_config
from agent.errors import EXIT_OK, DiskFull, InputError, NeedsRepair
from agent.formats.terminal import clean
from agent.tasks import cancel_and_wait

if TYPE_CHECKING:
    from agent.api.server import ApiServer
    from agent.node.driver.agent import Agent
    from agent.telemetry.api_log import ApiLog
    from agent.telemetry.recent import RecentLog

logger = logging.getLogger(__name__)

BUSY_POLL_S = 0.05  # systemd reads on within milliseconds, unless it is reloading
MAX_STATUS_CHARACTERS = 1_000  # of up to 4 bytes: systemd ignores messages over 4096
START_EXTENSION_S = 60  # the unit's TimeoutStartSec again
WATCHDOG_SHARE = 0.4  # of systemd's interval: a loop that stands still for two of our turns is restarted


@click.command()
@click.option("--config", "file", metavar="FILE", help="The configuration; /etc/muster/agent.toml by default.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="How much to log.  [env: LOG_LEVEL]",
)
@click.option("--api-log-file", metavar="FILE", help="Where requests are logged.  [env: API_LOG_FILE]")
@click.option("--discovery-port", type=int, metavar="PORT", help="Beacons' UDP port.  [env: DISCOVERY_PORT]")
@click.option("--broadcast-address", metavar="ADDRESS", help="Where beacons go.  [env: BROADCAST_ADDRESS]")
def run(file: str | None, **flags: str | int | None) -> int:
    """Run the agent of this host. Flags override the environment, which overrides the configuration.

    Without an identity it waits a minute for `bootstrap install` to bring one. Ends cleanly on SIGTERM and SIGINT:
    workloads keep running, and the coordination is handed over. Exit code 65: starting again won't help until somebody
    has done what the last line says.
    """
    gc.disable()  # until `_freeze`: what is imported now stays, so looking through it again and again is lost time
    systemd = Systemd.of(os.environ)
    try:
        return _run(lambda: _configuration(file, flags), systemd)
    except NeedsRepair as error:
        asyncio.run(systemd.needs_repair(error))
        raise


def _run(configuration: Callable[[], Config], systemd: Systemd) -> int:
    from agent.storage.identity import is_granted

    config = configuration()
    recent = _log_to_stderr(config)
    room = Room(Path(config.data_dir), systemd.waits_for_room)
    if not is_granted(Path(config.data_dir)):
        _join(config, systemd, room)
        config = configuration()  # which is written before the identity
    while (code := _live(config, recent, systemd, room)) is None:
        pass
    return code


def _configuration(file: str | None, flags: Mapping[str, str | int | None]) -> Config:
    try:
        return read_config(file, os.environ, flags)
    except InputError as error:
        raise NeedsRepair.of(error) from None


def _join(config: Config, systemd: Systemd, room: Room) -> None:
    from agent.cli.joining import wait_for_identity  # once in a host's life

    while True:
        try:
            return wait_for_identity(config, systemd.starting_still)
        except DiskFull as error:
            room.wait(error)


def _live(config: Config, recent: RecentLog, systemd: Systemd, room: Room) -> int | None:
    """One life of the agent; None when it has to start again."""
    stop = asyncio.Event()
    try:
        return asyncio.run(_serve(config, recent, systemd, room, stop))
    except (DiskFull, OSError) as error:
        if stop.is_set() or not is_for_want_of_room(error):
            raise
        room.wait(error)
        return None


async def _serve(config: Config, recent: RecentLog, systemd: Systemd, room: Room, stop: asyncio.Event) -> int | None:
    """Runs until the agent ends, or signals set `stop`; None when it has to start again, with a ledger of another
    epoch.
    """
    from agent.node.driver.agent import Agent
    from agent.node.driver.loop import EpochBegan

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    agent = await Agent.start(config, recent)
    loop.set_exception_handler(lambda _, context: _give_up(agent, context))
    try:
        api = await _Api.start(config, agent)
        try:
            await systemd.notify("READY=1\nSTATUS=")
            room.found()
            _freeze()
            watchdog = asyncio.create_task(systemd.watch(), name="watchdog")
            stopping = asyncio.create_task(stop.wait(), name="stop")
            ends: tuple[asyncio.Future[Any], ...] = (stopping, agent.driver.failed)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set() or not (_renews(agent) or _lacks_room(agent)):
                await systemd.notify("STOPPING=1")  # after which it kills a process that stays
            await cancel_and_wait(watchdog, stopping)
        finally:
            await api.close()
    finally:
        await agent.stop()
    if _renews(agent) and not stop.is_set():
        return None
    with contextlib.suppress(EpochBegan):
        if agent.driver.failed.done():
            agent.driver.failed.result()
    logger.info("stopped")
    return EXIT_OK


def _renews(agent: Agent) -> bool:
    from agent.node.driver.loop import EpochBegan

    failed = agent.driver.failed
    return failed.done() and isinstance(failed.exception(), EpochBegan)


def _lacks_room(agent: Agent) -> bool:
    failed = agent.driver.failed
    return failed.done() and is_for_want_of_room(failed.exception())


class _Api:
    """The API of a running agent, on HTTPS and on the local socket, with its log."""

    def __init__(self, server: ApiServer, log: ApiLog) -> None:
        self._server, self._log = server, log

    @classmethod
    async def start(cls, config: Config, agent: Agent) -> _Api:
        from agent.api.app import build_app
        from agent.api.server import ApiServer
        from agent.net.tls import api_server_context
        from agent.telemetry.api_log import ApiLog

        def make() -> ApiLog:
            for directory in (config.api_log_path.parent, Path(config.run_dir)):
                directory.mkdir(parents=True, exist_ok=True)
            return ApiLog(config.api_log_path)

        log = await asyncio.to_thread(make)
        app = build_app(
            agent.service,
            stats=agent.stats,
            log=log.write,
            observe=agent.metrics.request_seconds.observe,
            fatal=agent.driver.fail,
        )
        try:
            server = await ApiServer.start(
                app,
                host=config.listen,
                port=config.api_port,
                tls=api_server_context(agent.identity.certificate_path, agent.identity.tls_key_path),
                socket_path=Path(config.run_dir) / "agent.sock",
            )
        except BaseException:
            await asyncio.to_thread(log.close)
            raise
        agent.metrics.counter("api_refused", "Connections that the API turned away, by reason", lambda: server.drops)
        return cls(server, log)

    async def close(self) -> None:
        await self._server.close()
        await asyncio.to_thread(self._log.close)


def _log_to_stderr(config: Config) -> RecentLog:
    """One line per message; under systemd the journal adds the time. The newest lines are also kept in memory."""
    from agent.telemetry.recent import RecentLog, lines

    recent, shown = RecentLog(), logging.StreamHandler()
    shown.setFormatter(lines(dated="JOURNAL_STREAM" not in os.environ))
    ours = logging.getLogger("agent")
    ours.propagate = False  # libraries go on telling their warnings as Python does without us
    ours.setLevel(config.log_level.upper())
    for handler in (shown, recent):
        ours.addHandler(handler)
    return recent


def _freeze() -> None:
    """Objects that live since the start live for ever, so full collections needn't look at them (that took up to 129
    ms).

    No collection comes before this either: 70 ms would free 2,500 small objects.
    """
    gc.freeze()
    gc.enable()


def _give_up(agent: Agent, context: dict[str, Any]) -> None:
    """Ends the process: an error that nobody awaited is a broken invariant. Except zeroconf's errors about strangers'
    packets.
    """
    error = context.get("exception")
    if not isinstance(error, Exception):
        return
    modules = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
    if any(name == "zeroconf" or name.startswith("zeroconf.") for name in modules):
        logger.warning("mDNS: a packet that zeroconf couldn't take: %s", type(error).__name__)
        return
    agent.driver.fail(error)


class Systemd(NamedTuple):
    """systemd, if it runs us: the socket where it listens (sd_notify(3)), and how often it wants to hear from us."""

    socket: str = ""
    watchdog_s: float = 0.0

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> Systemd:
        """Takes what systemd told us out of the environment: a process that we start isn't the service, and systemd
        would complain about its messages.
        """
        path = environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(os.getpid()))
        watched = microseconds.isdecimal() and pid == str(os.getpid())
        return cls(path, int(microseconds) / 1e6 if watched else 0.0)

    async def notify(self, state: str) -> None:
        """Send it a message, if it runs us; waits while it is busy, without blocking the loop."""
        if not self.socket:
            return
        while True:
            try:
                self._send(state)
            except BlockingIOError:  # what it hasn't read yet fills its queue
                await asyncio.sleep(BUSY_POLL_S)
                continue
            except OSError as error:
                logger.warning("systemd can't be told %s: %s", state, error.strerror)
            return

    def _send(self, state: str) -> None:
        place = "\0" + self.socket[1:] if self.socket.startswith("@") else self.socket
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as notify:
            notify.sendto(state.encode("utf-8", "replace"), place)

    def starting_still(self) -> None:
        """Give the start more time (sd_notify(3), EXTEND_TIMEOUT_USEC); it may be repeated within that."""
        self._repeat(f"EXTEND_TIMEOUT_USEC={START_EXTENSION_S * 1_000_000}")

    def waits_for_room(self) -> None:
        """Tell it that all is well although nothing happens: no boot waits for the start, no watchdog ends it. To be
        repeated.
        """
        self._repeat("READY=1\nWATCHDOG=1\nSTATUS=Waiting for room on the disk")

    async def needs_repair(self, error: NeedsRepair) -> None:
        """Tell it our last message, which it keeps and shows to whoever asks why no agent runs."""
        text = clean(str(error).replace("\n  ", " / "))
        await self.notify(f"STATUS={text[:MAX_STATUS_CHARACTERS]}")

    def _repeat(self, state: str) -> None:
        if self.socket:
            with contextlib.suppress(OSError):  # the next one counts
                self._send(state)

    async def watch(self) -> None:
        """Tell it regularly that the loop turns (sd_watchdog_enabled(3))."""
        while self.watchdog_s:
            await self.notify("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s * WATCHDOG_SHARE)
