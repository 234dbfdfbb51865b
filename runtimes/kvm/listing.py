"""What libvirt and the host know of our domains, as the contract's words. Blocking."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import libvirt

from runtimes.contract import End, Seen, State
from runtimes.kvm.domain import STAMP, stamp_of
from runtimes.kvm.ends import REASONS, Facts, began, end, over
from runtimes.kvm.place import Place, tail

STARTING = 11
"""VIR_DOMAIN_PAUSED_STARTING_UP, which the Python binding has not in every version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One of our domains: its stamp, whether QEMU runs for it, and in which phase it is."""

    name: str
    stamp: dict[str, str]
    state: State
    active: bool
    vcpus: int
    memory_bytes: int
    started: float | None
    end: End | None


def stamp(domain: libvirt.virDomain) -> dict[str, str]:
    """The stamp of a domain that is ours; empty for every other. Raises libvirtError if that cannot be told."""
    try:
        found = stamp_of(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, STAMP))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return {}
        raise
    return found if found.get("id") == domain.name() else {}


def listed(connection: libvirt.virConnect, root: Path, logs: Path) -> Sequence[Seen]:
    """All our machines; a domain that vanishes while it is looked at is left out."""
    machines = []
    for domain in connection.listAllDomains():
        with suppress(_Vanished):
            if one := _look(domain, root, logs):
                machines.append(seen(one))
    return machines


def found(connection: libvirt.virConnect, place: Place, logs: Path) -> Listed | None:
    """One machine; None if there is no such domain, or it is not ours."""
    with suppress(_Vanished):
        try:
            domain = connection.lookupByName(place.machine_id)
        except libvirt.libvirtError as error:
            raise _vanished(error) from error
        return _look(domain, place.root, logs)
    return None


def seen(one: Listed) -> Seen:
    """In the contract's words."""
    words = one.stamp
    processors = float(words["processors"]) if words.get("processors") else None
    memory = int(words["memory"]) if words.get("memory") else None
    return Seen(
        id=one.name,
        runtime="kvm",
        owner=words.get("owner", ""),
        space=words.get("space", ""),
        machinetype=words.get("machinetype", ""),
        digest=words.get("digest", ""),
        state=one.state,
        created=_created(words),
        started=one.started,
        end=one.end,
        first_uid=int(words["uid"]) if words.get("uid", "").isdecimal() else None,
        processors=min(processors, one.vcpus) if processors else None,
        memory_bytes=min(memory, one.memory_bytes) if memory else None,
        image_digest=words.get("image") or None,
        address=words.get("address") or None,
        mac=words.get("mac") or None,
    )


class _Vanished(Exception):
    """The domain was there a moment ago."""


def _vanished(error: libvirt.libvirtError) -> Exception:
    return _Vanished() if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN else error


def _look(domain: libvirt.virDomain, root: Path, logs: Path) -> Listed | None:
    try:
        words = stamp(domain)
        if not words:
            return None
        state, reason = domain.state()
        info = domain.info()
    except libvirt.libvirtError as error:
        raise _vanished(error) from error
    name = domain.name()
    place = Place(root, name)
    noted = started = place.started()
    log = "" if started and state != libvirt.VIR_DOMAIN_SHUTOFF else tail(logs / f"{name}.log")
    if started is None and (logged := began(log)) and logged > _created(words) - 1:
        started = logged
    phase, how = _phase(state, reason), None
    if state == libvirt.VIR_DOMAIN_SHUTOFF:
        ran = noted is not None or (started is not None and (over(log) or place.report()[0] != ""))
        phase = State.EXITED if ran else State.CREATED  # off, and QEMU has begun: it is just being started
        how = _end(place, words, reason, log) if ran else None
    return Listed(
        name=name,
        stamp=words,
        state=phase,
        active=state != libvirt.VIR_DOMAIN_SHUTOFF,
        vcpus=info[3],
        memory_bytes=info[1] * 1024,
        started=None if phase is State.CREATED else started or _created(words),
        end=how,
    )


def _phase(state: int, reason: int) -> State:
    if state == libvirt.VIR_DOMAIN_PAUSED:
        return State.CREATED if reason == STARTING else State.PAUSED
    return State.RUNNING


def _end(place: Place, words: dict[str, str], reason: int, log: str) -> End:
    if known := place.end():
        return known
    report, at = place.report()
    facts = Facts(
        reason=REASONS.get(reason) or place.event(),
        log=log,
        direct=words.get("direct") == "yes",
        report=report,
        reported=at,
        by=place.shutdown(),
    )
    return place.keep_end(end(facts))


def _created(words: dict[str, str]) -> float:
    try:
        return float(words.get("created", "0"))
    except ValueError:
        return 0.0
