"""One configuration beside another on the same scenario: what changes, in a person's words."""

from collections.abc import Iterator

from lmd.simulate.figures import Figures

Row = tuple[str, str, str, str]


def rows(old: Figures, new: Figures) -> Iterator[Row]:
    """What, before, after, change; whatever is measured for both, then type by type."""
    yield _percent("processor time held by machines", old.use, new.use)
    yield _percent("processor time that did work", old.useful, new.useful)
    yield _percent("distance from the target shares", old.share_error, new.share_error)
    yield _number("wasted starts per 1,000 core-hours", old.wasted_per_1000, new.wasted_per_1000)
    if old.harvested or new.harvested:
        yield _percent("harvested by idle machines", old.harvested, new.harvested)
    before = {one.machinetype: one for one in old.types}
    after = {one.machinetype: one for one in new.types}
    for name in [*before, *(name for name in after if name not in before)]:
        yield _percent(
            f"{name}: of all processor time",
            before[name].use if name in before else None,
            after[name].use if name in after else None,
        )
        yield _number(
            f"{name}: hours to its first machine",
            before[name].first_hours if name in before else None,
            after[name].first_hours if name in after else None,
        )


def _percent(what: str, old: float | None, new: float | None) -> Row:
    change = f"{(new - old) * 100:+.1f}" if old is not None and new is not None else ""
    return what, _shown(old, 100, "%"), _shown(new, 100, "%"), change


def _number(what: str, old: float | None, new: float | None) -> Row:
    change = f"{new - old:+.2f}" if old is not None and new is not None else ""
    return what, _shown(old, 1, ""), _shown(new, 1, ""), change


def _shown(value: float | None, factor: float, unit: str) -> str:
    return "-" if value is None else f"{value * factor:.{1 if unit else 2}f}{unit}"
