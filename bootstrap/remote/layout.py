"""Where things are on a host (docs/operations.md "Files and ports")."""

from __future__ import annotations

ROOT = "/opt/muster"
VERSIONS = ROOT + "/versions"
CURRENT = ROOT + "/current"
COMMAND = "/usr/local/bin/agent"
CONFIG_DIRECTORY = "/etc/muster"
CONFIG = CONFIG_DIRECTORY + "/agent.toml"
DATA = "/var/lib/muster"
GRANT = DATA + "/identity/grant.json"
"""With it an identity is whole."""
RETIRED = DATA + "/retired"
"""Identity and ledger of the agent that this host was before, if that one was expelled."""
LOGS = "/var/log/muster"
RUN = "/run/muster"
SOCKET = RUN + "/agent.sock"
JOINING = RUN + "/joining.sock"
"""Where an agent without an identity waits for one (agent.cli.joining)."""
LOCK = "/run/muster-bootstrap.lock"
UNIT = "muster-agent.service"
UNIT_FILE = "/etc/systemd/system/" + UNIT
GROUP = "muster"

MANIFEST = "MANIFEST"
"""In a version's directory: the sha256 and path of each file that came in the tarball, one a line."""
LIBRARY = "lib"
LAUNCHER = "bin/agent"
"""Made on the host, as it names the host's Python."""

CLUSTER_LABEL = "muster.cluster"
"""On containers, networks and volumes."""
