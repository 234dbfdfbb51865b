"""Layers laid over each other: as the engines do, and never outside of the root."""

import io
import os
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images_layered import Layer, file, folder, hard, link, member, pack, write_layout

from images.errors import ImageError
from images.unpack import Limits, Unpacking

LAYERS: list[Layer] = [
    [
        folder("./", mode=0o755),
        folder("usr"),
        folder("usr/lib"),
        file("usr/lib/libc", b"old"),
        link("lib", "usr/lib"),
        folder("etc", mode=0o711),
        file("etc/gone", b"x"),
        file("etc/kept", b"kept"),
        file("etc/setuid", b"kept", uid=1, gid=2, mode=0o4750),
        folder("var/cache"),
        file("var/cache/lower", b"x"),
        folder("var/cache/deep"),
        file("var/cache/deep/lower", b"x"),
        file("turns", b"a file"),
        folder("shrinks"),
        file("shrinks/in", b"x"),
        link("inside", "usr"),
        link("absolute", "/usr/lib"),
        link("up", "../../../../usr"),
        file("absolute/of-the-same-layer", b"through an absolute link"),
        file("up/of-the-same-layer", b"through one that goes up"),
        member("fifo", tarfile.FIFOTYPE),
        file("with space and \u00e9\n", b"odd"),
    ],
    [
        file("lib/libm", b"beyond a link of a lower layer"),
        file("inside/.wh.lib"),
        file("etc/kept/in", b"beyond a file of a lower layer"),
        file("etc/.wh.gone"),
        file("etc/.wh.never-there"),
        file("nowhere/.wh.x"),
        file("etc/first", b"first"),
        hard("etc/second", "etc/first"),
        hard("etc/also", "lib/libm"),
        folder("turns"),
        file("turns/in", b"x"),
        file("shrinks", b"a file now"),
        file("var/cache/deep/upper", b"upper"),
        file("var/cache/.wh..wh..opq"),
        file("var/cache/upper", b"upper"),
        file("usr/lib/libc", b"new"),
        file(".wh..wh.plnk"),
    ],
    [file("etc/first", b"replaced"), folder("etc", mode=0o755)],
]


