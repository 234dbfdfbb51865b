"""How a machine ends, and how that is read: its message, its exit code, its heartbeat, its time, and being stopped."""

import time
from collections.abc import Awaitable, Callable

from lmd.conformance.beside import Live
from lmd.conformance.check import Violation, check, expect
from lmd.conformance.trial import Left, Trial
from lmd.environment.outcome import Decided, Exit

TRIES = 2
SLEEP = "trap 'exit 0' TERM; sleep 60 & wait $!"
DEAF = "trap '' TERM INT HUP; echo here >\"$JOBOUTPUTS/here\"; while :; do sleep 0.2; done"
POLITE = """#!/bin/sh
trap 'asked=yes' TERM
before=$(cat "$MACHINEFEATURES/shutdowntime")
echo here >"$JOBOUTPUTS/here"
while [ "$(cat "$MACHINEFEATURES/shutdowntime")" = "$before" ] || [ -z "${asked-}" ]; do sleep 0.05; done
echo "$((before - $(cat "$MACHINEFEATURES/shutdowntime")))" >"$JOBOUTPUTS/earlier"
echo "150 asked, and done" >"$JOBOUTPUTS/shutdown_message"
"""
BEAT = """#!/bin/sh
trap 'exit 0' TERM
n=0
while [ $n -lt $((9 + 4 * $1)) ]; do n=$((n + 1)); touch "$JOBOUTPUTS/heart"; sleep 0.25; done
echo "200 alive" >"$JOBOUTPUTS/shutdown_message"
"""


@check("a shutdown message 1xx or 2xx is success, whatever the exit code")
async def messages_of_success(trial: Trial) -> None:
    left = await trial.run('#!/bin/sh\necho "200 Success" >"$JOBOUTPUTS/shutdown_message"; exit 3\n')
    ended_as(left, Exit.SUCCESS, "200 Success", Decided.PAYLOAD)


@check("a shutdown message 3xx is told as no work")
async def messages_of_no_work(trial: Trial) -> None:
    left = await trial.run('#!/bin/sh\necho "300 Nothing to do" >"$JOBOUTPUTS/shutdown_message"\n')
    ended_as(left, Exit.NO_WORK, "300 Nothing to do", Decided.PAYLOAD)


@check("a shutdown message 4xx and above is a failure, even with exit code 0")
async def messages_of_failure(trial: Trial) -> None:
    left = await trial.run('#!/bin/sh\necho "500 No disk here" >"$JOBOUTPUTS/shutdown_message"; exit 0\n')
    ended_as(left, Exit.FAILED, "500 No disk here", Decided.PAYLOAD)


@check("an exit code that the type maps to a message is read as that message")
async def exit_codes_are_mapped(trial: Trial) -> None:
    left = await trial.run("#!/bin/sh\nexit 75\n", outcome={"75": "300 no work", "0": "200 finished"})
    ended_as(left, Exit.NO_WORK, "300 no work", Decided.EXIT_CODE)


@check("without a message, exit code 0 is success and another is a failure")
async def exit_codes_speak_for_themselves(trial: Trial) -> None:
    ended_as(await trial.run("#!/bin/sh\nexit 0\n"), Exit.SUCCESS, None, Decided.ENGINE)
    left = await trial.run("#!/bin/sh\nexit 3\n")
    expect(left.outcome.exit is Exit.FAILED, f"exit code 3 is told as {left.outcome.exit.name}")
    expect(left.summary.exit_code == 3, f"the exit code is told as {left.summary.exit_code}, not 3")


@check("a machine that never writes its heartbeat file is ended after fizzle_seconds")
async def missing_heartbeat_ends_it(trial: Trial) -> str:
    async def tried(slack: int) -> str:  # it counts from the decision to start: a busy host takes its time
        left = await trial.run(f"#!/bin/sh\n{SLEEP}\n", heartbeat_file="heart", fizzle_seconds=2 + slack)
        ended_as(left, Exit.HEARTBEAT, "700 Heartbeat file not created", Decided.SUPERVISOR)
        return _between(left, 0.0 if slack else 0.5, 5.0 + 3 * slack)

    return await _given_time(trial, tried)


@check("a machine whose heartbeat stops is ended after heartbeat_seconds")
async def stale_heartbeat_ends_it(trial: Trial) -> str:
    script = f'#!/bin/sh\ntouch "$JOBOUTPUTS/heart"\n{SLEEP}\n'

    async def tried(slack: int) -> str:
        left = await trial.run(script, heartbeat_file="heart", heartbeat_seconds=1, fizzle_seconds=1 + slack)
        ended_as(left, Exit.HEARTBEAT, "700 Heartbeat file not updated", Decided.SUPERVISOR)
        return _between(left, 0.8, 5.0 + 3 * slack)

    return await _given_time(trial, tried)


