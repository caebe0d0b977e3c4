"""A LAN of real hosts on one machine: booted systemd, real sshd, real dockerd, in network namespaces. See README.md."""

from tests.lab.faults import Faults
from tests.lab.host import Host
from tests.lab.lab import Lab, down, leftovers, sweep
from tests.lab.operators import Operator
from tests.lab.process import LabError, Result

__all__ = ["Faults", "Host", "Lab", "LabError", "Operator", "Result", "down", "leftovers", "sweep"]