def unpacked(root: Path, *layers: Layer | bytes, limits: Limits = Limits()) -> Unpacking:  # noqa: B008
    root.mkdir(exist_ok=True)
    unpacking = Unpacking(root, limits)
    for layer in layers:
        unpacking.layer(io.BytesIO(layer if isinstance(layer, bytes) else pack(layer)))
    return unpacking


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """What is below `root`, with the owners, modes, times, links and contents."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content: object = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        content = path.readlink() if path.is_symlink() else content
        mode = 0 if path.is_symlink() else stat.S_IMODE(status.st_mode)
        kind = stat.S_IFMT(status.st_mode)
        links = status.st_nlink if path.is_file() else 0
        time = 0 if path.is_dir() else int(status.st_mtime)
        found[str(path.relative_to(root))] = (kind, mode, status.st_uid, status.st_gid, links, time, content)
    return found


def test_layers_are_laid_over_each_other_as_podman_does(tmp_path: Path, podman_command) -> None:
    unpacked(tmp_path / "ours", *LAYERS)
    write_layout(tmp_path / "layout", LAYERS)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    image = podman_command("pull", "--quiet", f"oci:{tmp_path / 'layout'}").strip()
    container = podman_command("create", "--net=none", image, "/none").strip()
    podman_command("export", "--output", tmp_path / "export.tar", container)
    subprocess.run(["tar", "-xpf", tmp_path / "export.tar", "-C", theirs, "--numeric-owner"], check=True)
    ours, made_by_engine = tree(tmp_path / "ours"), tree(theirs)
    engines = {name for name in made_by_engine if name.split("/")[0] in ("dev", "proc", "sys", "run")}
    engines |= {"etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"}
    assert {n: e for n, e in made_by_engine.items() if n not in engines} == ours
    assert ours["usr/lib/of-the-same-layer"][6] == b"through an absolute link"
    assert ours["etc/setuid"][:4] == (stat.S_IFREG, 0o4750, 1, 2)


def test_what_lower_layers_have_is_taken_away_and_what_the_same_layer_has_is_not(tmp_path: Path) -> None:
    unpacked(tmp_path / "root", *LAYERS)
    names = set(tree(tmp_path / "root"))
    assert {"var/cache/upper", "var/cache/deep/upper", "etc/second"} <= names
    assert not {"etc/gone", "var/cache/lower", "var/cache/deep/lower"} & names
    assert not [name for name in names if ".wh." in name]
    assert (tmp_path / "root/etc/second").read_bytes() == b"first", "a hard link outlives its other name"


def test_a_whiteout_of_a_directory_spares_what_its_own_layer_has_put_there(tmp_path: Path) -> None:
    upper = [file("d/new", b"x"), file(".wh.d")]
    unpacked(tmp_path / "root", [folder("d"), file("d/old")], upper)
    assert set(tree(tmp_path / "root")) == {"d", "d/new"}


def test_device_nodes_are_left_out(tmp_path: Path) -> None:
    nodes = [member("null", tarfile.CHRTYPE, devmajor=1, devminor=3), member("disk", tarfile.BLKTYPE)]
    unpacked(tmp_path / "root", [*nodes, file("file")])
    assert set(tree(tmp_path / "root")) == {"file"}


def test_capabilities_and_users_attributes_are_kept_and_those_of_overlays_are_not(tmp_path: Path) -> None:
    value = (b"\x01\x00\x00\x02\x00\x04\x00\x00" + bytes(12)).decode("utf-8", "surrogateescape")
    names = {"security.capability": value, "user.own": "x", "user.overlay.opaque": "y", "trusted.overlay.opaque": "y"}
    headers = {f"SCHILY.xattr.{name}": text for name, text in names.items()}
    unpacked(tmp_path / "root", [(member("ping", size=1, pax_headers=headers), b"x")])
    kept = set(os.listxattr(tmp_path / "root/ping"))
    assert "security.capability" in kept
    assert not {"trusted.overlay.opaque", "user.overlay.opaque"} & kept


@pytest.mark.parametrize(
    "layer",
    [
        [file("../out")],
        [file("a/../../out")],
        [hard("in", "../out")],
        [file("f"), hard("self", "self")],
        [hard("in", "nowhere")],
        [folder("d"), hard("in", "d")],
        [link("a", "b"), link("b", "a"), file("a/in")],
        [link("to-nothing", ""), file("x")],
        [file("f", b"x"), file("f/in")],
        [file("x" * 300)],
        [folder("/".join(["d"] * 300))],
        [file("owned", uid=2**32 - 1)],
        [member("sparse", b"\x7f")],
        [file(".wh...")],
    ],
    ids=lambda layer: layer[-1][0].name[:10] if isinstance(layer[-1], tuple) else layer[-1].name[:10],
)
def test_what_cannot_be_is_refused_in_one_line_that_names_it(tmp_path: Path, layer: Layer) -> None:
    (tmp_path / "out").write_bytes(b"the host's")
    with pytest.raises(ImageError, match=r"^(path|/|has|cannot)[^\n]+$"):
        unpacked(tmp_path / "root", layer)
    assert (tmp_path / "out").read_bytes() == b"the host's"


def test_links_that_lead_out_are_kept_and_never_followed_out(tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "file").write_bytes(b"the host's")
    ways = [link("abs", str(host)), link("up", "../" * 20 + str(host)), link("leaf", str(host / "file"))]
    over = [file("abs/file", b"x"), file("up/more", b"x"), file("leaf", b"x"), hard("hard", "abs/file")]
    gone = [file("abs/.wh.file"), file("up/.wh..wh..opq")]
    unpacked(tmp_path / "root", ways, over, gone)
    assert [path.name for path in host.iterdir()] == ["file"]
    assert (host / "file").read_bytes() == b"the host's"
    assert (tmp_path / "root/leaf").read_bytes() == b"x"
    assert not (tmp_path / "root/leaf").is_symlink()


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        (Limits(bytes=10), "more than 10 bytes"),
        (Limits(entries=3), "more than 3 members"),
        (Limits(depth=2), "too many"),
    ],
)
def test_an_image_is_held_to_its_limits(tmp_path: Path, limits: Limits, wanted: str) -> None:
    layers = [[folder("a"), file("a/one", b"12345678")], [file("two", b"12345678"), file("a/b/c/d")]]
    with pytest.raises(ImageError, match=wanted):
        unpacked(tmp_path / "root", *layers, limits=limits)


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    head = member("././@PaxHeader", tarfile.XHDTYPE, size=10**11).tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(ImageError, match="too large"):
        unpacked(tmp_path / "root", head + bytes(1024))


def test_a_sparse_file_counts_in_full(tmp_path: Path) -> None:
    headers = {"GNU.sparse.size": "1000000000000", "GNU.sparse.offset": "0", "GNU.sparse.numbytes": "0"}
    headers |= {"GNU.sparse.map": "0,0"}
    with pytest.raises(ImageError, match="bytes in its files"):
        unpacked(tmp_path / "root", [(member("sparse", size=0, pax_headers=headers), b"")])


NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", ".wh.a", ".wh..wh..opq", ""]), min_size=1, max_size=4)
TARGETS = st.one_of(NAMES.map("/".join), NAMES.map(lambda parts: "/" + "/".join(parts)), st.just("/out"))
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(KINDS, NAMES, TARGETS), max_size=6), max_size=3))
def test_whatever_a_layer_holds_the_outside_stays_as_it_was(layers: list[list[tuple[bytes, list[str], str]]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        outside, root = Path(place, "out"), Path(place, "root")
        outside.mkdir()
        (outside / "a").write_bytes(b"the host's")
        try:
            for layer in layers:
                members = [
                    member("/".join(name), kind, linkname=target.replace("/out", str(outside)))
                    for kind, name, target in layer
                ]
                unpacked(root, members)
        except ImageError as error:
            assert "\n" not in str(error)
        assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"a": b"the host's"}
        assert {path.name for path in Path(place).iterdir()} <= {"out", "root"}
