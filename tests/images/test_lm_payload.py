"""The program `lm-payload`, by each shell that images are likely to have."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from images.skeleton import helper

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SHELLS = {"dash": ["dash"], "busybox": ["busybox", "sh"], "bash": ["bash", "--posix"]}


@pytest.fixture(params=SHELLS)
def payload(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs `lm-payload ARGUMENT…` with $JOBOUTPUTS a directory, unless other variables are given."""
    shell = SHELLS[request.param]
    assert shutil.which(shell[0]), f"{shell[0]} is not installed"
    program = tmp_path / "lm-payload"
    program.write_bytes(helper())
    for name in ("joboutputs", "jobfeatures", "machinefeatures"):
        (tmp_path / name).mkdir()

    def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        places = {name.upper(): str(tmp_path / name) for name in ("joboutputs", "jobfeatures", "machinefeatures")}
        environment = {"PATH": os.environ["PATH"]} | places | variables
        return subprocess.run(
            [*shell, str(program), *arguments], capture_output=True, text=True, env=environment, timeout=20
        )

    return run


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "joboutputs"


def test_done_writes_the_shutdown_message_as_one_line(payload: Run, outputs: Path) -> None:
    assert payload("done", "200", "All", "done").returncode == 0
    assert (outputs / "shutdown_message").read_text() == "200 All done\n"


def test_done_takes_code_and_text_as_one_argument_and_the_last_message_stands(payload: Run, outputs: Path) -> None:
    payload("done", "200 Success")
    assert payload("done", "300 Nothing to do").returncode == 0
    assert (outputs / "shutdown_message").read_text() == "300 Nothing to do\n"


def test_line_breaks_and_control_characters_in_a_message_become_spaces(payload: Run, outputs: Path) -> None:
    payload("done", "500 No\nspace\x1b[1m left\r")
    assert (outputs / "shutdown_message").read_text() == "500 No space [1m left \n"


def test_text_is_never_taken_as_a_format_or_a_command(payload: Run, outputs: Path) -> None:
    payload("done", "500 100%s $(touch x) `touch x` \\n *")
    assert (outputs / "shutdown_message").read_text() == "500 100%s $(touch x) `touch x` \\n *\n"


@pytest.mark.parametrize("message", ["", "200", "200 ", "20 Success", "Success", "2000 Success", "900 What", "099 No"])
def test_what_is_no_shutdown_message_is_refused_and_nothing_is_written(
    payload: Run, outputs: Path, message: str
) -> None:
    refused = payload("done", message)
    assert refused.returncode == 2
    assert "is no shutdown message" in refused.stderr
    assert list(outputs.iterdir()) == []


def test_heartbeat_makes_the_file_and_then_only_renews_its_time(payload: Run, outputs: Path) -> None:
    assert payload("heartbeat").returncode == 0
    (outputs / "heartbeat").write_text("mine")
    os.utime(outputs / "heartbeat", (1, 1))
    payload("heartbeat")
    assert (outputs / "heartbeat").read_text() == "mine"
    assert (outputs / "heartbeat").stat().st_mtime > time.time() - 60


