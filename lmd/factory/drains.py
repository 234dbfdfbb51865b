"""Why nothing is started, and by when all has to have ended: the configuration's word and the operators'."""

from typing import Any

from lmd.factory.host import Premises

DRAIN, HOST_SHUTDOWN = "drain", "host-shutdown"
"""Intents that the whole factory is drained: an operator's, and that of the host's shutdown."""


def of_type(machinetype: str) -> str:
    """The name of the intent that one type is drained."""
    return f"drain:{machinetype}"


def draining(here: Premises) -> str | None:
    """Why nothing is started; None if machines may be."""
    if not here.ledger.writable:
        return f"the database cannot be written: {here.ledger.fault}"
    if here.config.settings.draining:
        return "draining = true in [settings]"
    return next((_reason(drain) for drain in _in_force(here)), None)


def type_draining(here: Premises, machinetype: str) -> str | None:
    """Why nothing of one type is started."""
    drain = here.ledger.intents.get(of_type(machinetype))
    return _reason(drain) if drain else None


def shutdown_time(here: Premises) -> float | None:
    """The earlier one of the configuration and of a drain with a deadline, in Unix seconds."""
    times = [here.config.settings.shutdown_time, *(drain.get("by_time") for drain in _in_force(here))]
    return min((float(time) for time in times if time is not None), default=None)


def _in_force(here: Premises) -> list[dict[str, Any]]:
    """The drains of the whole factory; one for a host's shutdown ends with the boot."""
    drains = [here.ledger.intents.get(DRAIN), here.ledger.intents.get(HOST_SHUTDOWN)]
    if drains[1] is not None and drains[1].get("boot_id") != here.boot_id:
        drains[1] = None
    return [drain for drain in drains if drain is not None]


def _reason(drain: dict[str, Any]) -> str:
    return str(drain.get("reason") or "drained by the operator")
