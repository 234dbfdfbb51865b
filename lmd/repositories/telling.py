"""What a guest with a CernVM-FS client of its own is told in its metadata: the site's proxies, servers and keys."""

from collections.abc import Iterable
from pathlib import Path

from lmd.config.models import Cvmfs
from lmd.places import Places
from lmd.repositories.provider import ALL, EXTRA, NoRepositories, reader_file

CONVENTIONAL = Path("/etc/cvmfs")
KEY_BYTES, KEYS = 100_000, 100


def told(names: Iterable[str], options: Cvmfs, places: Places, etc: Path = CONVENTIONAL) -> dict[str, str]:
    """Settings under the client's own names; a repository's are `NAME:SETTING`. Values are as `/etc/cvmfs` has them.

    `CVMFS_HTTP_PROXY` and `CVMFS_REPOSITORIES` (comma-separated), and of each repository `CVMFS_SERVER_URL` and
    `CVMFS_PUBLIC_KEY` (the keys themselves, PEM one after the other), where this host knows them. `*` names all that
    the guest knows itself. Raises `NoRepositories`.
    """
    try:
        from cvmfs.configuration import Request, load_values
        from cvmfs.errors import CvmfsError
    except ImportError as error:
        raise NoRepositories(f"CernVM-FS: {error.name} is not installed: {EXTRA}") from error
    wanted = [name for name in names if name != ALL]
    given = {"CVMFS_HTTP_PROXY": ";".join(options.http_proxy)} if options.http_proxy else {}
    found = {"CVMFS_REPOSITORIES": ",".join(wanted)} if wanted else {}
    try:
        file = reader_file(options, places)
        for name in wanted:
            values = load_values(Request(name, {}, file, etc))
            given.setdefault("CVMFS_HTTP_PROXY", values["CVMFS_HTTP_PROXY"])
            if values.get("CVMFS_SERVER_URL"):
                found[f"{name}:CVMFS_SERVER_URL"] = values["CVMFS_SERVER_URL"]
            if keys := _keys(values.get("CVMFS_PUBLIC_KEY") or values.get("CVMFS_KEYS_DIR", "")):
                found[f"{name}:CVMFS_PUBLIC_KEY"] = keys
    except (CvmfsError, OSError, ValueError) as error:
        raise NoRepositories(f"CernVM-FS: what the guest's client has to know cannot be read: {error}") from error
    return given | found


def _keys(paths: str) -> str:
    """The public keys of files and directories. Raises OSError, and ValueError for what is no public key."""
    files: list[Path] = []
    for path in map(Path, filter(None, paths.split(":"))):
        files += sorted(path.glob("*.pub")) if path.is_dir() else [path]
    texts = []
    for file in files[:KEYS]:
        with file.open("rb") as opened:
            text = opened.read(KEY_BYTES).decode("ascii", "replace").strip()
        if not text.startswith("-----BEGIN PUBLIC KEY-----"):  # a private key here by mistake goes to no machine
            raise ValueError(f"{file} is no public key")
        texts.append(f"{text}\n")
    return "".join(texts)
