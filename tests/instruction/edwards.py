"""Signatures that no honest signer makes: edwards25519 (RFC 8032 §5.1) with points of every order. Keeps no secrets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, P) % P

Point = tuple[int, int]
NEUTRAL: Point = (0, 1)
BASE: Point = (
    15112221349535400772501151409588531511454012693041857206046113283949847762202,
    46316835694926478169428394003475163141307993866256225615783033603165251855960,
)


def add(left: Point, right: Point) -> Point:
    """Complete on this curve: for all points, and a point with itself."""
    (x1, y1), (x2, y2) = left, right
    product = _D * x1 * x2 * y1 * y2 % P
    return (
        (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P,
    )


def times(factor: int, point: Point) -> Point:
    found = NEUTRAL
    while factor:
        if factor & 1:
            found = add(found, point)
        point, factor = add(point, point), factor >> 1
    return found


def encoded(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def _with(y: int) -> Iterator[Point]:
    """The two points of that height, or none."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, P) % P
    for x in (root := pow(square, (P + 3) // 8, P), root * pow(2, (P - 1) // 4, P) % P):
        if x * x % P == square:
            yield from ((x, y), (-x % P, y))


def decoded(data: bytes) -> Point:
    """`data` has to be what `encoded` makes."""
    return next(point for point in _with(int.from_bytes(data, "little") % 2**255) if encoded(point) == data)


def _of_order_eight() -> Point:
    """What is left of any point of the whole curve when its part in the base's subgroup is taken out."""
    found = (times(ORDER, point) for y in count(2) for point in _with(y))
    return next(point for point in found if times(4, point) != NEUTRAL)


_TORSION = _of_order_eight()
SMALL: tuple[Point, ...] = tuple(times(factor, _TORSION) for factor in range(8))
"""All points whose order divides the cofactor, 8; the neutral one first."""


def signed_with(secret: int, key: Point, nonce: int, commitment: Point, message: bytes) -> bytes:
    """What holds for `key` = `secret` × BASE and `commitment` = `nonce` × BASE; for others it may, by chance."""
    head = encoded(commitment)
    return head + ((nonce + _challenge(head, encoded(key), message) * secret) % ORDER).to_bytes(32, "little")


def holds_times_the_cofactor(signature: bytes, key: bytes, message: bytes) -> bool:
    """By the laxer of the two equations that RFC 8032 §5.1.7 allows."""
    head, scalar = signature[:32], int.from_bytes(signature[32:], "little")
    expected = add(decoded(head), times(_challenge(head, key, message), decoded(key)))
    return times(8, times(scalar, BASE)) == times(8, expected)


def _challenge(head: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(hashlib.sha512(head + key + message).digest(), "little") % ORDER
