"""The agent's configuration: flags over environment over file over defaults, checked as a whole, frozen.

The file is TOML (`/etc/muster/agent.toml`), keys as in `Config`. Every key has one environment variable: SEED's four
(`ENVIRONMENT`), `MUSTER_<KEY>` for the rest; lists are comma-separated there, labels `key=value,…`.
"""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from msgspec import Meta, Struct, inspect

from agent.errors import InputError, StorageError, TooLarge
from agent.model.addresses import is_ip
from agent.model.decode import convert, parse_toml, text_of
from agent.model.explain import shown, shown_key
from agent.model.stack import RuntimeName
from agent.model.types import HostAddress, Label, Labels, Port

DEFAULT_FILE = "/etc/muster/agent.toml"
MAX_FILE_BYTES = 262_144  # seeds and labels of 1000 members are below it
MAX_PORT = 65_535
MAX_SEEDS = 1000  # as many as members

TimingName = Literal["lan", "wan", "local"]
LogLevel = Literal["debug", "info", "warning", "error"]
IpAddress = Annotated[str, Meta(max_length=45, pattern=r"\A[0-9A-Fa-f.:]+\Z", description="an IP address")]
AbsolutePath = Annotated[str, Meta(max_length=1024, pattern=r"\A/[^\x00]*\Z", description="an absolute path")]
Seed = Annotated[
    str,
    Meta(
        max_length=260,
        pattern=r"\A(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._-]*):[0-9]{1,5}\Z",
        description="host:port of a member's peer port, [address]:port for IPv6",
    ),
]


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration.

    `advertise` None: the address that leads to the peers. `publish` None: `listen`. `seeds` are members' peer ports,
    dialled where discovery doesn't reach them. A relative `api_log_file` is below `log_dir`.
    """

    name: Label | None = None
    """The host's name in the cluster; None: the one it was enrolled with."""
    api_port: Port = 9999
    peer_port: Port = 9998
    discovery_port: Port = 9999
    broadcast_address: IpAddress = "255.255.255.255"
    listen: IpAddress = "0.0.0.0"  # noqa: S104 - every agent serves its LAN; TLS and the ledger decide who may talk
    advertise: HostAddress | None = None
    publish: IpAddress | None = None
    seeds: Annotated[tuple[Seed, ...], Meta(max_length=MAX_SEEDS)] = ()
    labels: Labels = {}
    data_dir: AbsolutePath = "/var/lib/muster"
    log_dir: AbsolutePath = "/var/log/muster"
    run_dir: AbsolutePath = "/run/muster"
    policy_file: AbsolutePath = "/etc/muster/policy.toml"
    runtimes: Annotated[tuple[RuntimeName, ...], Meta(max_length=2)] = ("docker", "process")
    """None makes a witness: it votes and runs nothing."""
    timing: TimingName = "lan"
    log_level: LogLevel = "info"
    api_log_file: Annotated[str, Meta(min_length=1, max_length=1024)] = "workers_api_communication.log"
    discovery_mdns: bool = True
    discovery_beacon: bool = True

    @property
    def publish_address(self) -> str:
        """Where containers' ports are published."""
        return self.publish or self.listen

    @property
    def api_log_path(self) -> Path:
        """The API log's file."""
        return Path(self.log_dir) / self.api_log_file


_SEED_VARIABLES = {
    "discovery_port": "DISCOVERY_PORT",
    "broadcast_address": "BROADCAST_ADDRESS",
    "api_log_file": "API_LOG_FILE",
    "log_level": "LOG_LEVEL",
}
KEYS = Config.__struct_fields__
ENVIRONMENT: Mapping[str, str] = {key: _SEED_VARIABLES.get(key, f"MUSTER_{key.upper()}") for key in KEYS}
"""The environment variable of each key (docs/seed.md "Environment variables")."""

_IP_KEYS = ("broadcast_address", "listen", "publish")  # sockets take no names, and a resolver would block the loop

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_LOG_LEVELS = {"warn": "warning"}  # what else people write


def parse_config(
    text: str = "",
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    *,
    file: str = DEFAULT_FILE,
) -> Config:
    """The configuration of a TOML text, environment variables and flags (by key; None: not given). Pure.

    Raises InputError naming the file and key, the variable or the flag that is wrong.
    """
    merged: dict[str, Any] = {}
    merged |= _checked(_of_file(text, file), lambda key: f"{file}: {key}")
    merged |= _checked(_of_environment(environ or {}), lambda key: ENVIRONMENT[key])
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    if unknown := given.keys() - set(KEYS):
        raise ValueError(f"no such configuration keys: {sorted(unknown)}")
    merged |= _checked(given, lambda key: f"--{key.replace('_', '-')}")
    return convert(merged, Config, file)


