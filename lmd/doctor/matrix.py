"""What each engine can do, as a table made from probes: for `lm doctor --matrix` and for docs/capabilities.md."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lmd.doctor.runtimes import Runtimes
from runtimes.contract import (
    Capabilities,
    Delivery,
    EndReason,
    ImageKind,
    Limit,
    Network,
)

BEGIN = "<!-- the engines: begin (made by tests/lmd/doctor/test_capabilities_page.py) -->"
END = "<!-- the engines: end -->"
YES, NO = "yes", "–"


@dataclass(frozen=True, slots=True)
class Column:
    """One engine: how it is called, what its probe said, and which optional protocols its class has."""

    title: str
    can: Capabilities
    optional: frozenset[str] = frozenset()


def _in(field: str, value: object) -> Callable[[Column], str]:
    return lambda one: YES if value in getattr(one.can, field) else NO


def _is(field: str) -> Callable[[Column], str]:
    return lambda one: YES if getattr(one.can, field) else NO


def _has(protocol: str) -> Callable[[Column], str]:
    return lambda one: YES if protocol in one.optional else NO


ROWS: Mapping[str, Callable[[Column], str]] = {
    "isolation": lambda one: one.can.isolation,
    **{f"image: {kind}": _in("images", kind) for kind in ImageKind},
    "images kept in the engine": _has("images"),
    **{f"environment by {way}": _in("delivery", way) for way in Delivery},
    **{f"limit on {limit}": _in("limits", limit) for limit in Limit},
    **{f"network {network}": _in("networks", network) for network in Network},
    "user ids of its own": _is("user_namespace"),
    "nested containers": _is("nested_containers"),
    "FUSE in nested containers": _is("fuse"),
    "read-only root": _is("read_only_root"),
    "scratch directories (tmp_binds)": _is("scratch"),
    "devices": _is("devices"),
    "a step before the payload": _is("before_start"),
    "usage": _is("usage"),
    "console (lm logs)": _has("logs"),
    "lm exec, lm shell": _has("exec"),
    **{f"tells an end as {reason}": _in("end_reasons", reason) for reason in EndReason},
}
"""A line of the table each: what it says of an engine."""

OF_THE_HOST = frozenset(
    {
        *(f"limit on {limit}" for limit in Limit),
        *(f"network {network}" for network in Network),
        "FUSE in nested containers",
        "usage",
    }
)
"""Rows in which the same engine differs from host to host."""


def rows(columns: Sequence[Column]) -> list[tuple[str, ...]]:
    """The table, without its head."""
    return [(name, *(tell(one) for one in columns)) for name, tell in ROWS.items()]


def remarks(columns: Sequence[Column]) -> list[str]:
    """Why something is missing, a sentence for each engine and thing."""
    return [
        f"{one.title}, {what.replace('_', ' ')}: {why}"
        for one in columns
        for what, why in sorted(one.can.absent.items())
    ]


def of_host(found: Runtimes) -> list[Column]:
    """The columns of the runtimes of this host that are healthy."""
    return [
        Column(f"{one.name} {one.probe.version}".strip(), one.probe.capabilities, one.optional)
        for one in found.found
        if one.probe.capabilities is not None
    ]


def markdown(columns: Sequence[Column]) -> str:
    """The table and its remarks as they stand in the page."""
    heads = ("", *(one.title for one in columns))
    lines = [heads, tuple("---" for _ in heads), *rows(columns)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return table + "\n\n" + "\n".join(f"- {line}" for line in remarks(columns)) + "\n"


def filled(page: str, columns: Sequence[Column]) -> str:
    """The page with the table between its two marks. Raises ValueError if it lacks them."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the page lacks the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{markdown(columns)}{END}{after}"


def parsed(page: str) -> dict[str, dict[str, str]]:
    """The cells of the table in a page, by engine and row."""
    text = page.partition(BEGIN)[2].partition(END)[0]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    heads, body = lines[0][1:], lines[2:]
    return {head: {line[0]: line[number + 1] for line in body} for number, head in enumerate(heads)}
