import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from lmd.cli.simulate import app

EXAMPLES = Path(__file__).parents[3] / "examples/scenarios"
SMALL = """
[settings]
processors_per_superslot = 8

[machinetypes.one]
root_image = "lmd:busybox"
target_share = 1.0

[machinetypes.eight]
root_image = "lmd:busybox"
target_share = 1.0
min_processors = 8

[scenario]
days = 1
factories = [{ count = 2, processors = 16 }]

[scenario.types.one]
job_hours = [1, 4]
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def lm(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_can_be_simulated(example: Path) -> None:
    code, out, err = lm("--days", "0.2", "--factories", "2", "--json", example)
    assert (code, err) == (0, "")
    (one,) = json.loads(out)["simulations"]
    assert one["name"] == example.stem
    assert one["use"] > 0.9
    assert one["over_budget"] == 0


def test_figures_are_printed_for_people(small: Path) -> None:
    code, out, _ = lm(small)
    assert code == 0
    for words in ("small: 1 days, 32 processors", "away from the shares", "wasted starts per 1,000", "shares by day"):
        assert words in out
    assert "eight waited for: processors" in out


def test_a_changed_configuration_is_compared_on_the_same_scenario(small: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.toml"
    changed.write_text(SMALL.partition("[scenario]")[0].replace("min_processors = 8", "min_processors = 4"))
    code, out, _ = lm(small, changed)
    assert code == 0
    assert "small beside changed" in out
    assert "eight: of all processor time" in out


def test_a_configuration_of_a_site_is_tried_on_a_scenario_of_its_own(small: Path, tmp_path: Path) -> None:
    site = tmp_path / "conf.d"
    site.mkdir()
    (site / "a.toml").write_text(SMALL.partition("[scenario]")[0])
    code, out, _ = lm("--scenario", small, "--seed", "7", site)
    assert code == 0
    assert out.startswith("conf: 1 days, 32 processors") or out.startswith("conf.d")


def test_arrivals_are_worked_off(small: Path, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.csv"
    jobs.write_text("seconds,machinetype,work_seconds,count\n0,one,3600,10\n7200,one,1800\n")
    code, out, _ = lm("--arrivals", jobs, "--json", small)
    assert code == 0
    types = {one["machinetype"]: one for one in json.loads(out)["simulations"][0]["types"]}
    assert types["one"]["useful"] == pytest.approx((10 * 3600 + 1800) / (32 * 86400))


def test_the_timeline_is_drawn_as_svg(small: Path, tmp_path: Path) -> None:
    picture = tmp_path / "slots.svg"
    assert lm("--picture", picture, small)[0] == 0
    root = ElementTree.parse(picture).getroot()
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any(title.startswith("eight, 8 processors") for title in titles)
    assert any(title.startswith("one, 1 processor,") for title in titles)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("days = 1", "days = -1"), "scenario.days: "),
        (("count = 2", "count = 200000"), "scenario.factories"),
        (("[scenario.types.one]", "[scenario.types.two]"), "types.two: no configuration has this machinetype"),
        (("job_hours = [1, 4]", "job_hours = [4, 1]"), "expected the smaller number first"),
        (("job_hours = [1, 4]", 'phases = [{ hours = [0, 1], meets = "rain" }]'), "scenario.types.one.phases"),
        (("[scenario]", "[scenario]\nweather = 1"), "scenario.weather: "),
        (("min_processors = 8", "min_processors = 8\nmax_processors = 4"), "max_processors: is 4"),
        (("[settings]", "[settings"), "line 2"),
        (("[settings]", "[machinetypes.odd]\ntarget_share = nan\n\n[settings]"), "odd.target_share: expected a finite"),
        (
            ("[settings]", "[machinetypes.odd]\ntarget_share = -1.0\n\n[settings]"),
            "odd.target_share: expected at least 0",
        ),
        (
            ("[settings]", "[machinetypes.odd]\ntarget_share = 1e300\n\n[settings]"),
            "odd.target_share: expected at most",
        ),
    ],
)
def test_mistakes_are_one_line_each(small: Path, change: tuple[str, str], said: str) -> None:
    small.write_text(SMALL.replace(*change, 1))
    code, out, err = lm(small)
    assert code == 1
    assert out == ""
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("rows", ["1,one", "x,one,3", "0,one,-5", "0,one,nan", "0,one,5,0", "\0"])
def test_arrivals_that_make_no_sense_are_one_line(small: Path, tmp_path: Path, rows: str) -> None:
    jobs = tmp_path / "jobs.csv"
    jobs.write_text(rows + "\n")
    code, _, err = lm("--arrivals", jobs, small)
    assert code == 1
    assert str(jobs) in err


def test_png_without_its_library_says_what_to_install(small: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cairosvg", None)
    code, _, err = lm("--picture", tmp_path / "a.png", small)
    assert code == 1
    assert "pip install 'lmd[pictures]'" in err


def test_lm_lists_it() -> None:
    shown = subprocess.run(
        [sys.executable, "-c", "from lmd.cli.main import main; main()", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "simulate" in shown.stdout
