"""`lm image`: what it prints, and its exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import images.cache
from images.archive import Format
from images.recipe import builtin
from lmd.cli.image import Form, app
from runtimes import archives
from runtimes.contract import ImageKind

Lm = Callable[..., Any]


@pytest.fixture
def lm_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lm:
    """Runs `lm image ARGUMENT…` with a cache of its own."""
    monkeypatch.setattr(images.cache, "default_directory", lambda environ, uid: tmp_path / "cache")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for name in ("CONFIG", "STATE", "RUN", "CACHE"):
        monkeypatch.setenv(f"LMD_{name}_DIR", str(tmp_path / name))
    (tmp_path / "CONFIG").mkdir()
    (tmp_path / "CONFIG/lmd.toml").write_text(f'[runtimes.podman]\nsocket = "{tmp_path}/none"\n')
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


def test_build_says_what_was_built_and_how_a_machinetype_names_it(lm_image: Lm, tmp_path: Path) -> None:
    done = lm_image("build", "busybox")
    assert done.exit_code == 0
    first, second = done.stdout.splitlines()
    assert first.startswith("busybox: sha256:")
    assert first.endswith(" MB, 1 package")
    path = images.cache.find("busybox", [tmp_path / "cache"])
    assert second == f'root_image = "lmd:busybox", which is now {path}'


def test_build_as_json_names_the_file_its_id_and_its_packages(lm_image: Lm) -> None:
    shown = json.loads(lm_image("build", "busybox", "--json").stdout)
    assert archives.describe(ImageKind.OCI_ARCHIVE, Path(shown["path"])).image_id == shown["image_id"]
    assert shown["source_date_epoch"] == 1_700_000_000
    assert shown["packages"][0]["name"] == "busybox-static"
    assert shown["output"] is None


@pytest.mark.parametrize("form", [form for form in Form if form is not Form.DIRECTORY])
def test_output_writes_the_image_in_the_form_that_was_asked_for(lm_image: Lm, tmp_path: Path, form: Form) -> None:
    out = tmp_path / "out"
    shown = json.loads(lm_image("build", "busybox", "--output", out, "--format", form, "--json").stdout)
    kind = {
        Form.OCI: ImageKind.OCI_ARCHIVE,
        Form.OCI_LAYOUT: ImageKind.OCI_LAYOUT,
        Form.DOCKER: ImageKind.DOCKER_ARCHIVE,
    }
    assert archives.describe(kind[form], out).image_id == shown["image_id"]
    assert shown["output"] == str(out)


def test_output_as_a_directory_is_a_root_file_system(lm_image: Lm, tmp_path: Path) -> None:
    assert lm_image("build", "busybox", "--output", tmp_path / "root", "--format", "directory").exit_code == 0
    assert (tmp_path / "root/bin/sh").is_symlink()


def test_the_forms_of_the_command_are_those_of_the_builder() -> None:
    assert [form.value for form in Form] == [form.value for form in Format]


def test_a_recipe_can_be_a_directory(lm_image: Lm, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/recipe.toml").write_text('description = "mine"\nkind = "busybox"\n')
    shown = json.loads(lm_image("build", tmp_path / "mine", "--json").stdout)
    assert shown["name"] == "mine"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nope"], "lm image: recipe 'nope': there is none; choose one of base, busybox"),
        (["./no/such"], "lm image: no/such/recipe.toml: there is no such file"),
        (["busybox", "--format", "docker"], "lm image: --format docker needs --output"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(lm_image: Lm, arguments: list[str], complaint: str) -> None:
    refused = lm_image("build", *arguments)
    assert refused.exit_code == 2
    assert refused.stderr.startswith(complaint)
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--format", "zip"], ["--source-date-epoch", "-1"], ["--colour"]])
def test_options_that_do_not_exist_are_exit_code_2(lm_image: Lm, arguments: list[str]) -> None:
    assert lm_image("build", "busybox", *arguments).exit_code == 2


def test_what_cannot_be_written_is_one_line_and_exit_code_1(lm_image: Lm, tmp_path: Path) -> None:
    refused = lm_image("build", "busybox", "--output", tmp_path / "no/such/file")
    assert refused.exit_code == 1
    assert refused.stderr == f"lm image: {tmp_path}/no/such: is not a directory; make it first\n"


def test_a_wrong_time_in_the_environment_is_one_line(lm_image: Lm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    refused = lm_image("build", "busybox")
    assert refused.exit_code == 1
    assert refused.stderr == "lm image: SOURCE_DATE_EPOCH is 'soon': expected whole Unix seconds\n"


def test_list_shows_images_and_recipes_under_headings_of_their_own(lm_image: Lm) -> None:
    before = lm_image("list").stdout
    assert before.startswith("Images built on this host")
    assert "  none yet\n" in before
    lm_image("build", "busybox")
    built, recipes = lm_image("list").stdout.split("Recipes that can be built (lm image build NAME)")
    assert "busybox  lmd:busybox" in built
    assert "none yet" not in built
    names = [line.split()[0] for line in recipes.partition("\n\n")[0].splitlines()[1:]]
    assert names == ["NAME", *sorted(builtin())]


def test_only_the_newest_image_of_a_name_is_what_a_machinetype_gets(lm_image: Lm) -> None:
    lm_image("build", "busybox")
    lm_image("build", "busybox", "--source-date-epoch", "1")
    shown = json.loads(lm_image("list", "--json").stdout)
    assert {image["source_date_epoch"]: image["current"] for image in shown["images"]} == {
        1: True,
        1_700_000_000: False,
    }
    assert lm_image("list").stdout.count("lmd:busybox") == 1


def test_list_as_json_holds_both_tables(lm_image: Lm) -> None:
    built = json.loads(lm_image("build", "busybox", "--json").stdout)
    shown = json.loads(lm_image("list", "--json").stdout)
    assert [(image["image_id"], image["current"]) for image in shown["images"]] == [(built["image_id"], True)]
    assert [recipe["name"] for recipe in shown["recipes"]] == sorted(builtin())


@pytest.mark.parametrize("command", ["build", "list"])
def test_help_gives_examples(lm_image: Lm, command: str) -> None:
    shown = lm_image(command, "--help")
    assert shown.exit_code == 0
    assert f"lm image {command}" in shown.stdout
