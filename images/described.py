"""What a container image says of itself: its layers, and the command, variables and user that it is made for."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from images.errors import ImageError

MOST_LAYERS = 500
_DIGEST = r"^sha256:[0-9a-f]{64}$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """An image's configuration. `image_id` and `diff_ids` (its layers, the lowest first) are `sha256:…`.

    `user` is `NAME`, `UID`, `NAME:GROUP` or the like, empty for root; an empty `working_directory` is `/`.
    """

    image_id: str
    architecture: str
    diff_ids: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_directory: str = ""

    def plain(self) -> dict[str, Any]:
        """For JSON; `from_plain` reads it back."""
        return asdict(self)


def from_plain(value: object) -> Described:
    """What `plain` gave. Raises ValueError for anything else."""
    return TypeAdapter(Described).validate_python(value)


def _words(value: object) -> object:
    """Ancient images hold one string where a list of words is meant."""
    return [] if value is None else [value] if isinstance(value, str) else value


def _plain(value: str) -> str:
    if "\0" in value:
        raise ValueError("may not contain a NUL character")
    return value


_Text = Annotated[str, Field(max_length=1_000_000), AfterValidator(_plain)]
_Words = Annotated[list[_Text], BeforeValidator(_words), Field(max_length=10_000)]
_MaybeText = Annotated[_Text, BeforeValidator(lambda value: "" if value is None else value)]


class _Run(BaseModel):
    model_config = ConfigDict(strict=True)

    environment: _Words = Field([], alias="Env")
    entrypoint: _Words = Field([], alias="Entrypoint")
    command: _Words = Field([], alias="Cmd")
    user: _MaybeText = Field("", alias="User")
    working_directory: _MaybeText = Field("", alias="WorkingDir")


class _Layers(BaseModel):
    model_config = ConfigDict(strict=True)

    diff_ids: Annotated[list[Annotated[str, Field(pattern=_DIGEST)]], Field(max_length=MOST_LAYERS)]


class _Document(BaseModel):
    """The part of the image-spec's configuration (1.0) that matters here; Docker's has the same names."""

    model_config = ConfigDict(strict=True)

    architecture: _Text = ""
    os: _Text = "linux"
    config: Annotated[_Run, BeforeValidator(lambda value: {} if value is None else value)] = _Run()
    rootfs: _Layers


def describe(document: bytes) -> Described:
    """The configuration of an image from its JSON. Raises ValueError saying what is wrong, in one line."""
    try:
        read = _Document.model_validate_json(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"its configuration is wrong: {where or 'it'}: {first['msg']}"[:300]) from error
    if read.os != "linux":
        raise ValueError(f"it is for {read.os[:40]!r}, not for linux")
    run = read.config
    return Described(
        image_id=f"sha256:{hashlib.sha256(document).hexdigest()}",
        architecture=read.architecture,
        diff_ids=tuple(read.rootfs.diff_ids),
        entrypoint=tuple(run.entrypoint),
        command=tuple(run.command),
        environment={name: value for name, found, value in (each.partition("=") for each in run.environment) if found},
        user=run.user,
        working_directory=run.working_directory,
    )


def for_architecture(described: Described, wanted: str) -> None:
    """Raises ImageError if the image says that it is for another architecture than `wanted`."""
    if described.architecture not in ("", wanted):
        raise ImageError(f"image {described.image_id[:19]} is for {described.architecture[:40]}, needed is {wanted}")
