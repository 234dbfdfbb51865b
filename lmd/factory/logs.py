"""The daemon's log: one line an event, JSON for the journal, colours for people on a terminal."""

import logging
import sys
from typing import Any

import structlog

from lmd.factory.rows import Event

LOUD = frozenset({"failed", "warning-raised", "create-unsure", "notice-failed", "clock-jumped"})
"""Kinds of event that are logged as warnings."""


def configured(form: str) -> Any:
    """The logger; `form` is `json`, `text`, or `auto`: text on a terminal."""
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if as_text
        else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not as_text),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    return structlog.get_logger()


def event_log(logger: Any) -> Any:
    """What `Events` calls for each event."""

    def log(event: Event) -> None:
        values = {"seq": event.seq, **({"machine": event.machine} if event.machine else {}), **event.data}
        (logger.warning if event.kind in LOUD else logger.info)(event.kind, **values)

    return log
