"""The command `python -m cvmfs`: parses, prints, and leaves the work to the library."""

from __future__ import annotations

import argparse
import logging
import os
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cvmfs.configuration import Request, load_settings
from cvmfs.entry import Kind
from cvmfs.errors import BadConfiguration, CvmfsError
from cvmfs.links import follow, joined, parts
from cvmfs.repository import Repository
from cvmfs.settings import open_repository
from cvmfs.tree import Located

REFUSED, WRONG_USE, FAILED = 16, 2, 1
"""Exit codes: the repository cannot be opened (as the real client's mount has it), the command line or the
configuration is wrong, something in the repository cannot be read."""

EXAMPLES = """\
examples:
  python -m cvmfs ls -l atlas.cern.ch /repo            by the configuration in /etc/cvmfs
  python -m cvmfs cat sft.cern.ch /README | head
  python -m cvmfs check lm.example.org --server http://web/cvmfs/@fqrn@ --key lm.example.org.pub
  python -m cvmfs mount atlas.cern.ch /mnt --proxy 'http://squid1:3128|http://squid2:3128;DIRECT'
  python -m cvmfs mount atlas.cern.ch /mnt --tag stable --set ARCH=x86_64 -o allow_other
  fusermount3 -u /mnt                                  end a mount
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m cvmfs",
        description="Read CernVM-FS repositories, verified.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    _common(common)
    mount = commands.add_parser("mount", parents=[common], help="mount a repository")
    mount.add_argument("mountpoint", metavar="MOUNTPOINT", help="a directory, or /dev/fd/N that is mounted already")
    mount.add_argument("--foreground", action="store_true", help="stay in the foreground, log to standard error")
    mount.add_argument("--log", type=Path, metavar="FILE", help="append messages to FILE when in the background")
    mount.add_argument("--with-process", type=int, metavar="PID", help="end when this process has ended")
    mount.add_argument("--inside", type=int, metavar="PID", help="mount in this process's namespaces, live as it does")
    mount.add_argument("--leases", type=Path, metavar="DIR", help="end when no process named in DIR lives any more")
    mount.add_argument("--idle", type=float, default=60.0, metavar="SECONDS", help="how long after that (60)")
    mount.add_argument("--client", metavar="PROGRAM", help="with --inside: serve it by the distribution's client")
    mount.add_argument("--pid-file", type=Path, metavar="FILE", help="write the serving process's id and start to FILE")
    mount.add_argument("-o", dest="options", action="append", default=[], metavar="OPTION[,...]", help="mount options")
    for name, text in (("ls", "list a directory"), ("stat", "describe an entry"), ("cat", "write files to output")):
        command = commands.add_parser(name, parents=[common], help=text)
        command.add_argument("paths", nargs="*" if name == "ls" else "+", metavar="PATH")
        if name == "ls":
            command.add_argument("-l", dest="long", action="store_true", help="with mode, owner, size and time")
            command.add_argument("-R", dest="recursive", action="store_true", help="with everything below")
    check = commands.add_parser("check", parents=[common], help="verify signatures, catalogs and all content")
    check.add_argument("--metadata", action="store_true", help="signatures and catalogs only")
    commands.add_parser("tags", parents=[common], help="list the named revisions")
    return top


def _common(common: argparse.ArgumentParser) -> None:
    common.add_argument("repository", metavar="REPOSITORY", help="fully qualified name, such as atlas.cern.ch")
    common.add_argument("--server", action="append", metavar="URL", help="root of the repository (@fqrn@: its name)")
    common.add_argument("--key", action="append", metavar="FILE", help="public master key, or a directory of them")
    common.add_argument("--proxy", metavar="PROXIES", help="as CVMFS_HTTP_PROXY: a|b;DIRECT, auto")
    common.add_argument("--cache", metavar="DIR", help="directory of the cache, for this reader alone")
    common.add_argument("--quota", metavar="MB", help="most the cache may hold (-1: no limit)")
    common.add_argument("--tag", metavar="TAG", help="show this named revision")
    common.add_argument("--revision", metavar="NUMBER", help="show this revision")
    common.add_argument("--root-hash", metavar="HASH", help="show the revision with this root catalog")
    common.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting or link variable")
    common.add_argument("--config", type=Path, metavar="FILE", help="configuration in TOML")
    common.add_argument("--etc", type=Path, default=Path("/etc/cvmfs"), metavar="DIR", help="instead of /etc/cvmfs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parsed(arguments)
    logging.basicConfig(level=logging.WARNING, format="cvmfs: %(message)s", stream=sys.stderr)
    try:
        request = Request(options.repository, _given(options), options.config, options.etc)
        if options.command == "mount":
            from cvmfs.mounting import mount  # the FUSE library is only needed here

            return mount(request, options)
        return _without_mount(request, options)
    except BadConfiguration as error:
        print(f"cvmfs: {error}", file=sys.stderr)  # noqa: T201 — a command speaks
        return WRONG_USE
    except CvmfsError as error:
        print(f"cvmfs: {error}", file=sys.stderr)  # noqa: T201
        return REFUSED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return 130


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The parsed command line; paths of `ls` may come after options, where argparse has given up on them."""
    reader = parser()
    options, rest = reader.parse_known_args(arguments)
    if rest and (options.command != "ls" or any(word.startswith("-") for word in rest)):
        reader.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command == "ls":
        options.paths = [*options.paths, *rest] or ["/"]
    return options


