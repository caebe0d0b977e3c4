"""Names, numbers and their bounds, as types that check themselves on decoding.

msgspec searches a pattern, so every one is anchored with `\\A` and `\\Z` (a `$` would let "ok\\n" pass).
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

LABEL_PATTERN = r"\A[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z"
"""An RFC 1123 label: hosts, stacks and services appear in names of containers, files and URLs."""

CONTAINER_NAME_PATTERN = r"\A[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}\Z"
"""Docker's own rule: two characters or more; nothing that could be a path."""

Label = Annotated[str, Meta(pattern=LABEL_PATTERN, description="1 to 63 of a-z 0-9 -, RFC 1123")]
ContainerName = Annotated[str, Meta(pattern=CONTAINER_NAME_PATTERN, description="Docker's container name rule")]

AgentId = Annotated[str, Meta(pattern=r"\A[a-z2-7]{26}\Z", description="base32 of the signing key's sha256, 130 bits")]
ClusterId = Annotated[str, Meta(pattern=r"\A[a-z2-7]{16}\Z", description="16 random base32 characters")]
OperatorName = Annotated[
    str, Meta(pattern=r"\A[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?\Z", description="an operator's name")
]
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z", description="sha256, hexadecimal")]
Jti = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z", description="128 random bits, hexadecimal")]
ShortText = Annotated[str, Meta(max_length=256)]
"""An id, a name, an image's reference, a version, as a host tells it: what is longer isn't one."""

Target = Annotated[
    str,
    Meta(
        pattern=r"\A(?:cluster|(?:stack|operator|member|host|secret|key):[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?)\Z",
        description="what an instruction changes: stack:x operator:x member:x host:x secret:x key:x cluster",
    ),
]
"""ARCHITECTURE.md "Words"."""

Port = Annotated[int, Meta(ge=1, le=65535)]
Millis = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
"""Milliseconds since the Unix epoch, up to the end of year 9999, the last that RFC 3339 can write; or a duration."""

LabelKey = Annotated[
    str,
    Meta(pattern=r"\A[a-z0-9A-Z](?:[a-z0-9A-Z._/-]{0,61}[a-z0-9A-Z])?\Z", description="1 to 63 of a-z A-Z 0-9 . _ / -"),
]
LabelValue = Annotated[
    str, Meta(max_length=253, pattern=r"\A[^\x00-\x1f\x7f]*\Z", description="text without control characters")
]
Labels = dict[LabelKey, LabelValue]

PublicKey = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z", description="a raw 32-byte public key, hexadecimal")]
CertificatePem = Annotated[str, Meta(max_length=8192, pattern=r"\A-----BEGIN CERTIFICATE-----\n")]
HostAddress = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=253,
        pattern=r"\A[A-Za-z0-9:][A-Za-z0-9.:_-]*\Z",
        description="an IP address or a host name",
    ),
]
"""An IP address or a host name; can't begin with `-`, so it is never read as an option."""

LABEL = re.compile(LABEL_PATTERN)


def is_label(text: str) -> bool:
    """Whether `text` is an RFC 1123 label."""
    return LABEL.fullmatch(text) is not None
