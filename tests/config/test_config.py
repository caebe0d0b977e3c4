"""The agent's configuration: where each value comes from, and how a wrong one is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.run import run
from agent.config import DEFAULT_FILE, ENVIRONMENT, KEYS, MAX_FILE_BYTES, Config, parse_config, read_config
from agent.errors import InputError, StorageError, TooLarge


def refusal(*args: Any) -> str:
    with pytest.raises(InputError) as caught:
        parse_config(*args, file="agent.toml")
    return str(caught.value)


def test_the_defaults_are_design_s() -> None:
    config = parse_config()
    assert config == Config()
    assert (config.api_port, config.peer_port, config.discovery_port) == (9999, 9998, 9999)
    assert config.broadcast_address == "255.255.255.255"
    assert (config.data_dir, config.log_dir, config.run_dir) == ("/var/lib/muster", "/var/log/muster", "/run/muster")
    assert config.api_log_path == Path("/var/log/muster/workers_api_communication.log")
    assert config.advertise is None


def test_flag_over_environment_over_file_over_default() -> None:
    file, environ, flags = "api_port = 1\npeer_port = 1\ndiscovery_port = 1", {}, {}
    assert parse_config(file).api_port == 1
    environ = {"MUSTER_API_PORT": "2", "MUSTER_PEER_PORT": "2"}
    assert parse_config(file, environ).api_port == 2
    flags = {"api_port": 3, "peer_port": None}
    config = parse_config(file, environ, flags)
    assert (config.api_port, config.peer_port, config.discovery_port, config.timing) == (3, 2, 1, "lan")


def test_seed_s_variables() -> None:
    config = parse_config(
        environ={
            "DISCOVERY_PORT": "9997",
            "BROADCAST_ADDRESS": "192.168.1.255",
            "API_LOG_FILE": "/srv/api.log",
            "LOG_LEVEL": "WARN",
            "SSH_USER": "translator",
            "DOCKER_REGISTRY": "your-registry.com",
        }
    )
    assert (config.discovery_port, config.broadcast_address, config.log_level) == (9997, "192.168.1.255", "warning")
    assert config.api_log_path == Path("/srv/api.log")


@pytest.mark.parametrize(
    ("variable", "key", "in_file", "in_environment", "as_flag", "otherwise"),
    [
        ("DISCOVERY_PORT", "discovery_port", 1001, "1002", 1003, 9999),
        ("BROADCAST_ADDRESS", "broadcast_address", "10.0.0.1", "10.0.0.2", "10.0.0.3", "255.255.255.255"),
        ("API_LOG_FILE", "api_log_file", "/a", "/b", "/c", "workers_api_communication.log"),
        ("LOG_LEVEL", "log_level", "debug", "warning", "error", "info"),
    ],
)
def test_each_of_seed_s_variables_goes_over_the_file_and_under_a_flag(
    variable: str, key: str, in_file: object, in_environment: str, as_flag: object, otherwise: object
) -> None:
    file = f"{key} = {json.dumps(in_file)}"
    assert ENVIRONMENT[key] == variable
    assert getattr(parse_config(), key) == otherwise
    assert getattr(parse_config(file), key) == in_file
    over = getattr(parse_config(file, {variable: in_environment}), key)
    assert str(over) == in_environment
    assert getattr(parse_config(file, {variable: ""}), key) == in_file, "an empty one says nothing"
    assert getattr(parse_config(file, {variable: in_environment}, {key: as_flag}), key) == as_flag
    assert getattr(parse_config(file, {variable: in_environment}, {key: None}), key) == over, "a flag not given"


def test_every_flag_of_the_daemon_is_a_key_and_names_its_variable() -> None:
    flags = {option.name: option for option in run.params if isinstance(option, click.Option) and option.name != "file"}
    assert flags.keys() == {"log_level", "api_log_file", "discovery_port", "broadcast_address"}
    for name, option in flags.items():
        assert f"[env: {ENVIRONMENT[name]}]" in (option.help or "")


def test_every_key_has_one_variable() -> None:
    assert set(ENVIRONMENT) == set(KEYS)
    assert len(set(ENVIRONMENT.values())) == len(KEYS)


def test_lists_mappings_and_truth_from_the_environment() -> None:
    config = parse_config(
        environ={
            "MUSTER_SEEDS": "n1:9998, [fd00::1]:9998,",
            "MUSTER_LABELS": "zone=a, rack=b=c",
            "MUSTER_RUNTIMES": "process",
            "MUSTER_DISCOVERY_MDNS": "off",
            "MUSTER_DISCOVERY_BEACON": "",
        }
    )
    assert config.seeds == ("n1:9998", "[fd00::1]:9998")
    assert config.labels == {"zone": "a", "rack": "b=c"}
    assert config.runtimes == ("process",)
    assert not config.discovery_mdns
    assert config.discovery_beacon


def test_containers_ports_are_published_where_the_agent_listens_unless_said() -> None:
    assert parse_config('listen = "10.0.0.1"').publish_address == "10.0.0.1"
    assert parse_config('listen = "10.0.0.1"\npublish = "127.0.0.1"').publish_address == "127.0.0.1"


def test_no_runtime_is_a_witness() -> None:
    assert parse_config("runtimes = []").runtimes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("api_port = 70000", "agent.toml: api_port: expected 1..65535, got 70000"),
        ("api_port = '9999'", 'agent.toml: api_port: expected 1..65535, got "9999"'),
        ("api_port = true", "agent.toml: api_port: expected 1..65535, got true"),
        ("api_prt = 1", "agent.toml: unknown key `api_prt`; did you mean `api_port`?"),
        ("[zzz]\na=1", "agent.toml: unknown key `zzz`"),
        ("seeds = ['n1']", "agent.toml: seeds[0]: expected host:port of a member's peer port"),
        ("seeds = ['n1:1', 'n2:70000']", 'agent.toml: seeds[1]: expected a port 1..65535, got "n2:70000"'),
        ("seeds = 'n1:1'", 'agent.toml: seeds: expected an array, got "n1:1"'),
        ("labels = {zone = 1}", "agent.toml: labels.zone: expected text, got 1"),
        ("labels = {'a b' = 'x'}", 'agent.toml: labels["a b"]: expected a key of'),
        ("data_dir = 'muster'", 'agent.toml: data_dir: expected an absolute path, got "muster"'),
        ("timing = 'moon'", 'agent.toml: timing: expected one of "lan", "local", "wan", got "moon"'),
        ("runtimes = ['podman']", "agent.toml: runtimes[0]: expected one of"),
        ("discovery_mdns = 'no'", 'agent.toml: discovery_mdns: expected true or false, got "no"'),
        ("listen = '-x'", 'agent.toml: listen: expected an IP address, got "-x"'),
        ("listen = 'localhost'", 'agent.toml: listen: expected an IP address, got "localhost"'),
        ("listen = '10.0.0.300'", 'agent.toml: listen: expected an IP address, got "10.0.0.300"'),
        ("publish = 'fd00:::1'", 'agent.toml: publish: expected an IP address, got "fd00:::1"'),
        ("broadcast_address = 'lan'", 'agent.toml: broadcast_address: expected an IP address, got "lan"'),
        ("advertise = '-x'", "agent.toml: advertise: expected an IP address or a host name"),
        ("name = 'N 1'", "agent.toml: name: expected 1 to 63 of"),
        ("name = 2024-01-01", "agent.toml: name: expected text, got a date"),
        ("api_port = 1\napi_port = 2", "agent.toml: not valid TOML: Cannot overwrite a value"),
        ("api_port =", "agent.toml: not valid TOML"),
        ("a = " + "[" * 10_000, "agent.toml: nested too deep"),
        ("labels = " + "{a=" * 10_000, "agent.toml: nested too deep"),
        ("a = " + "9" * 5000, "agent.toml: not valid TOML"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DISCOVERY_PORT", "x", 'DISCOVERY_PORT: expected 1..65535, got "x"'),
        ("DISCOVERY_PORT", "٣", "DISCOVERY_PORT: expected 1..65535, got"),
        ("DISCOVERY_PORT", "9" * 5000, "DISCOVERY_PORT: expected 1..65535, got"),
        ("DISCOVERY_PORT", "-1", "DISCOVERY_PORT: expected 1..65535, got"),
        ("MUSTER_DISCOVERY_MDNS", "maybe", 'MUSTER_DISCOVERY_MDNS: expected true or false, got "maybe"'),
        ("MUSTER_LABELS", "zone", 'MUSTER_LABELS: expected key=value,…, got "zone"'),
        ("MUSTER_SEEDS", "n1:1,n2", "MUSTER_SEEDS[1]: expected host:port"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL: expected one of"),
        ("MUSTER_DATADIR", "/x", "MUSTER_DATADIR: unknown variable; did you mean `MUSTER_DATA_DIR`?"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(name: str, value: str, message: str) -> None:
    assert refusal("", {name: value}).startswith(message)


def test_other_variables_with_our_prefix_are_others_business() -> None:
    others = {"MUSTER_HOME": "/h", "MUSTER_HOST": "n1", "MUSTER_PORT_8443": "1", "PATH": "/bin"}
    assert parse_config(environ=others) == Config()


def test_what_is_wrong_in_a_flag_is_named() -> None:
    assert refusal("", {}, {"api_port": 0}) == "--api-port: expected 1..65535, got 0"
    with pytest.raises(ValueError, match="api_prt"):
        parse_config(flags={"api_prt": 1})


@given(st.text(max_size=60), st.dictionaries(st.sampled_from([*ENVIRONMENT.values()]), st.text(max_size=20)))
def test_nothing_raises_anything_but_input_error(text: str, environ: dict[str, str]) -> None:
    try:
        parse_config(text, environ)
    except InputError as error:
        found = error
    else:
        return
    assert found.where


def test_a_file_is_read_and_named(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("api_port = 8000\n")
    assert read_config(str(file)).api_port == 8000
    file.write_text("api_port = 0\n")
    with pytest.raises(InputError, match=r"agent\.toml: api_port: "):
        read_config(str(file))


def test_a_named_file_must_exist_and_be_sane(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such configuration file"):
        read_config(str(tmp_path / "none.toml"))
    with pytest.raises(StorageError, match="can't be read"):
        read_config(str(tmp_path))
    file = tmp_path / "agent.toml"
    file.write_bytes(b"\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        read_config(str(file))
    file.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(TooLarge):
        read_config(str(file))


@pytest.mark.skipif(Path(DEFAULT_FILE).exists(), reason="this host has an agent of its own")
def test_the_default_file_may_be_missing() -> None:
    assert read_config() == Config()