def _given(options: argparse.Namespace) -> dict[str, str]:
    """What the command line says, under the conventional names."""
    given: dict[str, str] = {}
    for word in options.set:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise BadConfiguration(f"--set {word[:80]!r}: not NAME=VALUE")
        given[name] = value
    if options.server:
        given["CVMFS_SERVER_URL"] = ";".join(options.server)
    if options.key:
        given["CVMFS_PUBLIC_KEY"] = ":".join(options.key)
    for name, value in (
        ("CVMFS_HTTP_PROXY", options.proxy),
        ("CVMFS_CACHE_DIR", options.cache),
        ("CVMFS_QUOTA_LIMIT", options.quota),
        ("CVMFS_REPOSITORY_TAG", options.tag),
        ("CVMFS_REPOSITORY_REVISION", options.revision),
        ("CVMFS_ROOT_HASH", options.root_hash),
    ):
        if value is not None:
            given[name] = value
    return given


def _without_mount(request: Request, options: argparse.Namespace) -> int:
    repository = open_repository(load_settings(request))
    try:
        if repository.revision.warning:
            _complain(f"shown is revision {repository.revision.number}, seen last: {repository.revision.warning}")
        if options.command == "tags":
            return _tags(repository)
        if options.command == "check":
            from cvmfs.checking import check

            return check(repository, content=not options.metadata)
        return max(_one(repository, options, text) for text in options.paths)
    finally:
        repository.close()


def _one(repository: Repository, options: argparse.Namespace, text: str) -> int:
    path = _path(text)
    try:
        shows_links = options.command == "stat" or (options.command == "ls" and options.long)
        found = follow(repository, path, last=not shows_links)
        if found is None:
            return _complain(f"{text}: no such file or directory")
        path, located = found
        if options.command == "cat":
            return _cat(repository, located, text)
        if options.command == "stat":
            return _stat(repository, path, located)
        return _ls(repository, options, path, located)
    except (CvmfsError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        return _complain(f"{text}: {error}")


def _path(text: str) -> bytes:
    names = parts(os.fsencode(text))
    if b".." in names:
        raise BadConfiguration(f"path {text[:80]!r}: may not contain ..")
    return joined(names)


def _complain(text: str) -> int:
    print(f"cvmfs: {text}", file=sys.stderr)  # noqa: T201
    return FAILED


def _print(data: bytes) -> None:
    sys.stdout.buffer.write(data + b"\n")


def _cat(repository: Repository, located: Located, text: str) -> int:
    if located.entry.kind is not Kind.FILE:
        return _complain(f"{text}: not a file")
    for piece in repository.read(located):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
    return 0


def _ls(repository: Repository, options: argparse.Namespace, path: bytes, located: Located) -> int:
    if located.entry.kind is not Kind.DIRECTORY:
        _print(_line(repository, path, located, options.long))
        return 0
    if options.recursive:
        for below, found in repository.tree.walk(path):
            _print(_line(repository, below or b"/", found, options.long))
        return 0
    for found in repository.tree.listing(path):
        _print(_line(repository, found.entry.name, found, options.long))
    return 0


def _line(repository: Repository, name: bytes, located: Located, long: bool) -> bytes:
    if not long:
        return name
    entry = located.entry
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.mtime))
    size = len(repository.target(located)) if entry.kind is Kind.LINK else entry.size
    line = f"{stat.filemode(entry.mode)} {entry.nlink:3} {entry.uid:5} {entry.gid:5} {size:12} {when} ".encode() + name
    return line + b" -> " + repository.target(located) if entry.kind is Kind.LINK else line


def _stat(repository: Repository, path: bytes, located: Located) -> int:
    from cvmfs.magic import magic_attribute

    entry = located.entry
    size = len(repository.target(located)) if entry.kind is Kind.LINK else entry.size
    fields: list[tuple[str, object]] = [
        ("path", os.fsdecode(path or b"/")),
        ("type", entry.kind),
        ("mode", f"{stat.S_IMODE(entry.mode):04o}"),
        ("size", size),
        ("mtime", f"{entry.mtime}.{entry.mtime_ns:09d}"),
        ("uid", entry.uid),
        ("gid", entry.gid),
        ("nlink", entry.nlink),
        ("catalog", located.catalog.hash),
    ]
    if entry.kind is Kind.LINK:
        fields.append(("target", os.fsdecode(repository.target(located))))
    for name in ("user.hash", "user.compression", "user.chunks", "user.external_file", "xfsroot.rawlink"):
        value = magic_attribute(repository, located, name)
        if value is not None:
            fields.append((name, os.fsdecode(value)))
    fields += [(os.fsdecode(name), value.hex()) for name, value in sorted(repository.xattrs(located).items())]
    for label, text in fields:
        _print(os.fsencode(f"{label}: {text}"))
    return 0


def _tags(repository: Repository) -> int:
    for tag in repository.tags():
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(tag.timestamp))
        _print(os.fsencode(f"{tag.name}\t{tag.revision}\t{when}\t{tag.root}\t{tag.description}"))
    return 0
