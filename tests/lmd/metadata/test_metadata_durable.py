"""What is answered 201 is on the disk: its content before its name, its name before the answer."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lmd.metadata.card import Card
from lmd.metadata.outputs import Uploads


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    for name in ("joboutputs", "incoming"):
        (tmp_path / name).mkdir()
    return tmp_path


def put(machine: Path, name: str, content: bytes) -> None:
    card = Card(
        id="m",
        job_id="j",
        space="s",
        machinetype="t",
        factory="f",
        address="169.254.1.1",
        mac="",
        variables={},
        outputs_bytes=10**6,
        outputs_files=10,
    )

    async def pieces() -> AsyncIterator[bytes]:
        yield content

    async def upload() -> None:
        with ThreadPoolExecutor(1) as threads:
            await Uploads(threads).put(card, top, name, len(content), pieces)

    top = os.open(machine, os.O_PATH | os.O_DIRECTORY)
    try:
        asyncio.run(upload())
    finally:
        os.close(top)


def test_content_then_name_are_forced_to_the_disk(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        fsync(descriptor)
        seen.append(
            f"{path.name if path.is_dir() else path.parent.name}: {path.read_bytes() if path.is_file() else ''}"
        )

    def noted_rename(*words: str, **where: int) -> None:
        rename(*words, **where)
        seen.append("rename")

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    put(machine, "result", b"42")
    assert seen == ["incoming: b'42'", "rename", "joboutputs: "]


def test_a_disk_that_does_not_take_it_is_no_success(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    put(machine, "result", b"old")
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="the disk is broken"):
        put(machine, "result", b"new")
    assert (machine / "joboutputs/result").read_bytes() == b"old"
    assert list((machine / "incoming").iterdir()) == []
