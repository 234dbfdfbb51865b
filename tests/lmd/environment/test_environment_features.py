"""Machine/job features: keys, values, the three variables and their twins."""

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmd.environment import features
from lmd.environment.features import Allocation

PLACES = {
    "MACHINEFEATURES": PurePosixPath("/etc/machinefeatures"),
    "JOBFEATURES": PurePosixPath("/etc/jobfeatures"),
    "JOBOUTPUTS": PurePosixPath("/var/spool/joboutputs"),
}


def eight_processors(**changed: object) -> Allocation:
    """The worked example of the vacuum platform: 8 processors, 2048 MiB and 10.5 HS06 each, 24 hours."""
    values = {
        "job_id": "5f4dcc3b-5aa7-4a1c-9d3e-0123456789ab",
        "processors": 8,
        "memory_bytes": 8 * 2048 * 2**20,
        "started": 1_700_000_000.9,
        "shutdown_time": 1_700_086_400.2,
        "grace": 1800,
        "hs06_per_processor": 10.5,
    }
    return Allocation(**(values | changed))  # type: ignore[arg-type]


def test_the_worked_example_has_exactly_these_machinefeatures() -> None:
    assert features.machinefeatures(eight_processors()) == {
        "total_cpu": "8",
        "hs06": "84.0",
        "shutdowntime": "1700086400",
        "grace_secs": "1800",
        "phys_cores": "8",
        "log_cores": "8",
        "jobslots": "1",
    }


def test_the_worked_example_has_exactly_these_jobfeatures() -> None:
    assert features.jobfeatures(eight_processors(swap_bytes=0, scratch_bytes=10**11)) == {
        "job_id": "5f4dcc3b-5aa7-4a1c-9d3e-0123456789ab",
        "allocated_cpu": "8",
        "allocated_CPU": "8",
        "hs06_job": "84.0",
        "shutdowntime_job": "1700086400",
        "grace_secs_job": "1800",
        "jobstart_secs": "1700000000",
        "wall_limit_secs": "86400",
        "wall_limit_secs_lrms": "86400",
        "cpu_limit_secs": "691200",
        "cpu_limit_secs_lrms": "691200",
        "cpufactor_lrms": "1.0",
        "max_rss_bytes": "17179869184",
        "mem_limit_MB": "17179",
        "max_swap_bytes": "0",
        "scratch_limit_bytes": "100000000000",
    }


def test_what_has_no_meaning_on_a_host_is_left_out() -> None:
    given = eight_processors(hs06_per_processor=None)
    assert "hs06" not in features.machinefeatures(given)
    assert not {"hs06_job", "max_swap_bytes", "scratch_limit_bytes"} & features.jobfeatures(given).keys()
    assert "LM_HS06" not in features.twins(given)


def test_a_shutdown_time_that_has_passed_leaves_no_time_at_all() -> None:
    job = features.jobfeatures(eight_processors(shutdown_time=1_600_000_000))
    assert (job["wall_limit_secs"], job["cpu_limit_secs"]) == ("0", "0")


@pytest.mark.parametrize(
    ("rating", "processors", "written"),
    [(10.1, 3, "30.3"), (0.1, 3, "0.3"), (1e-7, 1, "0.0000001"), (1e6, 2, "2000000")],
)
def test_a_rating_is_the_exact_product_without_an_exponent(rating: float, processors: int, written: str) -> None:
    given = eight_processors(hs06_per_processor=rating, processors=processors)
    assert features.machinefeatures(given)["hs06"].removesuffix(".0") == written


@given(
    processors=st.integers(1, 65_536),
    memory=st.integers(0, 2**63),
    started=st.floats(0, 4e9),
    life=st.floats(-1e6, 1e9),
    rating=st.floats(1e-6, 1e6),
)
def test_every_value_is_one_plain_number_or_word(
    processors: int, memory: int, started: float, life: float, rating: float
) -> None:
    allocation = Allocation(
        job_id="a-job",
        processors=processors,
        memory_bytes=memory,
        started=started,
        shutdown_time=max(0.0, started + life),
        grace=0,
        hs06_per_processor=rating,
    )
    values = features.machinefeatures(allocation) | features.jobfeatures(allocation)
    assert values.pop("job_id") == "a-job"
    for key, value in values.items():
        assert re.fullmatch(r"[0-9]+(\.[0-9]+)?", value), key
    job = features.jobfeatures(allocation)
    end = int(job["jobstart_secs"]) + int(job["wall_limit_secs"])
    assert end == max(int(job["shutdowntime_job"]), int(job["jobstart_secs"]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"processors": 0},
        {"job_id": ""},
        {"job_id": "two words"},
        {"job_id": "line\n"},
        {"hs06_per_processor": float("nan")},
        {"hs06_per_processor": float("inf")},
        {"hs06_per_processor": 0.0},
    ],
)
def test_what_no_reader_could_use_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        eight_processors(**wrong)


def test_the_variables_hold_paths_or_urls_as_the_type_asks() -> None:
    assert features.variables("path", PLACES)["JOBFEATURES"] == "/etc/jobfeatures"
    assert features.variables("file-url", PLACES) == {
        "MACHINEFEATURES": "file:///etc/machinefeatures",
        "JOBFEATURES": "file:///etc/jobfeatures",
        "JOBOUTPUTS": "file:///var/spool/joboutputs",
    }
    assert features.variables("http", PLACES) == {
        "MACHINEFEATURES": "http://169.254.169.253/machinefeatures",
        "JOBFEATURES": "http://169.254.169.253/jobfeatures",
        "JOBOUTPUTS": "http://169.254.169.253/joboutputs",
    }
    with pytest.raises(ValueError, match="ftp"):
        features.variables("ftp", PLACES)


def test_a_url_escapes_what_a_path_may_hold() -> None:
    places = PLACES | {"JOBOUTPUTS": PurePosixPath("/run/with blank#/outputs")}
    assert features.variables("file-url", places)["JOBOUTPUTS"] == "file:///run/with%20blank%23/outputs"


def test_each_current_key_has_a_twin_of_the_same_value_and_no_older_key_has_one() -> None:
    given = eight_processors(swap_bytes=0, scratch_bytes=5)
    keys = features.machinefeatures(given) | features.jobfeatures(given)
    twins = features.twins(given)
    assert twins["LM_ALLOCATED_CPU"] == "8"
    assert twins["LM_SHUTDOWNTIME"] == "1700086400"
    assert twins == {f"LM_{key.upper()}": value for key, value in keys.items() if key not in features.OLDER}
    assert not {"LM_JOBSLOTS", "LM_MEM_LIMIT_MB", "OMP_NUM_THREADS"} & twins.keys()
