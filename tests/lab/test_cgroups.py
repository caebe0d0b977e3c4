"""Finding the cgroup hierarchies on machines of both versions."""

from __future__ import annotations

from pathlib import Path

from tests.lab.cgroups import Hierarchy, hierarchies

V1 = """\
30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,xattr,name=systemd
35 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
36 30 0:32 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
"""
V1_OWN = "9:memory:/jobs/7\n8:cpu,cpuacct:/\n1:name=systemd:/init.scope\n0::/init.scope\n"

V2 = "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
V2_OWN = "0::/user.slice/user-0.slice/session-1.scope\n"


def test_on_v1_a_lab_lies_below_its_caller_in_each_hierarchy_and_systemds_comes_first() -> None:
    assert [(found.name, str(found.base)) for found in hierarchies(V1, V1_OWN)] == [
        ("systemd", "/sys/fs/cgroup/systemd/init.scope"),
        ("", "/sys/fs/cgroup/unified/init.scope"),
        ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
        ("memory", "/sys/fs/cgroup/memory/jobs/7"),
    ]


def test_on_v2_a_lab_lies_at_the_root_where_controllers_can_be_passed_on() -> None:
    root = Path("/sys/fs/cgroup")
    assert hierarchies(V2, V2_OWN) == [Hierarchy(name="", mount=root, base=root)]


def test_inside_a_container_paths_are_taken_relative_to_what_is_mounted() -> None:
    mounted = "36 30 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    [found] = hierarchies(mounted, "9:memory:/docker/abc/job\n")
    assert found.base == Path("/sys/fs/cgroup/memory/job")
    [outside] = hierarchies(mounted, "9:memory:/elsewhere\n")
    assert outside.base == Path("/sys/fs/cgroup/memory")
