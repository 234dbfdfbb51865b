"""How a machine ended, from what is known: the guest's own report, libvirt's reason, the last line of QEMU's log. Pure.

libvirt forgets why a domain is off when it is restarted; then its log still says it, and the report does.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from runtimes.contract import End, EndReason

REASONS = {1: "shutdown", 2: "destroyed", 3: "crashed", 4: "migrated", 5: "saved", 6: "failed", 8: "daemon"}
"""virDomainShutoffReason by the words that libvirt writes into QEMU's log; others say nothing."""

_LOGGED = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+0000): shutting down, reason=(\w+)", re.MULTILINE)
_STARTED = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+0000): starting up", re.MULTILINE)
_REPORT = re.compile(r"(exit|oom|failed) ?(.*)")
_SIGNALS = range(129, 193)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of a machine that is off. `report` is the guest's, empty if it gave none; `reported` its time.

    `reason` is libvirt's, None if it has forgotten; `log` the end of QEMU's log. `direct`: the guest ought to report.
    `by`: who had it switched off, `guest` or `host`; empty where nobody has heard that.
    """

    reason: str | None
    log: str
    direct: bool
    report: str = ""
    reported: float | None = None
    by: str = ""


def began(log: str) -> float | None:
    """When QEMU last started, by its log (Unix seconds); None if the log does not say."""
    found = _STARTED.findall(log)
    return _time(found[-1]) if found else None


def over(log: str) -> bool:
    """True if QEMU has been shut down since it last started, by its log. It says that it starts before libvirt has
    the domain as anything but off."""
    starts = [found.end() for found in _STARTED.finditer(log)]
    return _LOGGED.search(log, starts[-1] if starts else 0) is not None


def end(facts: Facts) -> End:
    """The end by the best witness there is."""
    logged = _LOGGED.findall(facts.log)
    at, said = (_time(logged[-1][0]), logged[-1][1]) if logged else (None, "")
    if facts.report:
        return _reported(facts.report, facts.reported or at)
    return _by_reason(facts.reason or said, at, facts)


def _reported(report: str, at: float | None) -> End:
    match = _REPORT.fullmatch(report.strip()[:300])
    if match and match[1] == "failed":
        return End(reason=EndReason.CRASHED, at=at, detail=_printable(match[2]))
    if match is None or not match[2].isdecimal() or int(match[2]) > 255:
        return End(reason=EndReason.LOST, at=at, detail="the guest's report cannot be understood")
    code = int(match[2])
    if match[1] == "oom":
        return End(reason=EndReason.OOM, exit_code=code, at=at, detail="the memory limit was reached")
    if code in _SIGNALS:
        return End(reason=EndReason.KILLED, exit_code=code, at=at, detail=f"signal {code - 128}")
    return End(reason=EndReason.FAILED if code else EndReason.CLEAN, exit_code=code, at=at)


def _by_reason(reason: str, at: float | None, facts: Facts) -> End:
    if reason == "destroyed":
        return End(reason=EndReason.KILLED, at=at, detail="it was forced to end")
    if reason in ("crashed", "failed"):
        return End(reason=EndReason.CRASHED, at=at, detail="the guest's kernel panicked, or QEMU was killed")
    if reason == "shutdown" and facts.by == "host":
        return End(reason=EndReason.KILLED, at=at, detail="QEMU was told to end, as when the host shuts down")
    if reason == "shutdown" and (facts.by == "guest" or not facts.direct):
        return End(reason=EndReason.CLEAN, at=at, detail="the guest switched itself off or rebooted")
    if reason == "shutdown":
        return End(reason=EndReason.LOST, at=at, detail="the guest switched itself off or rebooted without a report")
    return End(reason=EndReason.LOST, at=at, detail="libvirt has forgotten why it ended")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def _time(text: str) -> float:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f%z").timestamp()
