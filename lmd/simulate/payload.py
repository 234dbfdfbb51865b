"""What a simulated machine does: how long it works, and with which message it ends."""

import random
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from lmd.simulate.scenario import Behaviour, Job

HOUR = 3600.0
MESSAGES = {"no-work": 300, "failure": 500, "silence": None}


@dataclass(frozen=True, slots=True)
class Course:
    """A machine's life as it would go: it ends after `seconds` with `code`; of that, `worked` seconds are of use.

    `killed`: it does not end by itself, but at its shutdown time. `jobs`: ends of its jobs, in seconds from its start.
    """

    seconds: float
    code: int | None
    worked: float
    killed: bool = False
    jobs: tuple[float, ...] = ()


class Payloads:
    """Draws the courses of machines; jobs from a list of arrivals are taken once."""

    def __init__(self, behaviours: Mapping[str, Behaviour], queues: Mapping[str, list[Job]], seed: int) -> None:
        self._behaviours = behaviours
        self._queues = {name: list(reversed(jobs)) for name, jobs in queues.items()}
        self._random = random.Random(seed)  # noqa: S311
        self._usual = Behaviour()

    def behaviour(self, name: str) -> Behaviour:
        """That of the type; the usual one where the scenario says nothing."""
        return self._behaviours.get(name, self._usual)

    def course(self, name: str, now: float, start: float, limit: float) -> Course:
        """The life of a machine whose payload begins at `start` and that is ended at `limit`."""
        does = self.behaviour(name)
        ready = now + does.start_seconds
        hour = (ready - start) / HOUR
        room = max(limit - ready, 0.0)
        phase = next((phase for phase in does.phases if phase.covers(hour)), None)
        if phase is not None:
            return Course(does.start_seconds + min(phase.after_seconds, room), MESSAGES[phase.meets], 0.0)
        if does.fails and self._random.random() < does.fails:
            return Course(does.start_seconds + self._random.random() * room, 600, 0.0)
        if name in self._queues:
            return self._from_queue(name, ready - start, does, room)
        if does.job_hours is None:
            return Course(does.start_seconds + room, None if does.deaf else 100, room, killed=does.deaf)
        return self._drawn(does, start, ready, room)

    def _drawn(self, does: Behaviour, start: float, ready: float, room: float) -> Course:
        """Jobs one after the other, as long as there is work when one ends, and a job that fits the time that is left.

        A machine that is deaf takes any job, and may be ended in the middle of it.
        """
        low, high = (hours * HOUR for hours in does.job_hours or (0.0, 0.0))
        used = 0.0
        ends: list[float] = []
        while not does.jobs or len(ends) < does.jobs:
            if used + low > room and not does.deaf:
                break
            most = high if does.deaf else min(high, room - used)
            seconds = max(self._random.uniform(low, most), 1.0)
            if used + seconds > room:
                return Course(does.start_seconds + room, None, used, killed=True, jobs=tuple(ends))
            used += seconds
            ends.append(used)
            if any(phase.covers((ready - start + used) / HOUR) for phase in does.phases):
                return Course(does.start_seconds + used, 300, used, jobs=tuple(ends))
        return Course(does.start_seconds + used, 200, used, jobs=tuple(ends))

    def _from_queue(self, name: str, ready: float, does: Behaviour, room: float) -> Course:
        """Jobs that have arrived by then; what arrives while the machine works is taken too."""
        queue = self._queues[name]
        used = 0.0
        ends: list[float] = []
        while queue and queue[-1].at <= ready + used and used + queue[-1].seconds <= room:
            used += queue.pop().seconds
            ends.append(used)
        if not ends:
            return Course(does.start_seconds + min(30.0, room), 300, 0.0)
        return Course(does.start_seconds + used, 200, used, jobs=tuple(ends))

    def told(self, name: str, course: Course, age: float, by: float) -> Course:
        """The life of a machine that is told, `age` seconds after its start, to end `by` that age.

        One that listens ends within its notice, after a job if one ends in that time; what it has done counts. One
        that is deaf is ended, and its last job is lost.
        """
        does = self.behaviour(name)
        if by >= course.seconds:
            return course
        boot = does.start_seconds
        ended = bisect_right(course.jobs, by - boot)
        last = course.jobs[ended - 1] if ended else 0.0
        if does.deaf:
            return Course(by, None, last if course.jobs else max(by - boot, 0.0), killed=True, jobs=course.jobs[:ended])
        if course.jobs and ended and boot + last >= age:
            return Course(boot + last, 100, last, jobs=course.jobs[:ended])
        end = age + (by - age) * (0.2 + 0.6 * self._random.random())
        return Course(end, 100, max(end - boot, 0.0), jobs=course.jobs[:ended])