@check("a machine whose heart beats is left alone")
async def steady_heartbeat_keeps_it(trial: Trial) -> str:
    async def tried(slack: int) -> str:
        left = await trial.run(  # where machines are slow to start, they are slow to beat
            BEAT, args=[str(slack)], heartbeat_file="heart", heartbeat_seconds=1 + slack, fizzle_seconds=1 + slack
        )
        ended_as(left, Exit.SUCCESS, "200 alive", Decided.PAYLOAD)
        return f"it beat for {left.seconds:.1f} s"

    return await _given_time(trial, tried)


async def _given_time(trial: Trial, tried: Callable[[int], Awaitable[str]]) -> str:
    """What comes of `tried`, which is given the seconds that a machine may take to start. The host may have become
    busier since they were measured: what fails is tried again with twice as many, and twice more.
    """
    slack = await trial.slack()
    for _ in range(TRIES if slack else 0):
        try:
            return await tried(slack)
        except Violation:
            slack *= 2
    return await tried(slack)


@check("a machine is ended when its shutdowntime has come")
async def passed_time_ends_it(trial: Trial) -> str:
    async def tried(slack: int) -> str:
        left = await trial.run(f"#!/bin/sh\n{SLEEP}\n", seconds=1)
        ended_as(left, Exit.TIMED_OUT, "700 Passed shutdowntime", Decided.SUPERVISOR)
        # Of a short time nothing may be left when it starts on a busy host.
        return _between(left, 0.0, 4.0 + 2 * slack)

    return await _given_time(trial, tried)


@check("a machine that is asked to stop sees shutdowntime move and SIGTERM, and ends by itself with its own message")
async def asked_machine_ends_by_itself(trial: Trial) -> str:
    grace, took = 10 + await trial.slack(), 0.0

    async def act(live: Live) -> None:
        nonlocal took
        await live.left("here")
        began = time.monotonic()
        await stopped(live, grace=grace)
        took = time.monotonic() - began

    left = await trial.run(POLITE, act=act)
    ended_as(left, Exit.STOPPED, "150 asked, and done", Decided.PAYLOAD)
    expect(int(left.file("earlier")) > 30, f"shutdowntime moved by {left.file('earlier')!r} s only")
    expect(took < grace, f"it ended {took:.1f} s after being asked, with {grace} s of grace")
    return f"ended {took:.1f} s after being asked"


@check("a machine that ignores being asked to stop is ended when its grace is over, not before")
async def deaf_machine_is_ended_after_its_grace(trial: Trial) -> str:
    took = 0.0

    async def act(live: Live) -> None:
        nonlocal took
        await live.left("here")
        began = time.monotonic()
        await stopped(live, grace=1)
        took = time.monotonic() - began

    left = await trial.run(f"#!/bin/sh\n{DEAF}\n", act=act)
    ended_as(left, Exit.STOPPED, "100 Stopped by the operator", Decided.SUPERVISOR)
    expect(1.0 <= took < 4.0 + await trial.slack(), f"it was ended {took:.1f} s after being asked with 1 s of grace")
    return f"ended after {took:.1f} s"


async def stopped(live: Live, grace: int) -> None:
    """As `lm stop` does."""
    live.directory.ask_to_stop("the conformance suite")
    live.directory.move_shutdown_time(time.time() + grace)
    await live.runtime.stop(live.seen.id, grace=grace)


def ended_as(left: Left, wanted: Exit, message: str | None, decided: Decided) -> None:
    outcome = left.outcome
    found = str(outcome.message) if outcome.message else None
    expect(found == message, f"the message is {found!r}, not {message!r}; it ended with {left.summary.exit_code}")
    expect(outcome.exit is wanted, f"the outcome is {outcome.exit.name}, not {wanted.name}")
    expect(outcome.decided is decided, f"the {outcome.decided} decided, not the {decided}")


def _between(left: Left, least: float, most: float) -> str:
    expect(least <= left.seconds <= most, f"it ended after {left.seconds:.1f} s, not within {least:g} to {most:g} s")
    return f"ended after {left.seconds:.1f} s"


CHECKS = (
    messages_of_success,
    messages_of_no_work,
    messages_of_failure,
    exit_codes_are_mapped,
    exit_codes_speak_for_themselves,
    missing_heartbeat_ends_it,
    stale_heartbeat_ends_it,
    steady_heartbeat_keeps_it,
    passed_time_ends_it,
    asked_machine_ends_by_itself,
    deaf_machine_is_ended_after_its_grace,
)
