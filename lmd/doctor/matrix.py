"""What each engine can do, as a table made from probes: for `lm doctor --matrix` and for docs/capabilities.md."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmd.doctor.runtimes import Found, Runtimes
from runtimes.contract import Capabilities, Delivery, EndReason, ImageKind, Limit, Network

BEGIN = "<!-- the engines: begin (made by tests/lmd/doctor/test_capabilities_page.py) -->"
END = "<!-- the engines: end -->"
YES, NO = "yes", "–"


@dataclass(frozen=True, slots=True)
class Column:
    """One engine: how it is called, a cell for each row, and why something is missing, by what."""

    title: str
    cells: Mapping[str, str]
    missing: Mapping[str, str]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"engine": self.title, "can": dict(self.cells), "missing": dict(self.missing)}

    def named(self, title: str) -> "Column":
        """The same under another title."""
        return replace(self, title=title)


Told = Callable[[Capabilities, frozenset[str]], str]
"""What one row says of an engine's capabilities and optional protocols."""


def _in(field: str, value: object) -> Told:
    return lambda can, _: YES if value in getattr(can, field) else NO


def _is(field: str) -> Told:
    return lambda can, _: YES if getattr(can, field) else NO


def _has(protocol: str) -> Told:
    return lambda _, optional: YES if protocol in optional else NO


ROWS: Mapping[str, Told] = {
    "isolation": lambda can, _: can.isolation,
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
    "kernel and initramfs of the caller's": _is("boot"),
    "disks of its own": _is("disks"),
    "graphics": _is("graphics"),
    "placement on processors and memory": _is("placement"),
    "lowest weight (class idle)": _is("idle"),
    "usage": _is("usage"),
    "console (lm logs)": _has("logs"),
    "lm exec, lm shell": _has("exec"),
    **{f"tells an end as {reason}": _in("end_reasons", reason) for reason in EndReason},
}

OF_THE_HOST = frozenset(
    {*(f"limit on {limit}" for limit in Limit), "FUSE in nested containers", "lowest weight (class idle)", "usage"}
)
"""Rows in which the same engine differs from host to host."""


def column(found: Found, title: str = "") -> Column | None:
    """The column of a runtime, if its probe told capabilities."""
    can = found.probe.capabilities
    if can is None:
        return None
    cells = {name: tell(can, found.optional) for name, tell in ROWS.items()}
    missing = {what.replace("_", " "): why for what, why in sorted(can.absent.items())}
    return Column(title or f"{found.name} {found.probe.version}".strip(), cells, missing)


def of_host(runtimes: Runtimes) -> list[Column]:
    """The columns of the runtimes of this host that are healthy."""
    return [made for one in runtimes.found if (made := column(one)) is not None]


def rows(columns: Sequence[Column]) -> list[tuple[str, ...]]:
    """The table, without its head."""
    return [(name, *(one.cells[name] for one in columns)) for name in ROWS]


def remarks(columns: Sequence[Column]) -> list[str]:
    """Why something is missing, a sentence for each engine and thing."""
    return [f"{one.title} lacks {what}: {why}" for one in columns for what, why in one.missing.items()]


def filled(page: str, columns: Sequence[Column]) -> str:
    """The page with the table between its two marks. Raises ValueError if it lacks them."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"the page lacks the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{markdown(columns)}{END}{after}"


def markdown(columns: Sequence[Column]) -> str:
    """The table and its remarks as they stand in the page."""
    heads = ("", *(one.title for one in columns))
    lines = [heads, tuple("---" for _ in heads), *rows(columns)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return table + "\n\n" + "\n".join(f"- {line}" for line in remarks(columns)) + "\n"


def parsed(page: str) -> dict[str, dict[str, str]]:
    """The cells of the table in a page, by engine and row."""
    text = page.partition(BEGIN)[2].partition(END)[0]
    table = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    heads, _, *body = [[cell.strip() for cell in cells] for cells in table]
    return {head: {line[0]: line[number] for line in body} for number, head in enumerate(heads) if number}