def read_config(
    path: str | None = None, environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> Config:
    """`parse_config` with the file at `path`; without a path DEFAULT_FILE, which may be missing.

    Raises InputError for a path that names no file, StorageError for one that can't be read, else as `parse_config`.
    """
    file = Path(path or DEFAULT_FILE)
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if path is not None:
            raise InputError("there is no such configuration file", where=path) from None
        data = b""
    except OSError as error:
        raise StorageError(f"can't be read: {error.strerror}", where=str(file)) from None
    if len(data) > MAX_FILE_BYTES:
        raise TooLarge(f"more than {MAX_FILE_BYTES} bytes", where=str(file))
    return parse_config(text_of(data, str(file)), environ, flags, file=str(file))


def _checked(values: Mapping[str, object], where: Callable[[str], str]) -> dict[str, Any]:
    """Each value as its key's type, so that the error names where *this* value came from."""
    checked = {key: convert(_usual(key, value), _TYPES[key], where(key)) for key, value in values.items()}
    for key in _IP_KEYS:
        if key in checked and not is_ip(checked[key]):
            raise InputError(f"expected an IP address, got {shown(checked[key])}", where=where(key))
    for index, seed in enumerate(checked.get("seeds", ())):
        if not 1 <= int(seed.rpartition(":")[2]) <= MAX_PORT:
            raise InputError(f"expected a port 1..{MAX_PORT}, got {shown(seed)}", where=f"{where('seeds')}[{index}]")
    return checked


def _usual(key: str, value: object) -> object:
    """Accepts what people write for the log level: any case, and `warn`."""
    if key != "log_level" or not isinstance(value, str):
        return value
    return _LOG_LEVELS.get(value.lower(), value.lower())


def _of_file(text: str, file: str) -> dict[str, Any]:
    values = parse_toml(text, file)
    for key in values:
        if key not in KEYS:
            raise InputError(f"unknown key {shown_key(key)}{_near(key, KEYS)}", where=file)
    return values


def _of_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The values that the variables set; an empty variable sets none.

    The CLI and containers use variables with the same prefix, so an unknown one is an error only if it nearly matches
    one of ours.
    """
    ours = tuple(ENVIRONMENT.values())
    for name in environ:
        if name.startswith("MUSTER_") and name not in ours and (near := _near(name, ours, cutoff=0.9)):
            raise InputError(f"unknown variable{near}", where=name)
    return {key: _of_text(key, environ[name]) for key, name in ENVIRONMENT.items() if environ.get(name)}


def _of_text(key: str, text: str) -> object:
    """A variable's text as the plain value that a TOML file would hold."""
    kind = _KINDS[key]
    if kind == "list":
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind == "mapping":
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        if any(not equals for _, equals, _ in pairs):
            raise InputError(f"expected key=value,…, got {shown(text)}", where=ENVIRONMENT[key])
        return {name.strip(): value.strip() for name, _, value in pairs}
    if kind == "bool":
        if text.lower() not in _TRUE + _FALSE:
            raise InputError(f"expected true or false, got {shown(text)}", where=ENVIRONMENT[key])
        return text.lower() in _TRUE
    if kind == "int" and text.isascii() and text.isdecimal() and len(text) <= MAX_NUMBER_DIGITS:
        return int(text)
    return text


def _near(name: str, known: tuple[str, ...], *, cutoff: float = 0.6) -> str:
    found = difflib.get_close_matches(name[:64], known, 1, cutoff)
    return f"; did you mean {shown_key(found[0])}?" if found else ""


def _kind(field: inspect.Type) -> str:
    while isinstance(field, inspect.Metadata):
        field = field.type
    if isinstance(field, inspect.VarTupleType):
        return "list"
    if isinstance(field, inspect.DictType):
        return "mapping"
    if isinstance(field, inspect.BoolType):
        return "bool"
    return "int" if isinstance(field, inspect.IntType) else "text"


MAX_NUMBER_DIGITS = 12  # above every bound here, and far from where int() gets slow
_TYPES: Mapping[str, Any] = get_type_hints(Config, include_extras=True)
_KINDS: Mapping[str, str] = {key: _kind(inspect.type_info(_TYPES[key])) for key in KEYS}
