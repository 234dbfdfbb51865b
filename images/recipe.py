"""Recipes: what an image is made of, in a directory with a `recipe.toml` and the files it names."""

import hashlib
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from images.archive import PATH
from images.entries import Entry, file, relative, symlink
from images.errors import ImageError

ASSEMBLY = 1
"""Goes up when the same recipe is assembled in another way, so that no image of the old way is taken from the cache."""
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
FILE_LIMIT = 64_000_000
_RECIPE = "recipe.toml"
_TEXT_LIMIT = 200_000


def _absolute(path: str) -> str:
    if not path.startswith("/") or path.rstrip("/") == "":
        raise ValueError("expected an absolute path in the image")
    try:
        return "/" + relative(path)
    except ImageError as error:
        raise ValueError(str(error)) from None


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("expected one line without control characters")
    return text


Line = Annotated[str, AfterValidator(_line), Field(max_length=4096)]
Package = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]{1,100}(:[a-z0-9-]{1,20})?(=[A-Za-z0-9.+~:-]{1,100})?$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileSettings(_Table):
    """One file of the image: its text, a file of the recipe's directory, or a symbolic link."""

    text: str | None = Field(None, max_length=_TEXT_LIMIT)
    source: str | None = Field(None, max_length=4096)
    link: Line | None = None
    mode: Annotated[str, Field(pattern=r"^0?[0-7]{3,4}$")] = "0644"

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.text, self.source, self.link)) != 1:
            raise ValueError("expected one of text, source and link")
        return self


class RunSettings(_Table):
    """What the image says of the command it runs."""

    environment: dict[Line, Line] = Field(default_factory=lambda: {"PATH": PATH}, max_length=1000)
    entrypoint: Annotated[list[Line], Field(max_length=1000)] = []
    command: Annotated[list[Line], Field(max_length=1000)] = ["/bin/sh"]
    user: Line = ""
    working_directory: Annotated[Line, AfterValidator(lambda path: path if path == "/" else _absolute(path))] = "/"
    labels: dict[Line, Line] = Field(default_factory=dict, max_length=1000)


class RecipeSettings(_Table):
    """A `recipe.toml`."""

    description: Line
    kind: Literal["debian", "busybox", "micro", "vm"]
    suite: str | None = Field(None, pattern=r"^[a-z][a-z0-9-]{0,40}$")
    variant: Literal["essential", "apt", "minbase"] = "essential"
    packages: Annotated[list[Package], Field(max_length=10_000)] = []
    mirrors: Annotated[list[Annotated[Line, Field(pattern=r"^(https?://|deb )")]], Field(max_length=20)] = []
    leave_out: Annotated[list[Annotated[Line, Field(pattern=r"^/\S+$")]], Field(max_length=1000)] = []
    keep: Annotated[list[Annotated[Line, Field(pattern=r"^/\S+$")]], Field(max_length=1000)] = []
    files: dict[Annotated[Line, AfterValidator(_absolute)], FileSettings] = Field(default_factory=dict)
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.kind != "busybox" and self.suite is None:
            raise ValueError(f'kind "{self.kind}" needs a suite, such as "bookworm"')
        debian = {"suite", "variant", "packages", "mirrors", "leave_out", "keep"} & self.model_fields_set
        if self.kind == "busybox" and debian:
            raise ValueError(f'kind "busybox" knows no {", ".join(sorted(debian))}')
        if self.kind in ("micro", "vm") and "variant" in self.model_fields_set:
            raise ValueError(f'kind "{self.kind}" knows no variant')
        return self


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe that was read and checked; `files` hold their content by their path in the image."""

    name: str
    settings: RecipeSettings
    files: dict[str, Entry]
    content_digest: str

    def digest(self, *inputs: str) -> str:
        """SHA-256 in hex over all that decides what is built, but the versions of packages that a mirror has."""
        parts = [str(ASSEMBLY), self.name, self.settings.model_dump_json(), self.content_digest, *inputs]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def builtin() -> dict[str, Path]:
    """The directories of the recipes that come with lmd, by their names."""
    return {path.parent.name: path.parent for path in sorted(Path(__file__).parent.glob(f"*/{_RECIPE}"))}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name, or in the directory `name` if it holds a slash. Raises ImageError."""
    if "/" in name or name in (".", ".."):
        return load(Path(name))
    folder = builtin().get(name)
    if folder is None:
        known = ", ".join(builtin())
        raise ImageError(f"recipe {name!r}: there is none; choose one of {known}, or give a directory, as in ./{name}")
    return load(folder)


def load(folder: Path) -> Recipe:
    """Read the recipe in a directory; it is named like the directory. Raises ImageError."""
    path = folder / _RECIPE
    name = folder.resolve().name
    if not NAME.fullmatch(name):
        raise ImageError(f"recipe {folder}: the directory names the image: a-z, 0-9, hyphen, at most 63 characters")
    try:
        settings = RecipeSettings.model_validate(tomllib.loads(_read(path, _TEXT_LIMIT).decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ImageError(f"{path}: is no TOML: {error}") from error
    except ValidationError as error:
        raise ImageError(f"{path}: {_findings(error)}") from error
    hashing = hashlib.sha256()
    files: dict[str, Entry] = {}
    for target, wanted in sorted(settings.files.items()):
        data, files[target] = _entry(folder, target, wanted)
        hashing.update(hashlib.sha256(data).digest())
    return Recipe(name, settings, files, hashing.hexdigest())


def _entry(folder: Path, target: str, wanted: FileSettings) -> tuple[bytes, Entry]:
    if wanted.link is not None:
        return b"", symlink(wanted.link)
    if wanted.text is not None:
        data = wanted.text.encode()
    else:
        source = (folder / str(wanted.source)).resolve()
        if not source.is_relative_to(folder.resolve()):
            raise ImageError(f"{folder / _RECIPE}: files.{target}: {wanted.source} is outside the recipe's directory")
        data = _read(source, FILE_LIMIT)
    return data, file(data, int(wanted.mode, 8))


def _read(path: Path, limit: int) -> bytes:
    try:
        if not path.is_file():
            raise ImageError(f"{path}: there is no such file")
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise ImageError(f"{path}: is larger than {limit} bytes")
    return data


def _findings(error: ValidationError) -> str:
    """All that is wrong, in one line: `files./etc/motd: expected one of text, source and link; kind: …`."""
    found = []
    for each in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in each["loc"])
        what = "unknown key" if each["type"] == "extra_forbidden" else each["msg"].removeprefix("Value error, ")
        found.append(f"{where}: {what}" if where else what)
    return " ".join("; ".join(found).split())
