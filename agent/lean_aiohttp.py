"""Imports aiohttp without letting it read the system's certificate authorities (twice) and MIME types.

Our connections trust none of those authorities, and reading them costs 30 to 80 ms and 3 MB at each start of an agent;
MIME types cost 4 ms. Packages that use aiohttp import this module first.
"""

from __future__ import annotations

import mimetypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["aiohttp"]

# Where OpenSSL looks for them (SSL_CTX_set_default_verify_paths(3)).
_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@contextmanager
def _nothing_read() -> Iterator[None]:
    before, had_types = {name: os.environ.get(name) for name in _VARIABLES}, mimetypes.inited
    os.environ.update(dict.fromkeys(_VARIABLES, os.devnull))
    mimetypes.inited = True  # so that a new table begins with what Python itself knows
    try:
        yield
    finally:
        mimetypes.inited = had_types
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


if "aiohttp" in sys.modules:
    import aiohttp
else:
    with _nothing_read():
        import aiohttp
