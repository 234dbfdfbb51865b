"""Commands in the user namespace that rootless Podman gives its containers."""

import asyncio
import subprocess
from collections.abc import Sequence

from runtimes.contract import Unavailable

RECLAIM = 'chown -R -h -P 0:0 -- "$1" && chmod -R u+rwX -- "$1"'
"""Inside the user's namespace its root is the caller, who then may read and remove all below the path $1."""


async def run(command: Sequence[str]) -> None:
    """Run a command in the user namespace that rootless Podman gives its containers. Raises `Unavailable`."""
    process = await asyncio.create_subprocess_exec(
        "podman", "unshare", *command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, errors = await process.communicate()
    if process.returncode:
        text = errors.decode(errors="replace").strip().splitlines()
        raise Unavailable(f"podman unshare {command[0]}: {text[-1][:200] if text else process.returncode}")
