"""RIPEMD-160 for interpreters whose OpenSSL has left it out (slow; used only then)."""

from __future__ import annotations

import struct

_ROUNDS = 5
_MASK = 0xFFFFFFFF
_ORDER = (7, 4, 13, 1, 10, 6, 15, 3, 12, 0, 9, 5, 2, 14, 11, 8)
_LEFT_START = tuple(range(16))
_RIGHT_START = tuple((9 * position + 5) % 16 for position in range(16))
_SHIFTS = (
    (11, 14, 15, 12, 5, 8, 7, 9, 11, 13, 14, 15, 6, 7, 9, 8),
    (12, 13, 11, 15, 6, 9, 9, 7, 12, 15, 11, 13, 7, 8, 7, 7),
    (13, 15, 14, 11, 7, 7, 6, 8, 13, 14, 13, 12, 5, 5, 6, 9),
    (14, 11, 12, 14, 8, 6, 5, 5, 15, 12, 15, 14, 9, 9, 8, 6),
    (15, 12, 13, 13, 9, 5, 8, 6, 14, 11, 12, 11, 8, 6, 5, 5),
)
_LEFT_ADD = (0, 0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xA953FD4E)
_RIGHT_ADD = (0x50A28BE6, 0x5C4DD124, 0x6D703EF3, 0x7A6D76E9, 0)


def _orders(start: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The word orders of the five rounds: each is the permutation applied to the one before."""
    orders = [start]
    for _ in range(_ROUNDS - 1):
        orders.append(tuple(_ORDER[word] for word in orders[-1]))
    return tuple(orders)


_LEFT, _RIGHT = _orders(_LEFT_START), _orders(_RIGHT_START)


def _mix(number: int, x: int, y: int, z: int) -> int:
    if number == 0:
        return x ^ y ^ z
    if number == 1:
        return (x & y) | (~x & z)
    if number == 2:
        return (x | ~y) ^ z
    if number == 3:
        return (x & z) | (y & ~z)
    return x ^ (y | ~z)


def _line(state: tuple[int, ...], words: tuple[int, ...], left: bool) -> tuple[int, ...]:
    a, b, c, d, e = state
    for number in range(_ROUNDS):
        order = (_LEFT if left else _RIGHT)[number]
        add = (_LEFT_ADD if left else _RIGHT_ADD)[number]
        mixing = number if left else _ROUNDS - 1 - number
        for word in order:
            shift = _SHIFTS[number][word]
            total = (a + _mix(mixing, b, c, d) + words[word] + add) & _MASK
            rotated = ((total << shift | total >> (32 - shift)) + e) & _MASK
            a, b, c, d, e = e, rotated, b, (c << 10 | c >> 22) & _MASK, d
    return a, b, c, d, e


class Ripemd160:
    """A running hash, with the interface of hashlib's."""

    def __init__(self) -> None:
        self._state: tuple[int, ...] = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
        self._rest = b""
        self._length = 0

    def update(self, data: bytes | memoryview, /) -> None:
        """Hash these bytes too."""
        self._length += len(data)
        self._rest += bytes(data)
        whole = len(self._rest) & ~63
        for at in range(0, whole, 64):
            self._state = _compress(self._state, self._rest[at : at + 64])
        self._rest = self._rest[whole:]

    def digest(self) -> bytes:
        """The 20 bytes of the hash so far."""
        padding = b"\x80" + b"\0" * ((55 - self._length) % 64)
        last = self._rest + padding + struct.pack("<Q", 8 * self._length)
        state = self._state
        for at in range(0, len(last), 64):
            state = _compress(state, last[at : at + 64])
        return struct.pack("<5I", *state)


def _compress(state: tuple[int, ...], block: bytes) -> tuple[int, ...]:
    words = struct.unpack("<16I", block)
    left, right = _line(state, words, True), _line(state, words, False)
    return tuple((state[(at + 1) % 5] + left[(at + 2) % 5] + right[(at + 3) % 5]) & _MASK for at in range(5))
