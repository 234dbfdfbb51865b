"""The environment by HTTP, for types whose `features_form` is "http": the same in a container and in a virtual machine.

Its machines are in the factory's network, which is made for them and needs root.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from lmd.conformance.beside import Live
from lmd.conformance.check import check, expect, needs
from lmd.conformance.checks.ending import ended_as, stopped
from lmd.conformance.checks.featuring import expected
from lmd.conformance.trial import Left, Trial
from lmd.environment import features
from lmd.environment.outcome import Decided, Exit

SERVED = "served"
QUOTA = 2_000_000
FORM: Mapping[str, Any] = {"network": "lmd", "features_form": "http"}
WORDS = """#!/bin/sh
cd "$(mktemp -d)" || exit 1
metadata=http://169.254.169.254
host=${JOBOUTPUTS#http://}
host=${host%%/*}
get() { timeout 20 wget -q -O - "$1"; }
put() {
    (printf 'PUT /joboutputs/%s HTTP/1.0\\r\\nContent-Length: %s\\r\\n\\r\\n' "$1" "$(wc -c <"$1")"; cat "$1") |
        nc "$host" 80 | head -n 1
}
"""
LOOK = """
echo x >heart && put heart
env >variables
echo "##user_data_machinefeatures_url## ##user_data_joboutputs_url##" >patterns
for tree in "$MACHINEFEATURES" "$JOBFEATURES"; do
    for key in $(get "$tree/" | sed -n 's/.*<a href="\\([^"]*\\)">.*/\\1/p'); do
        printf '%s %s %s\\n' "${tree##*/}" "$key" "$(get "$tree/$key")"
    done
done >features
get $metadata/latest/user-data >user_data
get $metadata/openstack/latest/user_data >user_data_of_openstack
get $metadata/latest/meta-data/instance-id >id
get $metadata/openstack/latest/meta_data.json >meta_data.json
get $metadata/latest/meta-data/hostname >name
dd if=/dev/zero of=large bs=1000000 count=3 2>/dev/null
for name in variables patterns features user_data user_data_of_openstack id meta_data.json name large; do
    echo "$name $(put $name)"
done >answers
get "$JOBOUTPUTS/features" | cmp - features && echo same >again && put again
put answers
echo "200 Served" >shutdown_message && put shutdown_message
exit 3
"""
POLITE = """
trap 'asked=yes' TERM
now() { get "$MACHINEFEATURES/shutdowntime"; }
before=$(now)
echo here >here && put here
while [ "$(now)" = "$before" ] || [ -z "${asked-}" ]; do sleep 0.1; done
echo $((before - $(now))) >earlier && put earlier
echo "150 asked, and done" >shutdown_message && put shutdown_message
"""


async def _served(trial: Trial) -> Left:
    """The machine that has asked for all of it; one for the checks of a run."""
    needs(os.geteuid() == 0, 'network = "lmd" needs root')
    if SERVED not in trial.ground.kept:
        heart: dict[str, Any] = {"heartbeat_file": "heart", "fizzle_seconds": int(trial.ground.deadline)}
        trial.ground.kept[SERVED] = await trial.run(WORDS + LOOK, joboutputs_bytes=QUOTA, **heart, **FORM)
    return trial.ground.kept[SERVED]


@check("features by HTTP have the keys and values of the specification, and the three variables hold their URLs")
async def features_are_served(trial: Trial) -> None:
    left = await _served(trial)
    given = dict(line.split("=", 1) for line in left.file("variables").decode().splitlines() if "=" in line)
    for name, url in features.variables("http", {}).items():
        expect(given.get(name) == url, f"{name} is {given.get(name)!r}, not {url!r}")
    lines = [line.split(" ", 2) for line in left.file("features").decode().splitlines()]
    found = {(tree, key): value for tree, key, value in lines}
    wanted = {(tree, key): value for tree, values in expected(left).items() for key, value in values.items()}
    wrong = sorted(each for each in found.keys() | wanted.keys() if found.get(each) != wanted.get(each))
    expect(not wrong, "; ".join(f"{'/'.join(e)} is {found.get(e)!r}, not {wanted.get(e)!r}" for e in wrong))


@check("EC2 and OpenStack metadata give the machine's user_data, with URLs in its patterns, its id and its name")
async def metadata_are_served(trial: Trial) -> None:
    left = await _served(trial)
    urls = features.variables("http", {})
    patterns = left.file("patterns").decode().strip()
    expect(patterns == f"{urls['MACHINEFEATURES']} {urls['JOBOUTPUTS']}", f"the patterns became {patterns!r}")
    script = left.file("user_data")
    expect(script.startswith(b"#!/bin/sh") and urls["JOBOUTPUTS"].encode() in script, f"user-data is {script[:80]!r}")
    expect(left.file("user_data_of_openstack") == script, "OpenStack's user_data is not EC2's user-data")
    told = json.loads(left.file("meta_data.json"))
    ids = {left.file("id").decode().strip(), told["uuid"], left.record.job_id}
    expect(len(ids) == 1, f"the machine's id is told in several ways: {sorted(ids)}")
    names = {left.file("name").decode().strip(), told["name"], left.record.id}
    expect(len(names) == 1, f"the machine's name is told in several ways: {sorted(names)}")


@check("joboutputs that are PUT arrive whole, can be read back, and are refused beyond the quota with nothing kept")
async def outputs_are_taken(trial: Trial) -> None:
    left = await _served(trial)
    answers = dict(line.split(" ", 1) for line in left.file("answers").decode().splitlines())
    large = answers.pop("large", "")
    expect(" 507" in large, f"3 MB in a quota of {QUOTA} bytes are answered {large!r}, not 507")
    expect(not (left.joboutputs / "large").exists(), "a refused file was kept")
    wrong = {name: answer for name, answer in answers.items() if " 201" not in answer}
    expect(not wrong, f"not answered 201: {wrong}")
    expect(left.file("again") == b"same\n", "what was PUT is not read back")


@check("a shutdown message that was PUT is how the machine ended, and a heartbeat that was PUT keeps it alive")
async def message_by_put_is_the_outcome(trial: Trial) -> None:
    left = await _served(trial)
    ended_as(left, Exit.SUCCESS, "200 Served", Decided.PAYLOAD)
    expect(bool(left.file("heart")), "the heartbeat file is empty")


@check("an earlier shutdowntime is told by HTTP at once to a machine that is asked to stop")
async def notice_is_served(trial: Trial) -> None:
    needs(os.geteuid() == 0, 'network = "lmd" needs root')

    async def act(live: Live) -> None:
        await live.left("here")
        # At most: a virtual machine on a busy host takes its time to hear of it and to say so.
        await stopped(live, grace=max(10, int(live.patience / 2)))

    left = await trial.run(WORDS + POLITE, act=act, **FORM)
    ended_as(left, Exit.STOPPED, "150 asked, and done", Decided.PAYLOAD)
    expect(int(left.file("earlier")) > 60, f"shutdowntime moved by {left.file('earlier')!r} s only")


CHECKS = (
    features_are_served,
    metadata_are_served,
    outputs_are_taken,
    message_by_put_is_the_outcome,
    notice_is_served,
)
