"""hosts.txt: every form it may have, and each mistake by its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import InputError
from bootstrap.inventory import InventoryHost, parse_inventory


def one(text: str) -> InventoryHost:
    [host] = parse_inventory(text)
    return host


@pytest.mark.parametrize(
    ("line", "user", "host", "port", "name"),
    [
        ("web1", None, "web1", None, "web1"),
        ("deploy@web1.example.com:2222", "deploy", "web1.example.com", 2222, "web1"),
        ("root@10.0.0.7", "root", "10.0.0.7", None, None),
        ("2001:db8::7", None, "2001:db8::7", None, None),
        ("root@[2001:db8::7]:2222", "root", "2001:db8::7", 2222, None),
        ("[2001:db8::7]:22", None, "2001:db8::7", 22, None),
        ("DOMAIN\\u@Web_1", "DOMAIN\\u", "Web_1", None, "web-1"),
    ],
)
def test_user_host_and_port(line: str, user: str | None, host: str, port: int | None, name: str | None) -> None:
    found = one(line)
    assert (found.user, found.host, found.port, found.name) == (user, host, port, name)


def test_comments_blank_lines_quotes_and_windows_line_ends() -> None:
    text = "# hosts\r\n; of Ansible's kind\r\n\r\n  a 'note=two words' x=1#2  # why\r\n"
    assert one(text).labels == {"note": "two words", "x": "1#2"}


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("web[01:03]", ["web01", "web02", "web03"]),
        ("web[8:11].lan", ["web8.lan", "web9.lan", "web10.lan", "web11.lan"]),
        ("db-[a:c]", ["db-a", "db-b", "db-c"]),
        ("n[1:5:2]", ["n1", "n3", "n5"]),
        ("r[1:2]h[1:2]", ["r1h1", "r1h2", "r2h1", "r2h2"]),
    ],
)
def test_ranges(pattern: str, names: list[str]) -> None:
    assert [host.alias for host in parse_inventory(f"root@{pattern}:2222")] == names


@given(first=st.integers(0, 500), count=st.integers(1, 200), width=st.integers(0, 5))
def test_a_range_has_both_ends_and_keeps_its_zeros(first: int, count: int, width: int) -> None:
    last = first + count - 1
    low, high = f"{first:0{width}d}", f"{last:0{width}d}"
    if low.startswith("0") and len(low) != len(high):
        return
    aliases = [host.alias for host in parse_inventory(f"x[{low}:{high}]")]
    assert [int(alias[1:]) for alias in aliases] == list(range(first, last + 1))
    assert aliases[0] == f"x{low}"
    assert aliases[-1] == f"x{high}"


def test_ansibles_keys_mean_ours() -> None:
    host = one(
        "db1 ansible_host=10.0.0.7 ansible_user=ops ansible_port=2222 ansible_ssh_private_key_file=~/.ssh/db "
        "ansible_become=yes ansible_become_user=root ansible_python_interpreter=/usr/bin/python3.12"
    )
    assert (host.alias, host.name, host.user, host.host, host.port) == ("db1", "db1", "ops", "10.0.0.7", 2222)
    assert (host.key, host.sudo, host.python, host.labels) == ("~/.ssh/db", True, "/usr/bin/python3.12", {})


@pytest.mark.parametrize("line", ["localhost", "127.0.0.1", "::1", "x ansible_connection=local", "x host=localhost"])
def test_this_machine_needs_no_ssh(line: str) -> None:
    assert one(line).local


def test_localhost_is_no_name_for_a_host() -> None:
    assert one("localhost").name is None


def test_groups_become_labels_also_through_groups_in_groups() -> None:
    text = "[db]\na\n[cache]\na\nb\n[storage:children]\ndb\n[all_of_it:children]\nstorage\n"
    a, b = parse_inventory(text)
    assert a.labels == {"db": "true", "cache": "true", "storage": "true", "all_of_it": "true"}
    assert b.labels == {"cache": "true"}


def test_nearer_variables_win() -> None:
    text = (
        "[all:vars]\nw=all\nx=all\ny=all\nz=all\n[outer:vars]\nx=outer\ny=outer\nz=outer\n"
        "[inner:vars]\ny = inner\nz=inner\n[inner]\na z=own\n[outer:children]\ninner\n"
    )
    labels = one(text).labels
    assert (labels["w"], labels["x"], labels["y"], labels["z"]) == ("all", "outer", "inner", "own")


def test_the_lines_own_user_wins_over_the_groups_under_whichever_name() -> None:
    text = "[g]\nroot@a\n[g:vars]\nansible_user=ops\nuser=other\n"
    assert one(text).user == "root"


def test_a_host_may_stand_in_several_groups_and_its_keys_come_together() -> None:
    host = one("[web]\na x=1\n[eu]\na y=2\n")
    assert host.labels == {"web": "true", "eu": "true", "x": "1", "y": "2"}


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("-oProxyCommand=id", "1:1", "begin with a hyphen"),
        ("root@-oProxyCommand=id", "1:1", "begin with a hyphen"),
        ("a ansible_host=-oProxyCommand=id", "1:16", "host name"),
        ("root@a:22x", "1:1", "expected a port 1..65535 behind the colon"),
        ("web[1:3]:", "1:1", "expected a port 1..65535 behind the colon"),
        ("all:\n  hosts:", "1:1", "expected a port 1..65535 behind the colon"),
        ("-o@a", "1:1", "no user's name"),
        ("a ansible_user=-l", "1:16", "no user's name"),
        ("a user='x y'", "1:8", "no user's name"),
        ("\na b", "2:3", "expected key=value"),
        ("a b=1 b=2", "1:1", "a key stands twice"),
        ("a =1", "1:3", "no key"),
        ("a x='1", "1:5", "a quote that doesn't end"),
        ("a port=0", "1:8", "a port 1..65535"),
        ("a ansible_port=70000", "1:16", "a port 1..65535"),
        ("a ansible_become=perhaps", "1:18", "true or false"),
        ("a ansible_become_user=www", "1:23", "only root"),
        ("a ansible_connection=winrm", "1:22", "ssh or local"),
        ("a ansible_password=secret", "1:3", "passwords don't belong"),
        ("a ansible_ssh_common_args='-o ProxyCommand=x'", "1:3", "ssh's options"),
        ("a ansible_prot=22", "1:3", "isn't understood"),
        ("a python='/usr/bin/python3;id'", "1:10", "no path of an interpreter"),
        ("a name=A_B", "1:8", "1 to 63 of a-z 0-9 -"),
        ("a x\x00=1", "1:4", "control character"),
        ("a\u202e", "1:2", "control character"),
        ("web[3:1]", "1:1", "empty"),
        ("web[1:9:0]", "1:1", "empty"),
        ("web[01:100]", "1:1", "same number of digits"),
        ("web[1:100000]", "1:1", "more than 1000"),
        ("web[x]", "1:1", "no range"),
        ("web[1:2", "1:1", "brackets"),
        ("[g]\na\n[g]\na", "4:1", "stands twice"),
        ("a x=1\n[g]\na x=2", "3:3", "in line 1"),
        ("[g:what]\n", "1:4", "[group:vars]"),
        ("[g:children]\nh", "2:1", "there is no group"),
        ("[g:vars]\nx=1", "1:2", "there is no group"),
        ("[g]\na\n[g:vars]\nx=1\nx=2", "5:1", "stands twice"),
        ("[g]\na\n[g:vars]\nx=1 y=2", "4:5", "one key=value a line"),
        ("[a:children]\nb\n[b:children]\na\n[a]\n[b]", "4:1", "in itself"),
        ("[a b]", "1:2", "no group's name"),
        ("a\nb ansible_host=a", "2:1", "the same host"),
        ("localhost\n127.0.0.1", "2:1", "the same host"),
        ("web.eu\nweb.us", "2:1", "would both be called web"),
        ("a " + "x" * 9000, "1:1", "8192 characters"),
    ],
)
def test_each_mistake_is_told_at_its_place(text: str, place: str, what: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_inventory(text, "hosts.txt")
    assert caught.value.where == f"hosts.txt:{place}"
    assert what in caught.value.what


def test_however_many_groups_a_host_is_in_through_each_other_they_are_read() -> None:
    children = "".join(
        f"[g{i}:children]\ng{i + 1}\nh{i + 1}\n[h{i}:children]\ng{i + 1}\nh{i + 1}\n" for i in range(1000)
    )
    assert len(one(f"{children}[g1000]\nn1\n[h1000]\n").labels) == 2001


def test_groups_that_contain_each_other_in_a_long_circle_are_told_in_one_line() -> None:
    circle = "".join(f"[g{i}:children]\ng{(i + 1) % 3000}\n" for i in range(3000))
    with pytest.raises(InputError, match=r"the group \"g\d+\" is in itself: (g\d+ → ){6}… → g\d+$"):
        parse_inventory(circle)


def test_as_many_ranges_as_a_line_holds_are_read() -> None:
    with pytest.raises(InputError, match="expected at most 253 characters, got 1601"):
        parse_inventory(f"n{'[1:1]' * 1600}")


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        parse_inventory("a b\nn1 port=0\nn2\nn3 x=1 x=2\nn4 ansible_prot=22\nn2\n")
    assert (caught.value.where, caught.value.what) == ("hosts.txt:1:3", 'expected key=value, got "b"')
    assert caught.value.fix == (
        'Wrong too: hosts.txt:2:9: expected a port 1..65535, got "0"; hosts.txt:4:1: a key stands twice on this line; '
        'hosts.txt:5:4: "ansible_prot" isn\'t understood here; hosts.txt:6:1: "n2" stands twice (first in line 3).'
    )
    with pytest.raises(InputError) as caught:
        parse_inventory("".join(f"n{number} x\n" for number in range(20)))
    assert caught.value.fix.endswith('hosts.txt:11:5: expected key=value, got "x"; and 9 more.')


@given(st.text(max_size=200) | st.text("ab[]:=@#'\"- \n.0123456789", max_size=80))
def test_any_text_gives_hosts_or_an_error_with_a_place(text: str) -> None:
    """Whatever passes can stand behind `--` in an ssh command line, and in no other place."""
    try:
        hosts = parse_inventory(text)
    except InputError as error:
        file, line, column = error.where.split(":")
        assert file == "hosts.txt"
        assert int(line) >= 1
        assert int(column) >= 1
        return
    for host in hosts:
        assert not host.host.startswith("-")
        assert not (host.user or "").startswith("-")
        assert host.host.isprintable()
        assert " " not in host.host
