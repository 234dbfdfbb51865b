"""From files to simulations: each configuration with the one scenario that all of them are tried on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmd.config.layers import Layer
from lmd.config.load import check
from lmd.config.models import Config
from lmd.config.problems import ConfigError, Problem
from lmd.simulate.figures import Figures, figures
from lmd.simulate.picture import svg
from lmd.simulate.scenario import Scenario, arrivals, checked, split
from lmd.simulate.tally import DAY
from lmd.simulate.world import World
from lmd.vacuum.configured import kinds, rules

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line says beside the configurations; None: as the scenario has it."""

    scenario: Path | None = None
    factories: int | None = None
    days: float | None = None
    seed: int | None = None
    arrivals: Path | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One simulation that is over; `seconds` that it took."""

    figures: Figures
    seconds: float
    world: World

    def picture(self, days: float) -> str:
        """The first factory's first `days` as SVG."""
        site = self.world.sites[0]
        end = min(days, self.world.scenario.days) * DAY
        bars = [bar for bar in self.world.bars if bar.site == site.factory.name]
        title = f"{self.figures.name}: {site.factory.name}, {self.figures.use:.1%} of the space in use"
        return svg(bars, title, processors=site.factory.total_processors, begin=0.0, end=end)


def prepared(configs: Sequence[Path], asked: Asked) -> list[tuple[str, Callable[[Progress], Run]]]:
    """A name, and what runs it, for each configuration. Raises ConfigError before anything has been run."""
    found: list[tuple[str, dict[str, object]]] = []
    loaded = [(_name(path, configs), _loaded(path, found)) for path in configs]
    if asked.scenario is not None:
        found = [(str(asked.scenario), split(asked.scenario)[0])]
    scenario = _scenario(found, asked)
    jobs = arrivals(asked.arrivals) if asked.arrivals is not None else {}
    _all_known({*scenario.types, *jobs}, [config for _, config in loaded], asked)

    def starter(name: str, config: Config) -> Callable[[Progress], Run]:
        def start(progress: Progress) -> Run:
            begun = time.monotonic()
            world = World(kinds(config), rules(config), _rated(scenario, config), jobs, progress=progress)
            tally = world.run()
            made = figures(name, world.kinds, world.rules, scenario.days, tally)
            return Run(made, time.monotonic() - begun, world)

        return start

    return [(name, starter(name, config)) for name, config in loaded]


def _name(path: Path, configs: Sequence[Path]) -> str:
    same = sum(1 for other in configs if other.stem == path.stem)
    return path.stem if same == 1 else str(path)


def _loaded(path: Path, found: list[tuple[str, dict[str, object]]]) -> Config:
    files = sorted(path.glob("*.toml")) if path.is_dir() else [path]
    if not files:
        raise ConfigError([Problem(str(path), (), "is a directory without a *.toml file")])
    layers = []
    for file in files:
        scenario, table = split(file)
        if scenario:
            found.append((str(file), scenario))
        layers.append(Layer(str(file), file.resolve().parent, table))
    config = check(layers)
    problems = [problem for problems in config.disabled.values() for problem in problems]
    if problems:
        raise ConfigError(problems)
    if not config.machinetypes:
        raise ConfigError([Problem(str(path), ("machinetypes",), "is missing: there is nothing to simulate")])
    return config


def _scenario(found: Sequence[tuple[str, dict[str, object]]], asked: Asked) -> Scenario:
    source, table = found[0] if found else ("the command line", {})
    scenario = checked(source, table)
    changes: dict[str, object] = {}
    if asked.days is not None:
        changes["days"] = asked.days
    if asked.seed is not None:
        changes["seed"] = asked.seed
    if asked.factories is not None:
        changes["factories"] = (scenario.factories[0].model_copy(update={"count": asked.factories}),)
    return checked(source, scenario.model_copy(update=changes).model_dump())


def _rated(scenario: Scenario, config: Config) -> Scenario:
    """Factories without a rating of their own have that of the configuration."""
    rating = config.settings.hs06_per_processor
    groups = tuple(
        group if group.hs06_per_processor is not None else group.model_copy(update={"hs06_per_processor": rating})
        for group in scenario.factories
    )
    return scenario.model_copy(update={"factories": groups})


def _all_known(names: set[str], configs: Sequence[Config], asked: Asked) -> None:
    """Types of the scenario that no configuration has are mistakes."""
    known = {name for config in configs for name in config.machinetypes}
    missing = sorted(names - known)
    if missing:
        source = str(asked.arrivals or asked.scenario or "the scenario")
        raise ConfigError(
            [Problem(source, ("types", name), "no configuration has this machinetype") for name in missing]
        )
