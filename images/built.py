"""What is known of an image that was built, and its record on disk."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_RECORD_LIMIT = 16_000_000


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """A package of the distribution in an image."""

    name: str
    version: str
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """An OCI archive. `image_id` is `sha256:…`, as engines show it; sizes in bytes, times in Unix seconds."""

    name: str
    path: Path
    image_id: str
    size_bytes: int
    source_date_epoch: int
    recipe_digest: str
    packages: tuple[Package, ...]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"path": str(self.path)}


def write_record(image: BuiltImage, path: Path) -> None:
    """Write the record; it says nothing of where the image lies."""
    record = image.plain()
    del record["path"]
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def read_record(path: Path, image: Path) -> BuiltImage | None:
    """The record of the file `image`; None if there is no such record, or it is none of ours."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_RECORD_LIMIT + 1)
        record = json.loads(data) if len(data) <= _RECORD_LIMIT else {}
        packages = tuple(Package(**{key: str(value) for key, value in each.items()}) for each in record["packages"])
        return BuiltImage(
            name=str(record["name"]),
            path=image,
            image_id=str(record["image_id"]),
            size_bytes=int(record["size_bytes"]),
            source_date_epoch=int(record["source_date_epoch"]),
            recipe_digest=str(record["recipe_digest"]),
            packages=packages,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
