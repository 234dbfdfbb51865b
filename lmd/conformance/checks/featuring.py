"""Machine/job features as the payload reads them (HSF-TN-2016-02), and the variables that lead to them."""

import asyncio
import time

from lmd.conformance.beside import Live
from lmd.conformance.check import check, expect, needs
from lmd.conformance.ground import RATING
from lmd.conformance.trial import Left, Trial, portrait_script
from runtimes.contract import Limit, Seen

PLACES = {
    "MACHINEFEATURES": "/etc/machinefeatures",
    "JOBFEATURES": "/etc/jobfeatures",
    "JOBOUTPUTS": "/var/spool/joboutputs",
}
FEATURES = (("machinefeatures", PLACES["MACHINEFEATURES"]), ("jobfeatures", PLACES["JOBFEATURES"]))
OLDER = {
    "phys_cores",
    "log_cores",
    "jobslots",
    "allocated_CPU",
    "wall_limit_secs_lrms",
    "cpu_limit_secs_lrms",
    "cpufactor_lrms",
    "mem_limit_MB",
}
"""Names of Vac's time: in the directories for old readers, not among the variables."""

WATCH = """#!/bin/sh
trap 'exit 0' TERM
cd "$MACHINEFEATURES" || exit 1
before=
while :; do
    now=$(cat shutdowntime) || now=gone
    job=$(cat "$JOBFEATURES/shutdowntime_job") || job=gone
    if [ "$now $job" != "$before" ]; then
        before="$now $job"
        echo "$before" >>"$JOBOUTPUTS/seen"
    fi
    sleep 0.02
done
"""


