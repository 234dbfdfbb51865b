"""`lm config` as it is typed."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lmd.config.schema import schema

GOOD = '[machinetypes.x]\nroot_image = "example.org/a"\n'


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "conf.d").mkdir()
    return tmp_path


def typed(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from lmd.cli.config import app; app()", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": os.environ["PATH"], "LMD_CONFIG_DIR": str(directory), "LANG": "C.UTF-8"},
        cwd=directory,
    )


def test_check_of_a_good_configuration_says_so(directory: Path) -> None:
    (directory / "lmd.toml").write_text(GOOD)
    done = typed(directory, "check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "no errors; 1 machinetype: x\n", "")


def test_check_says_all_errors_a_line_each_and_counts_them(directory: Path) -> None:
    (directory / "conf.d/a.toml").write_text(GOOD + 'user_data = "run.sh"\n[machinetypes.y]\nroot_imag = "x"')
    done = typed(directory, "check")
    path = directory / "conf.d/a.toml"
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == f"{path}: machinetypes.y.root_imag: unknown key, did you mean root_image?"
    assert lines[2] == (
        f"{path}: machinetypes.x.user_data: {directory}/conf.d/run.sh cannot be read: No such file or directory"
    )
    assert lines[3:] == ["3 errors in 1 file"]


def test_check_takes_files_on_top_of_the_hosts(directory: Path) -> None:
    (directory / "lmd.toml").write_text("[policy]\nhost_network = true")
    (directory / "more.toml").write_text(GOOD + 'network = "host"')
    assert typed(directory, "check", "more.toml").stdout == "no errors; 1 machinetype: x\n"
    assert typed(directory, "check", "absent.toml").stderr.splitlines() == [
        "absent.toml: cannot be read: No such file or directory",
        "1 error in 1 file",
    ]


def test_show_prints_toml_with_origins_or_json(directory: Path) -> None:
    (directory / "lmd.toml").write_text(GOOD)
    shown = typed(directory, "show", "--origin")
    assert shown.returncode == 0
    assert f'root_image = "example.org/a"  # {directory}/lmd.toml' in shown.stdout.splitlines()
    assert tomllib.loads(shown.stdout)["machinetypes"]["x"]["pids"] == 4096
    data = json.loads(typed(directory, "show", "--json").stdout)
    assert data["origins"]["machinetypes.x"]["root_image"] == f"{directory}/lmd.toml"


def test_show_of_a_broken_configuration_is_its_errors(directory: Path) -> None:
    (directory / "lmd.toml").write_text("[settings]\nspace = 3")
    done = typed(directory, "show")
    assert (done.returncode, done.stdout) == (1, "")
    assert "settings.space: expected a string, got 3" in done.stderr


def test_the_schema_is_printed(directory: Path) -> None:
    assert json.loads(typed(directory, "schema").stdout) == schema()
