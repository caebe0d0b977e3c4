"""Options that every command has, before or after its name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_SOCKET = "/run/muster/agent.sock"


class Options:
    """The options that were given, wherever they stood; otherwise the defaults."""

    home: str | None = None
    via: str | None = None
    socket: str | None = None
    json: bool = False
    no_color: bool = False

    @property
    def color(self) -> bool:
        """Whether standard output takes colours (https://no-color.org)."""
        return not self.no_color and not os.environ.get("NO_COLOR") and sys.stdout.isatty()

    @property
    def live(self) -> bool:
        """Whether somebody watches the screen."""
        return not self.json and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def current_options() -> Options:
    """Those of the running command."""
    return click.get_current_context().find_root().ensure_object(Options)


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, False):
        assert param.name is not None
        setattr(ctx.find_root().ensure_object(Options), param.name, value)


def _option(*names: str, **settings: Any) -> Callable[[F], F]:
    return click.option(*names, expose_value=False, callback=_remember, **settings)


_OPTIONS: tuple[Callable[..., Any], ...] = (
    _option("--home", metavar="DIR", help="The cluster home.  [env: MUSTER_HOME]"),
    _option("--via", metavar="HOST", help="Ask this member, and no other: a name, or address:port."),
    _option("--socket", metavar="PATH", help="Ask the agent on this host through its local socket."),
    _option("--json", is_flag=True, help="One JSON document, or one a line for streams."),
    _option("--no-color", is_flag=True, help="Plain text.  [env: NO_COLOR]"),
)


def global_options(command: F) -> F:
    """The decorator that adds them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
