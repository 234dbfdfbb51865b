"""Which of a host's runtimes runs a machinetype, and why. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtimes.contract import Health, Probe, Spec, unmet


@dataclass(frozen=True, slots=True)
class Offer:
    """A runtime's answer to its probe, and what it lacks for the machinetype in question."""

    name: str
    probe: Probe
    lacking: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether it can be asked for a machine of the type."""
        return self.probe.health is Health.HEALTHY and not self.lacking

    @property
    def problem(self) -> str:
        """Why it cannot, and what to type where that would help; "" if it can."""
        if self.good:
            return ""
        if self.lacking:
            return f"{self.name} on this host lacks {'; '.join(self.lacking)}"
        remedy = f" ({self.probe.remedy})" if self.probe.remedy else ""
        return f"{self.name} is {self.probe.health}: {self.probe.reason}{remedy}"


def offer(name: str, probe: Probe, wanted: Spec | None, isolation: str) -> Offer:
    """What the capabilities are worth for `wanted` (None: whatever the runtime can make), kept apart by `isolation`."""
    can = probe.capabilities
    if probe.health is not Health.HEALTHY or can is None:
        return Offer(name, probe)
    if can.isolation != isolation:
        return Offer(name, probe, (f'isolation "{isolation}" (its machines are of "{can.isolation}")',))
    return Offer(name, probe, tuple(unmet(wanted, can)) if wanted else ())


def why(chosen: Offer, before: Sequence[Offer]) -> str:
    """One line on why `runtime = "auto"` came to this one, after those `before` it that could not."""
    if not before:
        return f"{chosen.name} comes first, works here and has what the type needs"
    return f"{chosen.name} works here and has what the type needs; {'; '.join(one.problem for one in before)}"
