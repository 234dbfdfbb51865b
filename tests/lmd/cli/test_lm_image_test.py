"""`lm image test`: what an image lacks, and the environment's suite inside it."""

import json
import re
import shutil
import subprocess

from images.archive import ImageConfig, write_oci_archive


def _image(lm, programs: list[str], sh: str = "") -> str:
    """An archive with these programs of the host and the libraries that they need, and nothing else; `sh` is a link
    to one of them."""
    root = lm.home / "root"
    for name in ("bin", "etc", "tmp", "var", "proc", "sys", "dev", "run"):
        (root / name).mkdir(parents=True)
    for program in programs:
        found = shutil.which(program)
        shutil.copy(found, root / "bin" / program)
        needed = subprocess.run(["ldd", found], capture_output=True, text=True).stdout  # nothing for a static one
        for library in re.findall(r"(/\S+) \(0x", needed):
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library[1:])
    if sh:
        (root / "bin/sh").symlink_to(sh)
    write_oci_archive(root, lm.home / "image.tar", ImageConfig())
    return f"oci-archive:{lm.home}/image.tar"


def test_our_busybox_lacks_nothing_that_is_needed_and_passes(lm) -> None:
    assert lm("run", lm.machinetype("build", "exit 0")).returncode == 0
    names = ["host-name-is-the-id", "user-data-is-the-command"]
    done = lm("image", "test", "lmd:busybox", "--json", *(f"--check={name}" for name in names))
    told = json.loads(done.stdout)
    assert (done.returncode, told["good"]) == (0, True), done.stderr
    assert {one["check"]: one["outcome"] for one in told["results"]} == dict.fromkeys(names, "passed")
    assert [lack["what"] for lack in told["lacks"]] == ["certificates"]


def test_an_image_without_small_commands_is_told_by_their_names_and_not_tried(lm) -> None:
    done = lm("image", "test", _image(lm, ["sh", "cat", "od"]))
    assert done.returncode == 1
    said = done.stdout.splitlines()
    assert "lacks stat: the suite cannot look around" in said
    assert not [line for line in said if line.startswith(("lacks cat:", "lacks od:"))]
    assert any(line.startswith("lacks unshare: ") for line in said)
    assert "the suite was not run" in done.stderr


def test_what_only_a_shell_has_built_in_is_lacking_for_programs_and_root_needs_no_home(lm) -> None:
    done = lm("image", "test", _image(lm, ["busybox"], sh="busybox"), "--check", "read-only-is-read-only")
    assert done.returncode == 0, done.stdout + done.stderr
    lacks = {line.split(":")[0] for line in done.stdout.splitlines()}
    what = {"unshare", "lm-payload", "curl or wget", "certificates", "/usr/bin/env", "/root"}
    assert lacks >= {f"lacks {one}" for one in what}


def test_an_image_without_a_shell_is_told(lm) -> None:
    done = lm("image", "test", _image(lm, ["cat"]))
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("lacks /bin/sh: it cannot run a script")


def test_an_image_that_cannot_be_tried_is_told_in_one_line(lm) -> None:
    for words, code, said in (
        (["lmd:nope"], 20, "build it with: lm image build nope"),
        (["/nowhere"], 2, "/nowhere"),
        (["lmd:busybox", "--check", "nope"], 2, "no check of this name"),
        (["lmd:busybox", "--runtime", "nope"], 20, "no runtime 'nope'"),
    ):
        done = lm("image", "test", *words)
        assert (done.returncode, said in done.stderr, len(done.stderr.splitlines())) == (code, True, 1), done.stderr
