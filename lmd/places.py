"""The directories that lmd uses on this host: root's under /var and /run, an ordinary user's by XDG."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmd.metadata.account import account


class PlaceError(Exception):
    """A directory cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Places:
    """State that lasts, state that ends with a reboot, and what can be made again."""

    state: Path
    run: Path
    cache: Path

    @property
    def machines(self) -> Path:
        """Where machine directories are."""
        return self.state / "machines"

    def make(self) -> "Places":
        """Create what is missing. What machines have is behind a directory of 0700: engines bind it as root, and no
        other account of this host can reach the joboutputs, which any user of the machine may write. Root lets one
        account pass through it, the metadata server's.

        Raises `PlaceError` if that fails or a directory belongs to another user.
        """
        for path in (self.state, self.run, self.cache, self.machines):
            try:
                path.mkdir(mode=0o711, parents=True, exist_ok=True)
                if path == self.machines:
                    account(os.geteuid()).share(path, 0o710 if os.geteuid() == 0 else 0o700)
                found = path.stat()
            except OSError as error:
                raise PlaceError(f"{path}: cannot be made: {error.strerror}") from error
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise PlaceError(f"{path}: belongs to user {found.st_uid}, not to {os.geteuid()}; remove or rename it")
        return self


def places(uid: int, environment: Mapping[str, str]) -> Places:
    """Where this user's files are. LMD_STATE_DIR, LMD_RUN_DIR and LMD_CACHE_DIR in the environment win."""
    if uid == 0:
        state, run, cache = Path("/var/lib/lmd"), Path("/run/lmd"), Path("/var/cache/lmd")
    else:
        home = Path(environment.get("HOME") or "/")
        state = Path(environment.get("XDG_STATE_HOME") or home / ".local/state") / "lmd"
        cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache") / "lmd"
        runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"
        # Without a login session there may be no run-time directory: /tmp is what Podman takes then, and so do we.
        run = Path(runtime) / "lmd" if os.access(runtime, os.W_OK) else Path(f"/tmp/lmd-{uid}")  # noqa: S108
    return Places(
        Path(environment.get("LMD_STATE_DIR") or state),
        Path(environment.get("LMD_RUN_DIR") or run),
        Path(environment.get("LMD_CACHE_DIR") or cache),
    )
