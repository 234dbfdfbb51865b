"""Session tokens of the EC2 metadata service, version 2: who has one cannot be a proxy that was talked into a GET.

A token says when it ends and is signed for one machine, so nothing is kept of it, and a restarted server knows it.
"""

import base64
import hmac
from dataclasses import dataclass

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"  # noqa: S105  the name of a header
LONGEST = 21_600
KEY_BYTES = 32
_TIME_BYTES = 8


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens signed with one key of `KEY_BYTES` random bytes."""

    key: bytes

    def made(self, machine: str, now: float, seconds: int) -> str:
        """A token for the machine, good for that many seconds."""
        ends = int(now + seconds).to_bytes(_TIME_BYTES, "big")
        return base64.urlsafe_b64encode(ends + self._signature(machine, ends)).decode().rstrip("=")

    def good(self, token: str, machine: str, now: float) -> bool:
        """True if it was made for this machine and has not ended."""
        if len(token) > 100 or not token.isascii():
            return False
        try:
            data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError:
            return False
        ends, signature = data[:_TIME_BYTES], data[_TIME_BYTES:]
        return hmac.compare_digest(signature, self._signature(machine, ends)) and now < int.from_bytes(ends, "big")

    def _signature(self, machine: str, ends: bytes) -> bytes:
        return hmac.digest(self.key, machine.encode() + b"\0" + ends, "sha256")


def seconds(asked: str | None) -> int | None:
    """The lifetime that a request asks for; None if it asks for none that EC2 would give."""
    if asked is None or not asked.isascii() or not asked.isdecimal() or len(asked) > 5:
        return None
    value = int(asked)
    return value if 1 <= value <= LONGEST else None
