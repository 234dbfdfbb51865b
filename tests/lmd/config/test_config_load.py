"""Reading, merging and checking files, and where each value came from."""

import os
import time
from pathlib import Path

import pytest

from lmd.config.layers import LARGEST_FILE, host_files, merge, read
from lmd.config.load import load, load_host
from lmd.config.problems import ConfigError


def written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(*paths: Path, guarded: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(paths, guarded=guarded)
    lines = str(caught.value).split("\n")
    assert len(lines) == len(caught.value.problems)
    return lines


def test_no_file_at_all_is_a_configuration() -> None:
    config = load([])
    assert config.settings.space == "lm-run"
    assert config.machinetypes == {}


def test_later_files_win_tables_merge_and_lists_replace(tmp_path: Path) -> None:
    first = written(
        tmp_path / "a.toml",
        '[machinetypes.x]\nroot_image = "a"\nargs = ["1", "2"]\nenvironment = { A = "1", B = "1" }\nmin_processors = 2',
    )
    second = written(tmp_path / "b.toml", '[machinetypes.x]\nargs = ["3"]\nenvironment.B = "2"')
    config = load([first, second])
    found = config.machinetypes["x"]
    assert found.args == ("3",)
    assert found.environment == {"A": "1", "B": "2"}
    assert (found.root_image, found.min_processors) == ("a", 2)
    assert config.origins["machinetypes", "x", "root_image"] == str(first)
    assert config.origins["machinetypes", "x", "args"] == str(second)
    assert config.origins["machinetypes", "x", "environment", "A"] == str(first)
    assert config.origins["machinetypes", "x", "environment", "B"] == str(second)
    assert ("machinetypes", "x", "pull") not in config.origins


def test_relative_paths_start_at_the_file_that_has_them(tmp_path: Path) -> None:
    types = """
    [machinetypes.x]
    root_image = "./image.tar"
    user_data = "scripts/run.sh"
    user_data_file_key = "key.pem"
    secret_files = { "/etc/token" = "token" }
    [machinetypes.y]
    root_image = "oci-archive:image.tar"
    user_data = "https://example.org/run.sh"
    [machinetypes.z]
    root_image = "base/image"
    user_data = "/srv/run.sh"
    """
    path = written(tmp_path / "conf.d/types.toml", types)
    found = load([path]).machinetypes
    here = str(tmp_path / "conf.d")
    assert found["x"].root_image == f"{here}/image.tar"
    assert found["x"].user_data == f"{here}/scripts/run.sh"
    assert found["x"].user_data_files == {"key": f"{here}/key.pem"}
    assert found["x"].secret_files == {"/etc/token": f"{here}/token"}
    assert found["y"].root_image == f"oci-archive:{here}/image.tar"
    assert found["y"].user_data == "https://example.org/run.sh"
    assert (found["z"].root_image, found["z"].user_data) == ("base/image", "/srv/run.sh")


def test_machinetypes_inherit_from_settings(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.toml",
        """
        [settings]
        mb_per_processor = "4Gi"
        joboutputs_files = 7
        user_data_option_site = "Here"
        user_data_option_queue = "all"
        [machinetypes.x]
        root_image = "a"
        user_data = "/x"
        joboutputs_files = 9
        user_data_option_queue = "mine"
        [machinetypes.y]
        root_image = "a"
        """,
    )
    found = load([path]).machinetypes
    assert (found["x"].mb_per_processor, found["x"].joboutputs_files) == (4096, 9)
    assert found["x"].user_data_options == {"site": "Here", "queue": "mine"}
    assert (found["y"].mb_per_processor, found["y"].joboutputs_files) == (4096, 7)
    assert found["y"].user_data_options == {}


def test_all_errors_are_said_at_once_with_file_key_and_what_was_expected(tmp_path: Path) -> None:
    bad = written(
        tmp_path / "bad.toml",
        """
        [setings]
        [settings]
        spce = "x"
        max_processors = 3
        hs06_per_processor = nan
        [policy]
        devices = "all"
        [runtimes.podmn]
        [runtimes.podman]
        oci_runtime = "youki"
        [machinetypes.atlas]
        max_procesors = 4
        container_command = "/bin/x"
        heartbeat_seconds = 60
        min_processors = 1979-05-27T07:32:00
        [machinetypes.Atlas]
        root_image = "x"
        [machinetypes.lhcb]
        root_image = "x"
        network = "host"
        environment = { "a b" = "x" }
        """,
    )
    syntax = written(tmp_path / "syntax.toml", "[settings]\nspace = = 3\n")
    found = refusal(syntax, bad, tmp_path / "absent.toml", tmp_path)
    assert found[:3] == [
        f"{syntax}: line 2, column 9: Invalid value",
        f"{tmp_path}/absent.toml: cannot be read: No such file or directory",
        f"{tmp_path}: is not a regular file",
    ]
    keys = [line.removeprefix(f"{bad}: ") for line in found[3:]]
    assert keys == [
        "setings: unknown table, did you mean settings?",
        "settings.spce: unknown key, did you mean space?",
        "settings.max_processors: unknown key, did you mean total_processors?",
        "settings.hs06_per_processor: expected a finite number, got nan",
        "policy.devices: expected a list, got 'all'",
        "runtimes.podmn: no runtime of this name, did you mean podman? (known: docker, fake, kvm, podman)",
        "runtimes.podman.oci_runtime: expected 'crun' or 'runc', got 'youki'",
        "machinetypes.atlas.max_procesors: unknown key, did you mean max_processors?",
        "machinetypes.atlas.container_command: unknown key, did you mean entrypoint?",
        keys[9],
        "machinetypes.atlas.min_processors: expected a whole number, got a date-time",
        "machinetypes.atlas.heartbeat_seconds: needs heartbeat_file, the name of the file to watch",
        "machinetypes.Atlas: expected a DNS label as the type's name: a-z, 0-9 and hyphen, at most 63 characters,"
        " got 'Atlas'",
        keys[13],
    ]
    assert keys[9].startswith("machinetypes.atlas.root_image: is missing: Root file system")
    assert keys[13].startswith('machinetypes.lhcb.environment."a b": expected the name of a variable')


def test_a_key_of_another_table_is_sent_there(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", '[settings]\nheartbeat_file = "x"\n[policy]\nspace = "x"')
    assert refusal(path) == [
        f"{path}: settings.heartbeat_file: unknown key, it belongs in [machinetypes.NAME]",
        f"{path}: policy.space: unknown key, it belongs in [settings]",
    ]


def test_one_bad_machinetype_disables_itself_alone(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.toml",
        '[machinetypes.good]\nroot_image = "x"\n[machinetypes.bad]\nroot_image = 3\n'
        '[machinetypes.refused]\nroot_image = "x"\nnetwork = "host"\n[machinetypes]\nscalar = 3',
    )
    config = load([path])
    assert list(config.machinetypes) == ["good"]
    assert set(config.disabled) == {"bad", "refused", "scalar"}
    assert str(config.disabled["refused"][0]).startswith(f'{path}: machinetypes.refused.network: "host" is not allowed')
    assert str(config.disabled["scalar"][0]) == f"{path}: machinetypes.scalar: expected a table, got 3"


def test_an_error_names_the_file_that_set_the_key(tmp_path: Path) -> None:
    first = written(tmp_path / "a.toml", '[machinetypes.x]\nroot_image = "x"\nmin_processors = 2')
    second = written(tmp_path / "b.toml", "[machinetypes.x]\nmax_processors = 1")
    (problem,) = load([first, second]).disabled["x"]
    assert str(problem) == f"{second}: machinetypes.x.max_processors: is 1, less than min_processors (2)"


def test_options_of_runtimes_are_strings(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.toml",
        '[runtimes.podman]\nsocket = "unix:///run/p.sock"\nfirst_uid = 200000\n[runtimes.fake]\nhang = true\nn = 3',
    )
    assert load([path]).runtimes == {
        "podman": {"socket": "unix:///run/p.sock", "first_uid": "200000"},
        "fake": {"hang": "true", "n": "3"},
    }


def test_a_control_character_in_a_key_stays_out_of_the_message(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", '[settings]\n"a\\u001b[31m\\n" = 1')
    (line,) = refusal(path)
    assert line.isprintable()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfe", "is not UTF-8 text (byte 0)"),
        (b"a = " + b"[" * 100_000, "is nested too deeply"),
        (b"a = " + b"9" * 5000, "is not TOML"),
        (b"#" * (LARGEST_FILE + 1), f"is larger than {LARGEST_FILE // 1024} KiB"),
        (b"a = 1\na = 2\n", "line 2, column 6: Cannot overwrite a value"),
    ],
)
def test_a_file_that_is_no_toml_gets_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = written(tmp_path / "a.toml", content)
    (line,) = refusal(path)
    assert line.startswith(f"{path}: {expected}")


def test_a_fifo_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.toml")
    assert refusal(tmp_path / "a.toml") == [f"{tmp_path}/a.toml: is not a regular file"]


def test_keys_nested_without_end_are_an_error_like_any_other(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "[machinetypes.x]\nenvironment." + "a." * 50 + 'b = "x"\nroot_image = "x"')
    (problem,) = load([path]).disabled["x"]
    assert str(problem) == f"{path}: machinetypes.x.environment.a: expected a string, got a table"


@pytest.mark.parametrize("part", ["a.", '"a" . ', "'a'."])
def test_a_key_of_very_many_parts_is_refused_at_once(tmp_path: Path, part: str) -> None:
    path = written(tmp_path / "a.toml", f"x = {{ {part * 100_000}b = 1 }}")
    began = time.monotonic()
    assert refusal(path) == [f"{path}: has a key of more than 64 parts"]
    assert time.monotonic() - began < 5


def test_long_text_is_no_long_key(tmp_path: Path) -> None:
    text = "One. Two. Three. See https://a.b.c.example.org/x.y.z for more. " * 500 + "a" * 50_000
    path = written(tmp_path / "a.toml", f'[machinetypes.x]\nroot_image = "x"\nenvironment.T = """{text[:60_000]}"""')
    assert load([path]).machinetypes["x"].environment["T"] == text[:60_000]


def test_very_many_unknown_keys_are_said_in_good_time(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "[settings]\n" + "\n".join(f"spce{n} = {n}" for n in range(30_000)))
    began = time.monotonic()
    assert len(refusal(path)) == 30_000
    assert time.monotonic() - began < 10


def test_root_does_not_read_what_others_can_write(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "")
    load([path], guarded=True)
    path.chmod(0o646)
    assert refusal(path, guarded=True) == [f"{path}: can be written by others (mode 0646): chmod go-w {path}"]
    path.chmod(0o644)
    tmp_path.chmod(0o777)
    assert refusal(path, guarded=True) == [f"{tmp_path}: can be written by others (mode 0777): chmod go-w {tmp_path}"]
    load([path])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_root_does_not_read_what_belongs_to_others(tmp_path: Path) -> None:
    path = written(tmp_path / "a.toml", "")
    os.chown(path, 65534, 0)
    assert refusal(path, guarded=True) == [
        f"{path}: belongs to user 65534, who could change it: chown root {path}",
    ]


def test_an_ordinary_user_reads_the_xdg_directories(tmp_path: Path) -> None:
    wanted = [
        written(tmp_path / "config/lmd/conf.d/10-a.toml", ""),
        written(tmp_path / "config/lmd/conf.d/20-b.toml", ""),
        written(tmp_path / "config/lmd/lmd.toml", ""),
        written(tmp_path / "run/lmd/lmd.toml", ""),
    ]
    written(tmp_path / "config/lmd/conf.d/readme.txt", "")
    written(tmp_path / "config/lmd/conf.d/.hidden.toml", "")
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    assert host_files(1000, environment) == wanted
    assert host_files(1000, {"HOME": str(tmp_path / "nobody"), "XDG_RUNTIME_DIR": "/nonexistent"}) == []


def test_another_directory_can_be_named_in_the_environment(tmp_path: Path) -> None:
    path = written(tmp_path / "lmd.toml", '[settings]\nspace = "here.example.org"')
    for uid in (0, 1000):
        environment = {"LMD_CONFIG_DIR": str(tmp_path)}
        assert host_files(uid, environment) == [path]
        assert load_host(uid, environment).settings.space == "here.example.org"


def test_a_link_that_leads_nowhere_is_said(tmp_path: Path) -> None:
    (tmp_path / "lmd.toml").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"lmd\.toml: cannot be read"):
        load_host(1000, {"LMD_CONFIG_DIR": str(tmp_path)})


def test_merging_changes_no_layer(tmp_path: Path) -> None:
    layers = [
        read(written(tmp_path / "a.toml", '[machinetypes.x.environment]\nA = "1"')),
        read(written(tmp_path / "b.toml", '[machinetypes.x.environment]\nA = "2"')),
    ]
    merge(layers)
    assert layers[0].table == {"machinetypes": {"x": {"environment": {"A": "1"}}}}