def test_heartbeat_takes_the_name_that_the_machinetype_watches(payload: Run, outputs: Path) -> None:
    payload("heartbeat", "vm-heartbeat")
    assert [path.name for path in outputs.iterdir()] == ["vm-heartbeat"]


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "/etc/passwd"])
def test_names_that_leave_the_outputs_are_refused(payload: Run, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert payload("heartbeat", name).returncode == 2
    assert payload("output", str(tmp_path / "file"), name).returncode == 2
    assert payload("feature", name).returncode == 2


def test_output_copies_a_file_of_any_bytes_under_its_own_or_another_name(
    payload: Run, outputs: Path, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 1000
    (tmp_path / "hi st.root").write_bytes(data)
    assert payload("output", str(tmp_path / "hi st.root")).returncode == 0
    assert payload("output", str(tmp_path / "hi st.root"), "other").returncode == 0
    assert (outputs / "hi st.root").read_bytes() == (outputs / "other").read_bytes() == data


def test_output_of_a_missing_file_says_so(payload: Run, outputs: Path) -> None:
    refused = payload("output", "/no/such/file")
    assert (refused.returncode, refused.stderr) == (1, "lm-payload: '/no/such/file' is not a file that can be read\n")


def test_a_file_is_replaced_whole_and_nothing_hidden_stays(payload: Run, outputs: Path, tmp_path: Path) -> None:
    (outputs / "out").write_text("old")
    before = (outputs / "out").stat().st_ino
    (tmp_path / "new").write_text("new")
    payload("output", str(tmp_path / "new"), "out")
    assert (outputs / "out").stat().st_ino != before
    assert [path.name for path in outputs.iterdir()] == ["out"]


def test_a_directory_in_the_place_of_an_output_is_an_error(payload: Run, outputs: Path) -> None:
    (outputs / "shutdown_message").mkdir()
    refused = payload("done", "200 Success")
    assert refused.returncode == 1
    assert "is a directory" in refused.stderr


def test_a_full_or_unwritable_place_is_one_line_and_leaves_nothing(payload: Run) -> None:
    refused = payload("done", "200 Success", JOBOUTPUTS="/proc/self")
    assert refused.returncode == 1
    assert refused.stderr.startswith("lm-payload: /proc/self/shutdown_message could not be written")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("prefix", ["file://", "file://localhost", "file:"])
def test_outputs_are_found_by_file_url(payload: Run, tmp_path: Path, prefix: str) -> None:
    (tmp_path / "a b%25ü").mkdir()
    url = f"{prefix}{tmp_path}/a%20b%2525%C3%BC"
    assert payload("done", "200 Success", JOBOUTPUTS=url).stderr == ""
    assert (tmp_path / "a b%25ü" / "shutdown_message").read_text() == "200 Success\n"


@pytest.mark.parametrize("value", ["https://example.org/x", "joboutputs", "file://elsewhere/x", "file:x"])
def test_outputs_that_are_no_directory_of_this_machine_are_refused(payload: Run, value: str) -> None:
    refused = payload("done", "200 Success", JOBOUTPUTS=value)
    assert refused.returncode == 1
    expected = "expected an absolute path, a file:// or an http:// URL"
    assert refused.stderr == f"lm-payload: JOBOUTPUTS is '{value}': {expected}\n"


def test_a_feature_is_the_jobs_before_the_machines(payload: Run, tmp_path: Path) -> None:
    (tmp_path / "machinefeatures" / "total_cpu").write_text("8")
    (tmp_path / "machinefeatures" / "both").write_text("machine")
    (tmp_path / "jobfeatures" / "both").write_text("job")
    assert payload("feature", "total_cpu").stdout == "8\n"
    assert payload("feature", "both").stdout == "job\n"


def test_a_feature_that_is_not_given_has_the_default_or_fails(payload: Run) -> None:
    assert payload("feature", "hs06", "10").stdout == "10\n"
    refused = payload("feature", "hs06")
    assert (refused.returncode, refused.stderr) == (1, "lm-payload: the host gives no feature hs06\n")


def test_remaining_counts_to_the_earliest_end(payload: Run, tmp_path: Path) -> None:
    now = int(time.time())
    (tmp_path / "machinefeatures" / "shutdowntime").write_text(str(now + 5000))
    (tmp_path / "jobfeatures" / "shutdowntime_job").write_text(str(now + 4000))
    assert 3980 <= int(payload("remaining").stdout) <= 4000
    (tmp_path / "jobfeatures" / "jobstart_secs").write_text(str(now - 1000))
    (tmp_path / "jobfeatures" / "wall_limit_secs").write_text("3000")
    assert 1980 <= int(payload("remaining").stdout) <= 2000
    (tmp_path / "machinefeatures" / "shutdowntime").write_text(str(now - 5))
    assert payload("remaining").stdout == "0\n"


def test_remaining_is_unknown_where_the_host_sets_no_end_or_no_number(payload: Run, tmp_path: Path) -> None:
    (tmp_path / "machinefeatures" / "shutdowntime").write_text("1e9$(id)")
    assert payload("remaining").returncode == 1


@pytest.mark.parametrize("arguments", [[], ["beat"], ["heartbeat", "a", "b"], ["remaining", "x"], ["output"]])
def test_wrong_usage_is_told_apart_by_its_exit_code(payload: Run, arguments: list[str]) -> None:
    refused = payload(*arguments)
    assert refused.returncode == 2
    assert "lm-payload" in refused.stderr


def test_help_lists_every_command(payload: Run) -> None:
    shown = payload("--help")
    assert shown.returncode == 0
    for command in ("heartbeat", "done", "output", "feature", "remaining"):
        assert f"lm-payload {command}" in shown.stdout
