"""aiohttp is imported without what it would read of the system, and nobody else notices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.trust import Trust

SHOW = """\
import os, ssl, sys
import {module}
import aiohttp.connector
print(aiohttp.connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509"])
print(ssl.create_default_context().cert_store_stats()["x509"])
print(os.environ["SSL_CERT_FILE"] == sys.argv[1], "SSL_CERT_DIR" in os.environ)
"""


@pytest.mark.parametrize("module", ["agent.api", "agent.api.app", "agent.runtime.engine"])
def test_importing_us_reads_no_certificate_authorities_and_leaves_the_environment_as_it_was(
    module: str, tmp_path: Path
) -> None:
    authorities = tmp_path / "authorities.pem"
    authorities.write_text(Trust().anchor)
    environ = {name: value for name, value in os.environ.items() if name != "SSL_CERT_DIR"}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW.format(module=module), str(authorities)],
        env={**environ, "SSL_CERT_FILE": str(authorities)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["0", "1", "True", "False"]


NAMES = """\
import mimetypes, sys
mimetypes.knownfiles[:] = [sys.argv[1]]
import agent.api
from aiohttp.web_fileresponse import CONTENT_TYPES
print(CONTENT_TYPES.guess_type("a.json")[0], CONTENT_TYPES.guess_type("a.ours")[0], mimetypes.guess_type("a.ours")[0])
"""


def test_importing_us_reads_no_table_of_file_names_and_others_still_can(tmp_path: Path) -> None:
    known = tmp_path / "mime.types"
    known.write_text("text/ours ours\n")
    shown = subprocess.run([sys.executable, "-c", NAMES, str(known)], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["application/json", "None", "text/ours"]