def expected(left: Left) -> dict[str, dict[str, str]]:
    """Every key and its value, from what is on record of the machine and from its type."""
    record, processors = left.record, left.record.processors
    began, ends = int(record.created), int(record.shutdown_time)
    memory = left.type.mb_per_processor * processors * 2**20
    wall, rating = str(ends - began), str(RATING * processors)
    machine = {
        "total_cpu": str(processors),
        "hs06": rating,
        "shutdowntime": str(ends),
        "grace_secs": str(record.grace),
        "phys_cores": str(processors),
        "log_cores": str(processors),
        "jobslots": "1",
    }
    job = {
        "job_id": record.job_id,
        "allocated_cpu": str(processors),
        "hs06_job": rating,
        "shutdowntime_job": str(ends),
        "grace_secs_job": str(record.grace),
        "jobstart_secs": str(began),
        "wall_limit_secs": wall,
        "cpu_limit_secs": str((ends - began) * processors),
        "max_rss_bytes": str(memory),
        "max_swap_bytes": "0",
        "allocated_CPU": str(processors),
        "wall_limit_secs_lrms": wall,
        "cpu_limit_secs_lrms": str((ends - began) * processors),
        "cpufactor_lrms": "1.0",
        "mem_limit_MB": str(memory // 1_000_000),
    }
    return {"machinefeatures": machine, "jobfeatures": job}


VIRTIOFS_SECONDS = 2.5
"""A guest may keep what it knows of a file of the host for a second; then it has to ask again."""


@check("machine and job features have every key of the specification, with the right value and no newline")
async def features_have_every_key(trial: Trial) -> None:
    left = await trial.portrait()
    _features_right(left)


@check("features are read-only in the machine: no file can be changed, moved or added, and every user may read them")
async def features_are_read_only(trial: Trial) -> None:
    report = (await trial.portrait()).report()
    for name, place in FEATURES:
        for what in ("writable", "changeable", "movable"):
            expect(report.text(f"{what}.{place}") == "no", f"{place} is {what} for the payload")
        mounted = [mount for mount in report.mounts() if mount.target == place]
        expect(bool(mounted) and all(mount.read_only for mount in mounted), f"{place} is not mounted read-only")
        kind, mode, *_ = report.text(f"place.{place}").split()
        expect((kind, mode) == ("directory", "755"), f"{place} is a {kind} of mode {mode}, not a directory of 755")
        for key in report.below(name):
            found = report.text(f"place.{place}/{key}").rpartition(" ")[0]
            expect(found == "regular file 644", f"{place}/{key} is a {found}, not a regular file 644")


@check("the three variables hold directories, where the type says path")
async def variables_hold_paths(trial: Trial) -> None:
    given = (await trial.portrait()).report().environment()
    for name, place in PLACES.items():
        expect(given.get(name) == place, f"{name} is {given.get(name)!r}, not {place!r}")


@check("the three variables hold file:// URLs of the same directories, where the type says file-url")
async def variables_hold_file_urls(trial: Trial) -> None:
    left = await trial.run(portrait_script(), features_form="file-url")
    given = left.report().environment()
    for name, place in PLACES.items():
        expect(given.get(name) == f"file://{place}", f"{name} is {given.get(name)!r}, not {f'file://{place}'!r}")
    _features_right(left)


@check("each feature has its twin among the variables: LM_ and the key in capitals, with the same value")
async def twins_equal_the_features(trial: Trial) -> None:
    left = await trial.portrait()
    keys = {key: value for values in expected(left).values() for key, value in values.items() if key not in OLDER}
    wanted = {f"LM_{key.upper()}": value for key, value in keys.items()}
    given = {name: value for name, value in left.report().environment().items() if name.startswith("LM_")}
    wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    expect(not wrong, "; ".join(f"{name} is {given.get(name)!r}, not {wanted.get(name)!r}" for name in wrong))


@check("the machine's clock lies between the jobstart_secs and the shutdowntime it is told, whatever its time zone")
async def clock_agrees_with_the_features(trial: Trial) -> None:
    left = await trial.portrait()
    clock, values = int(left.report().text("clock")), expected(left)
    began, ends = int(values["jobfeatures"]["jobstart_secs"]), int(values["machinefeatures"]["shutdowntime"])
    expect(began <= clock < ends, f"the machine's clock says {clock}, which is not between {began} and {ends}")


@check("the processors and the memory that the features promise are the limits in force")
async def features_tell_the_limits_in_force(trial: Trial) -> None:
    limits = trial.ground.can.limits
    needs(limits >= {Limit.PROCESSORS, Limit.MEMORY}, trial.ground.can.absent.get("limits", "limits are not claimed"))
    seen: list[Seen] = []

    async def act(live: Live) -> None:
        seen.append(live.seen)
        await live.runtime.stop(live.seen.id, grace=2)

    told = expected(await trial.run(WATCH, act=act, max_processors=2))["jobfeatures"]
    processors, memory = int(told["allocated_cpu"]), int(told["max_rss_bytes"])
    expect(seen[0].processors == processors, f"{seen[0].processors} processors are in force, {processors} are told")
    expect(seen[0].memory_bytes == memory, f"{seen[0].memory_bytes} bytes of memory are in force, {memory} are told")


@check("shutdowntime that moves earlier is seen at once in the directory that is open; it never moves later")
async def shutdown_time_moves_earlier_at_once(trial: Trial) -> str:
    slowest, times = 0.0, list[int]()

    async def act(live: Live) -> None:
        nonlocal slowest
        first = int(live.record.shutdown_time)
        times.extend((first, first - 20, first - 40))
        await live.left("seen")
        for told in times[1:]:
            began = time.monotonic()
            live.directory.move_shutdown_time(told)
            await _until_seen(live, told)
            slowest = max(slowest, time.monotonic() - began)
        live.directory.move_shutdown_time(first)
        await asyncio.sleep(0.3)
        await live.runtime.stop(live.seen.id, grace=2)

    left = await trial.run(WATCH, act=act)
    pairs = [tuple(line.split()) for line in left.file("seen").decode().splitlines()]
    for number, name in enumerate(("shutdowntime", "shutdowntime_job")):
        seen = list(dict.fromkeys(pair[number] for pair in pairs if len(pair) == 2))
        expect(seen == [str(told) for told in times], f"the payload saw {name} as {seen}, told were {times}")
    expect(pairs[-1] == (str(times[-1]),) * 2, f"the payload saw {pairs[-1]} at last, the earliest was {times[-1]}")
    most = 1.0 if trial.ground.can.isolation == "container" else VIRTIOFS_SECONDS + await trial.slack()
    expect(slowest < most, f"the payload saw a change after {slowest:.1f} s only")
    return f"seen within {slowest:.2f} s"


async def _until_seen(live: Live, told: int) -> None:
    last = time.monotonic() + live.patience
    while not (await live.left("seen")).endswith(f"{told} {told}\n".encode()):
        expect(time.monotonic() < last, f"the payload has not seen the shutdown time {told} in {live.patience:g} s")
        await asyncio.sleep(0.03)


def _features_right(left: Left) -> None:
    report = left.report()
    for name, values in expected(left).items():
        given = report.below(name)
        for key in sorted(values.keys() | given.keys()):
            wanted, found = values.get(key), given.get(key)
            expect(found is not None, f"{name}/{key} is missing")
            expect(wanted is not None, f"{name}/{key} is in no specification")
            expect(found == (wanted or "").encode(), f"{name}/{key} is {found!r}, not {wanted!r}")


CHECKS = (
    features_have_every_key,
    features_are_read_only,
    variables_hold_paths,
    variables_hold_file_urls,
    twins_equal_the_features,
    clock_agrees_with_the_features,
    features_tell_the_limits_in_force,
    shutdown_time_moves_earlier_at_once,
)
