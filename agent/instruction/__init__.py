"""Everything signed: operators' instructions, genesis, access tokens, the hello between agents. Pure but for fresh
jtis.

Seven kinds of JWT over one strict reader (`tokens`); `scopes` says who may do what. `sealing`, whose ciphers few
callers need, is imported as a module of its own.
"""

from agent.instruction.access import MAX_ACCESS_TTL_S, AccessClaims, access_audience, read_access, sign_access
from agent.instruction.backup import BackupClaims, read_backup, sign_backup
from agent.instruction.blobs import MAX_IMAGE_BYTES, MAX_NAMED_HOSTS, BlobClaims, BlobUse, read_blob, sign_blob
from agent.instruction.genesis import (
    MAX_GENESIS_BYTES,
    GenesisClaims,
    check_genesis,
    encode_genesis,
    read_genesis,
    sign_genesis,
)
from agent.instruction.hello import HELLO_TTL_S, HelloClaims, read_hello, sign_hello
from agent.instruction.keys import kid_of, new_key, private_key_of, private_pem, public_hex, public_key_of
from agent.instruction.operator import (
    DEFAULT_SKEW_S,
    MAX_TTL_S,
    VerifiedInstruction,
    audience_of,
    body_digest,
    check_times,
    encode_body,
    new_jti,
    read_instruction,
    sign_instruction,
    unverified_claims,
)
from agent.instruction.reports import SIGNATURE_BYTES, is_signed_report, sign_report
from agent.instruction.request import (
    MAX_VOLUME_BYTES,
    NO_BODY,
    RequestClaims,
    read_request,
    sign_request,
)
from agent.instruction.scopes import check_scope, covers_stack, grant_stack, includes, needed_scope

__all__ = [
    "DEFAULT_SKEW_S",
    "HELLO_TTL_S",
    "MAX_ACCESS_TTL_S",
    "MAX_GENESIS_BYTES",
    "MAX_IMAGE_BYTES",
    "MAX_NAMED_HOSTS",
    "MAX_TTL_S",
    "MAX_VOLUME_BYTES",
    "NO_BODY",
    "SIGNATURE_BYTES",
    "AccessClaims",
    "BackupClaims",
    "BlobClaims",
    "BlobUse",
    "GenesisClaims",
    "HelloClaims",
    "RequestClaims",
    "VerifiedInstruction",
    "access_audience",
    "audience_of",
    "body_digest",
    "check_genesis",
    "check_scope",
    "check_times",
    "covers_stack",
    "encode_body",
    "encode_genesis",
    "grant_stack",
    "includes",
    "is_signed_report",
    "kid_of",
    "needed_scope",
    "new_jti",
    "new_key",
    "private_key_of",
    "private_pem",
    "public_hex",
    "public_key_of",
    "read_access",
    "read_backup",
    "read_blob",
    "read_genesis",
    "read_hello",
    "read_instruction",
    "read_request",
    "sign_access",
    "sign_backup",
    "sign_blob",
    "sign_genesis",
    "sign_hello",
    "sign_instruction",
    "sign_report",
    "sign_request",
    "unverified_claims",
]
