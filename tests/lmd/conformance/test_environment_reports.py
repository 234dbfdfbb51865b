"""Portraits: read as what a payload left, and compared field by field."""

from dataclasses import replace

import pytest

from lmd.conformance import BY_HTTP, CHECKS, WITH_REPOSITORY, Difference, Ground, Report, Trial, compare, parse
from lmd.conformance.both import chosen, listed
from runtimes.conformance.check import Violation
from runtimes.conformance.checks import CHECKS as CONTRACT_CHECKS

ENVIRON = b"JOBOUTPUTS=/var/spool/joboutputs\0LM_JOB_ID=a=b\0PATH=/bin\0"
LINES = {
    "hostname": "one",
    "environ": ENVIRON.hex(),
    "machinefeatures.total_cpu": b"2".hex(),
    "jobfeatures.job_id": b"id-1".hex(),
    "engine.uid_map": "30",
    "place./user_data": "regular file 500 0:0",
}


def changed(**lines: str) -> Report:
    return Report({**LINES, **lines})


def test_a_report_is_read_from_its_lines() -> None:
    report = parse(b"hostname=one\nplace./x=directory 755 0:0\narguments=2\nargument.1=61\nargument.2=\n")
    assert report.text("place./x") == "directory 755 0:0"
    assert report.arguments() == [b"a", b""]


@pytest.mark.parametrize("content", [b"", b"no key\n", b"a=b\n\x00\n"])
def test_what_is_no_report_is_a_violation(content: bytes) -> None:
    with pytest.raises(Violation, match="report is not one"):
        parse(content)


def test_a_field_that_is_missing_or_no_hex_is_a_violation() -> None:
    with pytest.raises(Violation, match="nothing of clock"):
        changed().text("clock")
    with pytest.raises(Violation, match="not hex"):
        changed(environ="xyz").environment()


def test_variables_are_read_with_equal_signs_in_their_values() -> None:
    assert changed().environment() == {"JOBOUTPUTS": "/var/spool/joboutputs", "LM_JOB_ID": "a=b", "PATH": "/bin"}


def test_mounts_are_read_with_blanks_in_their_paths() -> None:
    line = b"12 34 8:1 /var/my\\040files /etc/machinefeatures ro,nosuid master:1 - ext4 /dev/vda rw\n"
    (mount,) = changed(**{"engine.mounts": line.hex()}).mounts()
    assert (mount.root, mount.target, mount.read_only, mount.kind) == (
        "/var/my files",
        "/etc/machinefeatures",
        True,
        "ext4",
    )


def test_machines_differ_in_what_is_their_own_and_their_engines_alone() -> None:
    other = changed(
        hostname="two",
        environ=ENVIRON.replace(b"a=b", b"c").replace(b"/bin", b"/sbin").hex(),
        **{"jobfeatures.job_id": b"id-2".hex(), "engine.uid_map": "31"},
    )
    assert compare(changed(), other) == []


@pytest.mark.parametrize(
    ("lines", "difference"),
    [
        ({"machinefeatures.total_cpu": "34"}, Difference("machinefeatures.total_cpu", "32", "34")),
        ({"jobfeatures.extra": "31"}, Difference("jobfeatures.extra", None, "31")),
        ({"hostname": ""}, Difference("hostname", "(its own)", "")),
        (
            {"environ": ENVIRON.replace(b"LM_JOB_ID=a=b\0", b"").hex()},
            Difference("environ.LM_JOB_ID", "(its own)", None),
        ),
        (
            {"place./user_data": "regular file 755 0:0"},
            Difference("place./user_data", "regular file 500 0:0", "regular file 755 0:0"),
        ),
    ],
)
def test_any_other_difference_is_told(lines: dict[str, str], difference: Difference) -> None:
    assert compare(changed(), changed(**lines)) == [difference]


async def test_two_machines_of_one_type_have_the_same_portrait(ground: Ground) -> None:
    one = await Trial(ground).portrait()
    other = await Trial(replace(ground, kept={})).portrait()
    assert one.record.id != other.record.id
    assert compare(one.report(), other.report()) == []


@pytest.fixture(scope="session")
def portraits() -> dict[str, Report]:
    """One of each engine."""
    return {}


async def test_all_engines_give_the_same_portrait(ground: Ground, portraits: dict[str, Report], podman) -> None:
    report = (await Trial(ground).portrait()).report()
    assert {name: compare(report, other) for name, other in portraits.items()} == {name: [] for name in portraits}
    portraits[podman.options["oci_runtime"]] = report


def test_names_of_checks_are_unique_over_both_suites() -> None:
    names = [entry.name for entry in listed()]
    assert len(names) == len(set(names)) == len(CHECKS) + len(BY_HTTP) + len(WITH_REPOSITORY) + len(CONTRACT_CHECKS) + 1


def test_checks_for_which_a_network_is_made_are_made_only_if_asked_for() -> None:
    usual = {entry.name for entry in chosen(listed(), ())}
    assert {"features-are-served", "notice-is-served"} & usual == set()
    assert {entry.name for entry in chosen(listed(), (), http=True)} - usual >= {"features-are-served"}
    assert [entry.name for entry in chosen(listed(), ("notice-is-served",))] == ["notice-is-served"]
