"""What the fake's machines run: scripts of plain words, and what they have done by a given time.

A script is a sequence of steps, each a word and its arguments:

    print TEXT · shout BYTES · write PATH TEXT · cat PATH · printenv NAME      done at once
    sleep SECONDS · spin SECONDS (uses one processor) · forever                take their time
    take BYTES                          memory in use from now on; above the limit the machine ends by oom
    exit CODE · signal NUMBER · oom · crash                                    the end; without one, code 0
    deaf                                from now on, being asked to stop changes nothing
    when-asked                          what follows runs when the machine is asked to stop (else it ends by SIGTERM)

Nothing runs: a machine's state is computed from its script and the times at which it was started, asked and cut.
So it needs no process, outlives every one of ours, and follows whatever clock it is given.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from runtimes.contract import End, EndReason

ARITY = {
    "print": 1,
    "shout": 1,
    "write": 2,
    "cat": 1,
    "printenv": 1,
    "sleep": 1,
    "spin": 1,
    "forever": 0,
    "take": 1,
    "exit": 1,
    "signal": 1,
    "oom": 0,
    "crash": 0,
    "deaf": 0,
    "when-asked": 0,
}
NUMERIC = {"shout", "sleep", "spin", "take", "exit", "signal"}
EFFECTS = {"print", "shout", "write", "cat", "printenv"}
ENDS = {"exit", "signal", "oom", "crash"}
BASE_MEMORY = 1_000_000
SIGTERM_CODE, SIGKILL_CODE = 143, 137


class BadScript(ValueError):
    """A word that is no step, or a step without its arguments."""


@dataclass(frozen=True, slots=True)
class Step:
    """One word with its arguments."""

    word: str
    args: tuple[str, ...] = ()

    @property
    def number(self) -> float:
        """The first argument as a number."""
        return float(self.args[0])


@dataclass(frozen=True, slots=True)
class Script:
    """The steps that run from the start, and those that run when the machine is asked to stop (None: SIGTERM ends)."""

    main: tuple[Step, ...]
    asked: tuple[Step, ...] | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """A step that shows outside the machine, with its time in Unix seconds."""

    at: float
    step: Step


@dataclass(frozen=True, slots=True)
class History:
    """All that a machine does, the future included if nobody interferes.

    `spinning` holds (from, to) in Unix seconds; `memory` (from, bytes in use from then on); `end` None: runs on.
    """

    effects: tuple[Effect, ...]
    spinning: tuple[tuple[float, float], ...]
    memory: tuple[tuple[float, int], ...]
    end: End | None


def parse(words: Sequence[str]) -> Script:
    """Read a script. Raises `BadScript` naming the word that is wrong."""
    steps: list[Step] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word not in ARITY:
            raise BadScript(f"no such command: {word!r} (the fake's machines know {', '.join(ARITY)})")
        args, rest = tuple(rest[: ARITY[word]]), rest[ARITY[word] :]
        if len(args) < ARITY[word] or (word in NUMERIC and not _is_number(args[0])):
            raise BadScript(f"command {word!r} needs {ARITY[word]} argument(s), numbers where it counts, not {args}")
        steps.append(Step(word, args))
    cuts = [i for i, step in enumerate(steps) if step.word == "when-asked"]
    if not cuts:
        return Script(tuple(steps))
    return Script(tuple(steps[: cuts[0]]), tuple(steps[cuts[0] + 1 :]))


def history(script: Script, started: float, asked: float | None, cut: End | None, memory_limit: int | None) -> History:
    """What a machine with this script does that started then, was asked to stop then, and was cut off so."""
    deaf_from = _deaf_from(script.main, started)
    runs = _run(script.main, started, memory_limit)
    if asked is not None and (deaf_from is None or asked < deaf_from) and _ends_after(runs, asked):
        if script.asked is None:
            by_sigterm = End(reason=EndReason.KILLED, exit_code=SIGTERM_CODE, at=asked, detail="signal 15")
            runs = _cut(runs, by_sigterm)
        else:
            before, after = _cut(runs, None, asked), _run(script.asked, asked, memory_limit)
            runs = History(
                before.effects + after.effects,
                before.spinning + after.spinning,
                before.memory + after.memory[1:],
                after.end,
            )
    if cut is not None and cut.at is not None and _ends_after(runs, cut.at):
        return _cut(runs, cut)
    return runs


def _run(steps: tuple[Step, ...], started: float, memory_limit: int | None) -> History:
    now = started
    effects: list[Effect] = []
    spinning: list[tuple[float, float]] = []
    memory = [(started, BASE_MEMORY)]
    end: End | None = None
    for step in (*steps, Step("exit", ("0",))):
        if step.word in EFFECTS:
            effects.append(Effect(now, step))
        elif step.word in ("sleep", "spin"):
            now += step.number
            if step.word == "spin":
                spinning.append((now - step.number, now))
        elif step.word == "forever":
            break
        elif step.word == "take":
            memory.append((now, int(step.number)))
        over = memory_limit is not None and memory[-1][1] > memory_limit
        if step.word in ENDS or over:
            end = _end(Step("oom") if over else step, now)
            break
    return History(tuple(effects), tuple(spinning), tuple(memory), end)


def _end(step: Step, at: float) -> End:
    if step.word == "exit":
        code = int(step.number)
        return End(reason=EndReason.FAILED if code else EndReason.CLEAN, exit_code=code, at=at)
    if step.word == "signal":
        number = int(step.number)
        return End(reason=EndReason.KILLED, exit_code=128 + number, at=at, detail=f"signal {number}")
    if step.word == "oom":
        return End(reason=EndReason.OOM, exit_code=SIGKILL_CODE, at=at, detail="memory limit")
    return End(reason=EndReason.CRASHED, at=at, detail="the machine crashed")


def _cut(runs: History, end: End | None, at: float = math.inf) -> History:
    if end is not None and end.at is not None:
        at = end.at
    return History(
        tuple(effect for effect in runs.effects if effect.at <= at),
        tuple((begin, min(until, at)) for begin, until in runs.spinning if begin < at),
        tuple(entry for entry in runs.memory if entry[0] <= at),
        end,
    )


def _ends_after(runs: History, at: float) -> bool:
    return runs.end is None or runs.end.at is None or runs.end.at > at


def _deaf_from(steps: tuple[Step, ...], started: float) -> float | None:
    now = started
    for step in steps:
        if step.word == "deaf":
            return now
        if step.word in ("sleep", "spin"):
            now += step.number
        elif step.word == "forever":
            return None
    return None


def _is_number(text: str) -> bool:
    try:
        return 0 <= float(text) < math.inf
    except ValueError:
        return False
