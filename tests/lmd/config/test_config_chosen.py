"""What `lm run` is asked to run, and `--set`."""

from pathlib import Path

import pytest

from lmd.config.chosen import IMAGE_TYPE, Chosen, choose
from lmd.config.problems import ConfigError

HOST = """
[settings]
mb_per_processor = 1024
[machinetypes.atlas]
root_image = "docker://example.org/atlas:1"
environment = { A = "1" }
args = ["a"]
[machinetypes.broken]
root_image = 3
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    path = tmp_path / "host.toml"
    path.write_text(HOST)
    return path


def chosen(host: Path, target: str, *sets: str) -> Chosen:
    return choose(target, sets, host=[host], directory=host.parent)


def refusal(host: Path, target: str, *sets: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        chosen(host, target, *sets)
    return [str(problem) for problem in caught.value.problems]


def test_a_configured_type_is_found_by_name(host: Path) -> None:
    found = chosen(host, "atlas")
    assert found.machinetype.root_image == "docker://example.org/atlas:1"
    assert found.config.settings.mb_per_processor == 1024


def test_a_broken_type_is_refused_and_only_when_it_is_asked_for(host: Path) -> None:
    assert refusal(host, "broken") == [f"{host}: machinetypes.broken.root_image: expected a string, got 3"]


def test_an_unknown_name_is_answered_with_those_there_are(host: Path) -> None:
    assert refusal(host, "atlass") == [
        "atlass: no machinetype of this name, did you mean atlas? (known: atlas, broken);"
        " an image of this name is docker://atlass"
    ]


@pytest.mark.parametrize("image", ["docker://busybox", "example.org/a/b:1", "localhost/base:latest"])
def test_an_image_is_a_type_of_its_own(host: Path, image: str) -> None:
    found = chosen(host, image).machinetype
    assert (found.name, found.root_image, found.mb_per_processor) == (IMAGE_TYPE, image, 1024)


def test_an_image_file_is_found_from_the_callers_directory(host: Path) -> None:
    assert chosen(host, "./image.tar").machinetype.root_image == f"{host.parent}/image.tar"


def test_a_file_defines_its_type_on_top_of_the_host(host: Path) -> None:
    (host.parent / "mine.toml").write_text('[machinetypes.mine]\nroot_image = "./here"')
    found = chosen(host, "mine.toml").machinetype
    assert (found.name, found.root_image, found.mb_per_processor) == ("mine", f"{host.parent}/here", 1024)


def test_a_file_of_several_types_has_to_be_told_apart(host: Path) -> None:
    path = host.parent / "two.toml"
    path.write_text('[machinetypes.one]\nroot_image = "a"\n[machinetypes.two]\nroot_image = "b"')
    assert refusal(host, "two.toml") == [f"{path}: defines several machinetypes; choose one, as in {path}:one"]
    assert chosen(host, "two.toml:two").machinetype.root_image == "b"
    assert refusal(host, "two.toml:tow") == [f"{path}: defines no machinetype tow, did you mean two?"]


def test_a_file_without_a_type_says_what_it_needs(host: Path) -> None:
    path = host.parent / "none.toml"
    path.write_text('root_image = "x"')
    assert refusal(host, "none.toml") == [f"{path}: defines no machinetype; it needs a table [machinetypes.NAME]"]


def test_a_file_that_is_run_cannot_change_what_the_site_allows(host: Path) -> None:
    path = host.parent / "greedy.toml"
    path.write_text('[policy]\nhost_network = true\n[machinetypes.x]\nroot_image = "a"\nnetwork = "host"\n[oops]')
    found = refusal(host, "greedy.toml")
    assert f"{path}: policy: only the configuration of the host may have this table" in found
    assert f"{path}: oops: unknown table" in found
    assert any("network" in line and "not allowed here" in line for line in found)


def test_set_values_are_toml_and_else_text(host: Path) -> None:
    found = chosen(
        host,
        "atlas",
        "min_processors=4",
        "network=none",
        'args=["b", "c"]',
        "environment.DEBUG=1",
        'environment.QUOTED="a b"',
        "environment.EMPTY=",
        "environment.EQUALS=a=b",
        "user=1000",
        "read_only=true",
        'outcome."75"=300 no work',
        "tmpfs.\"/tmp\"='64Mi'",
    ).machinetype
    assert (found.min_processors, found.network, found.args, found.user) == (4, "none", ("b", "c"), "1000")
    assert found.environment == {"A": "1", "DEBUG": "1", "QUOTED": "a b", "EMPTY": "", "EQUALS": "a=b"}
    assert (found.read_only, found.outcome, found.tmpfs) == (True, {75: "300 no work"}, {"/tmp": 64 * 2**20})


def test_the_last_set_wins(host: Path) -> None:
    assert chosen(host, "atlas", "min_processors=2", "min_processors=3").machinetype.min_processors == 3


def test_set_paths_start_at_the_callers_directory(host: Path) -> None:
    found = chosen(host, "atlas", "user_data=run.sh", "user_data_option_x=5").machinetype
    assert found.user_data == f"{host.parent}/run.sh"
    assert found.user_data_options == {"x": "5"}


def test_set_is_checked_like_a_file(host: Path) -> None:
    assert refusal(host, "atlas", "max_procesors=4", "min_processors=many") == [
        "--set max_procesors=4: machinetypes.atlas.max_procesors: unknown key, did you mean max_processors?",
        "--set min_processors=many: machinetypes.atlas.min_processors: expected a whole number, got 'many'",
    ]


@pytest.mark.parametrize(
    "assignment",
    ["", "=", "a", "=3", "a b=3", "a\nb=3", "a.b.c=3", '"=3', "x=" + "a" * 70_000, "[a]=3", "a." * 1000 + "b=1"],
)
def test_a_set_that_is_no_assignment_is_refused(host: Path, assignment: str) -> None:
    (line,) = refusal(host, "atlas", assignment)
    assert line.endswith("expected KEY=VALUE, as in max_processors=4 or environment.DEBUG=1")
    assert line.isprintable()


def test_a_set_value_cannot_bring_other_keys_along(host: Path) -> None:
    assert chosen(host, "atlas", "environment.A=1\nmin_processors = 9").machinetype.min_processors == 1


def test_all_errors_of_host_file_and_sets_come_together(host: Path) -> None:
    host.write_text("[settings]\nspace = 3")
    found = refusal(host, "absent.toml", "nonsense")
    assert found == [f"{host.parent}/absent.toml: cannot be read: No such file or directory"]
    found = refusal(host, "docker://x", "nonsense", "pids=no")
    assert [line.rpartition(": ")[0] for line in found] == [
        "--set nonsense",
        f"{host}: settings.space",
        "--set pids=no: machinetypes.bare-image.pids",
    ]
