"""What an image lacks to be a machine's: its commands are looked for in a machine made of it."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lmd import engines
from lmd.config.models import Config
from lmd.places import Places
from runtimes.contract import ConsoleChunk, Image, Logs, Network, Rejected, Runtime, Spec

_COMMANDS = """
cat chmod date dd head id ln ls mkdir mkfifo mount mv od printf readlink rm sed sleep stat touch tr uname wc
"""
SUITE = tuple(_COMMANDS.split())
"""The commands by which the environment's suite looks around, beside a shell's own."""

ADVICE = {
    "unshare": "payloads cannot start containers of their own (util-linux has it)",
    "lm-payload": "payloads write their shutdown message themselves (lm image build copies it in)",
    "curl or wget": "payloads cannot fetch anything by themselves",
    "certificates": "no server can be trusted (ca-certificates has them)",
    "users": "there is no /etc/passwd: programs that ask for their user's name fail",
    "/usr/bin/env": "scripts that begin with #!/usr/bin/env do not run",
    "/tmp": "programs that make temporary files fail",  # noqa: S108  the image's
    "/root": "root has no home directory",
}
"""What payloads usually want, by what they cannot do without it. Programs are looked for as files in the PATH: any
program may start them, not only a shell that has some of them built in."""

_LOOK = """
for name in "$@"; do command -v "$name" >/dev/null 2>&1 && echo "$name"; done
is_there() { for folder in $(IFS=:; echo $PATH); do if [ -x "$folder/$1" ]; then return 0; fi; done; return 1; }
for name in unshare lm-payload; do if is_there $name; then echo $name; fi; done
if is_there curl || is_there wget; then echo "curl or wget"; fi
for path in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
    if [ -s $path ]; then echo certificates; fi
done
if [ -s /etc/passwd ]; then echo users; fi
if [ -x /usr/bin/env ]; then echo /usr/bin/env; fi
for path in /tmp /root; do if [ -d $path ]; then echo $path; fi; done
echo looked
"""
_MOST = 100_000


@dataclass(frozen=True, slots=True)
class Lack:
    """What an image has not, and what cannot be done with it therefore; `needed`: by the environment's suite."""

    what: str
    why: str
    needed: bool


async def lacks(runtime: Runtime, image: Image, owner: str) -> list[Lack]:
    """What `image` lacks, the needed first. Raises the contract's errors."""
    said = await _looked(runtime, image, owner)
    if said is None:
        return [Lack("/bin/sh", "it cannot run a script: its types need an entrypoint, and it cannot be tried", True)]
    found = set(said.splitlines())
    missing = [Lack(name, "the suite cannot look around", True) for name in SUITE if name not in found]
    return missing + [Lack(name, why, False) for name, why in ADVICE.items() if name not in found]


async def _looked(runtime: Runtime, image: Image, owner: str) -> str | None:
    """What the looking machine printed; None if the image has no shell that runs to the end."""
    spec = Spec(
        id=f"lmi-{secrets.token_hex(6)}",
        owner=owner,
        space="image.invalid",
        machinetype="image",
        image=image,
        entrypoint=("/bin/sh", "-c", _LOOK, "sh"),
        args=SUITE,
        network=Network.NONE,
        user="0:0",
        lifetime_seconds=60,
    )
    try:
        try:
            await runtime.create(spec)
        except Rejected as error:
            if "/bin/sh" in str(error) or "executable file" in str(error):
                return None
            raise
        text = b"".join([chunk.data async for chunk in _console(runtime, spec.id)])[:_MOST].decode(errors="replace")
        return text if text.endswith("looked\n") else None
    finally:
        await runtime.destroy(spec.id)


async def _console(runtime: Runtime, machine_id: str) -> AsyncIterator[ConsoleChunk]:
    if isinstance(runtime, Logs):
        async for chunk in runtime.console(machine_id, follow=True):
            yield chunk


@asynccontextmanager
async def healthy(name: str, config: Config, places: Places) -> AsyncIterator[Runtime]:
    """The runtime `name`. Raises `NoRuntime`, and `NotAvailable` if it is not healthy."""
    from lmd.conformance.ground import capabilities

    await capabilities(name, config, places)
    async with engines.opened(name, config, places) as runtime:
        yield runtime
