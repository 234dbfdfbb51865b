"""Container images of many layers, written by hand, so that they can hold what no builder would write."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import zstandard

Layer = Sequence[tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]]
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    "+gzip": gzip.compress,
    "+zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


def member(name: str, kind: bytes = tarfile.REGTYPE, **attributes: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.mode, made.mtime = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644, 1_600_000_000
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


def file(name: str, content: bytes = b"", **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, size=len(content), **attributes), content


def folder(name: str, **attributes: Any) -> tarfile.TarInfo:
    return member(name, tarfile.DIRTYPE, **attributes)


def link(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> tarfile.TarInfo:
    return member(name, tarfile.LNKTYPE, linkname=target)


def pack(layer: Layer) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for each in layer:
            head, content = each if isinstance(each, tuple) else (each, b"")
            archive.addfile(head, io.BytesIO(content))
    return out.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def write_layout(
    folder: Path,
    layers: Sequence[Layer | bytes],
    compression: str = "",
    config: Mapping[str, Any] | None = None,
    architecture: str = "amd64",
) -> str:
    """An OCI image layout of these layers (or of what takes the place of one); returns the image's id."""
    (folder / "blobs/sha256").mkdir(parents=True)

    def blob(data: bytes, media: str) -> dict[str, Any]:
        (folder / "blobs" / digest(data).replace(":", "/")).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{media}", "digest": digest(data), "size": len(data)}

    packed = [layer if isinstance(layer, bytes) else pack(layer) for layer in layers]
    stored = [blob(COMPRESSIONS[compression](data), f"layer.v1.tar{compression}") for data in packed]
    rootfs = {"type": "layers", "diff_ids": [digest(data) for data in packed]}
    document = {"architecture": architecture, "os": "linux", "config": dict(config or {}), "rootfs": rootfs}
    described = json.dumps(document).encode()
    manifest = {"schemaVersion": 2, "config": blob(described, "config.v1+json"), "layers": stored}
    entry = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "localhost/lmd-test/layered:1"}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return digest(described)
