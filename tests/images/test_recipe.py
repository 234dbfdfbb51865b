"""Recipes: read, checked with all errors at once, and told apart by their digest."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from images.entries import Kind
from images.errors import ImageError
from images.recipe import Recipe, builtin, find_recipe, load

WriteRecipe = Callable[..., Recipe]
BUSYBOX = 'description = "mine"\nkind = "busybox"\n'
DEBIAN = 'description = "mine"\nkind = "debian"\nsuite = "bookworm"\n'


def test_every_recipe_that_comes_with_lmd_can_be_read() -> None:
    assert set(builtin()) == {"base", "busybox", "debian-vm", "debian-vm-13", "micro", "squid"}
    assert [load(folder).name for folder in builtin().values()] == [
        "base",
        "busybox",
        "debian-vm",
        "debian-vm-13",
        "micro",
        "squid",
    ]


def test_a_recipe_brings_text_files_and_links(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    (tmp_path / "recipes/mine").mkdir(parents=True)
    (tmp_path / "recipes/mine/start.sh").write_bytes(b"#!/bin/sh\n")
    recipe = write_recipe(
        BUSYBOX
        + '[files."/etc/motd"]\ntext = "hello"\n'
        + '[files."/usr/bin/start"]\nsource = "start.sh"\nmode = "0755"\n'
        + '[files."/start"]\nlink = "usr/bin/start"\n'
    )
    assert {path: (entry.kind, entry.size) for path, entry in recipe.files.items()} == {
        "/etc/motd": (Kind.FILE, 5),
        "/start": (Kind.SYMLINK, 0),
        "/usr/bin/start": (Kind.FILE, 10),
    }
    assert recipe.files["/usr/bin/start"].mode == 0o755


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("kind =", "is no TOML"),
        ('kind = "busybox"', "description: Field required"),
        (BUSYBOX + "packages = []", 'kind "busybox" knows no packages'),
        ('description = "x"\nkind = "debian"', 'kind "debian" needs a suite'),
        ('description = "x\\ny"\nkind = "busybox"', "description: expected one line"),
        (DEBIAN + 'sute = "sid"', "sute: unknown key"),
        (DEBIAN + 'packages = ["--include=x"]', "packages.0"),
        (DEBIAN + 'packages = ["a,b"]', "packages.0"),
        (DEBIAN + 'mirrors = ["file:///etc"]', "mirrors.0"),
        (DEBIAN + 'mirrors = ["--essential-hook=id"]', "mirrors.0"),
        (DEBIAN + 'leave_out = ["x"]', "leave_out.0"),
        (DEBIAN.replace("bookworm", "--help"), "suite"),
        (BUSYBOX + '[files."relative"]\ntext = ""', "expected an absolute path in the image"),
        (BUSYBOX + '[files."/"]\ntext = ""', "expected an absolute path in the image"),
        (BUSYBOX + '[files."/a/../b"]\ntext = ""', "may not contain .."),
        (BUSYBOX + '[files."/a"]\ntext = ""\nlink = "b"', "expected one of text, source and link"),
        (BUSYBOX + '[files."/a"]\ntext = ""\nmode = "rw"', "files./a.mode"),
        (BUSYBOX + '[files."/a"]\nsource = "../../secret"', "is outside the recipe's directory"),
        (BUSYBOX + '[files."/a"]\nsource = "/etc/passwd"', "is outside the recipe's directory"),
        (BUSYBOX + '[files."/a"]\nsource = "none"', "there is no such file"),
        (BUSYBOX + '[run]\nworking_directory = "tmp"', "run.working_directory"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_file_and_key(
    write_recipe: WriteRecipe, text: str, complaint: str
) -> None:
    with pytest.raises(ImageError) as caught:
        write_recipe(text)
    assert complaint in str(caught.value)
    assert "mine" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_errors_are_said_at_once(write_recipe: WriteRecipe) -> None:
    with pytest.raises(ImageError, match=r"kind: .*; colour: unknown key"):
        write_recipe('description = "x"\nkind = "fedora"\ncolour = 1\n')


def test_a_source_that_is_a_link_out_of_the_recipe_is_refused(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    (tmp_path / "recipes/mine").mkdir(parents=True)
    (tmp_path / "recipes/mine/link").symlink_to("/etc/passwd")
    with pytest.raises(ImageError, match="is outside the recipe's directory"):
        write_recipe(BUSYBOX + '[files."/a"]\nsource = "link"')


def test_a_source_that_is_a_fifo_is_refused_and_not_waited_for(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    (tmp_path / "recipes/mine").mkdir(parents=True)
    os.mkfifo(tmp_path / "recipes/mine/pipe")
    with pytest.raises(ImageError, match="there is no such file"):
        write_recipe(BUSYBOX + '[files."/a"]\nsource = "pipe"')


def test_a_directory_whose_name_cannot_name_an_image_is_refused(write_recipe: WriteRecipe) -> None:
    with pytest.raises(ImageError, match="the directory names the image"):
        write_recipe(BUSYBOX, name="My Image")


def test_an_unknown_recipe_lists_those_that_there_are() -> None:
    with pytest.raises(ImageError, match="recipe 'bas': there is none; choose one of base, busybox"):
        find_recipe("bas")


def test_the_digest_changes_with_all_that_changes_the_image(write_recipe: WriteRecipe) -> None:
    digests = [
        write_recipe(text, name=name).digest(*inputs)
        for text, name, inputs in (
            (BUSYBOX, "mine", ()),
            (BUSYBOX, "yours", ()),
            (BUSYBOX, "mine", ("another busybox",)),
            (BUSYBOX + "[run]\nenvironment = { A = '1' }", "mine", ()),
            (BUSYBOX + '[files."/a"]\ntext = "1"', "mine", ()),
            (BUSYBOX + '[files."/a"]\ntext = "2"', "mine", ()),
            (BUSYBOX + '[files."/b"]\ntext = "2"', "mine", ()),
        )
    ]
    assert len(set(digests)) == len(digests)
    assert write_recipe(BUSYBOX).digest() == digests[0]


def test_the_digest_changes_with_a_source_files_content(write_recipe: WriteRecipe, tmp_path: Path) -> None:
    source = tmp_path / "recipes/mine/file"
    source.parent.mkdir(parents=True)
    source.write_text("1")
    before = write_recipe(BUSYBOX + '[files."/a"]\nsource = "file"').digest()
    source.write_text("2")
    assert write_recipe(BUSYBOX + '[files."/a"]\nsource = "file"').digest() != before
