"""What a request is answered, from its card and its path alone. Pure: what has to be read or stored is only named.

The two addresses stay apart, as Vac has them: images close the metadata's to their users and leave the features open.
"""

from dataclasses import dataclass
from enum import Enum

from lmd.metadata import ec2, openstack
from lmd.metadata.card import Card


class Side(Enum):
    """The address that was called."""

    FEATURES = "features"
    METADATA = "metadata"


class Source(Enum):
    """Where the content of an answer is."""

    TEXT = "text"
    USER_DATA = "user_data"
    TOKEN = "token"  # noqa: S105  a word of the protocol
    LISTING = "listing"  # of a directory of the machine, as Vac's page of links
    FILE = "file"  # `name` in a directory of the machine
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send: a text, or something of the machine (`directory` and `name` below its own directory)."""

    source: Source
    text: str = ""
    directory: str = ""
    name: str = ""
    kind: str = "text/plain"


FEATURES = ("machinefeatures", "jobfeatures")
JOBOUTPUTS = "joboutputs"
TOKEN_PATH = ("latest", "api", "token")


def answer(side: Side, method: str, path: tuple[str, ...], card: Card, has_user_data: bool, seed: bytes) -> Answer:
    """What a GET or PUT of a path gets. Raises `NotThere`, or `NotAllowed` for a method that is not for it."""
    if side is Side.METADATA:
        return _metadata(method, path, card, has_user_data, seed)
    return _features(method, path)


class NotThere(Exception):
    """404."""


class NotAllowed(Exception):
    """405; its text lists the methods that are allowed."""


def _features(method: str, path: tuple[str, ...]) -> Answer:
    match path:
        case (directory,) | (directory, "") if directory in (*FEATURES, JOBOUTPUTS):
            _only(method, "GET")
            return Answer(Source.LISTING, directory=directory, kind="text/html")
        case (directory, name) if directory in FEATURES:
            _only(method, "GET")
            if name.startswith("."):  # a file that is being written
                raise NotThere
            return Answer(Source.FILE, directory=directory, name=name)
        case ("joboutputs", name):
            _only(method, "GET", "PUT")
            source = Source.UPLOAD if method == "PUT" else Source.FILE
            return Answer(source, directory=JOBOUTPUTS, name=name, kind="application/octet-stream")
    raise NotThere


def _metadata(method: str, path: tuple[str, ...], card: Card, has_user_data: bool, seed: bytes) -> Answer:
    if path == TOKEN_PATH:
        _only(method, "PUT")
        return Answer(Source.TOKEN)
    _only(method, "GET")
    match path:
        case () | ("",):
            return Answer(Source.TEXT, "\n".join(ec2.VERSIONS))
        case ("openstack",) | ("openstack", ""):
            return Answer(Source.TEXT, "\n".join(openstack.VERSIONS) + "\n")
        case ("openstack", version, *rest) if ec2.is_version(version):
            if rest in ([openstack.USER_DATA], [ec2.USER_DATA]) and has_user_data:
                return Answer(Source.USER_DATA, kind="application/octet-stream")
            text = openstack.answer(card, tuple(rest), has_user_data=has_user_data, seed=seed)
            kind = "application/json" if rest and rest[0].endswith(".json") else "text/plain"
        case (version, *rest) if ec2.is_version(version):
            if rest in ([ec2.USER_DATA], [ec2.USER_DATA, ""]) and has_user_data:
                return Answer(Source.USER_DATA, kind="application/octet-stream")
            text = ec2.answer(card, tuple(rest), has_user_data=has_user_data)
            kind = "application/json" if rest == ["meta-data.json"] else "text/plain"
        case _:
            raise NotThere
    if text is None:
        raise NotThere
    return Answer(Source.TEXT, text, kind=kind)


def _only(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise NotAllowed(", ".join(["HEAD", *allowed] if "GET" in allowed else allowed))
