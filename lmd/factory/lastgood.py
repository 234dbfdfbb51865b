"""The last configuration that could be used, kept for a start with one that cannot: machines need looking after."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lmd.config.models import Config
from lmd.environment.directory import DirectoryError, write

NAME = "configuration.json"
LIMIT = 50_000_000
_CONFIG: TypeAdapter[Config] = TypeAdapter(Config)


def keep(config: Config, state: Path) -> None:
    """Write it down, for root alone: environments may hold secrets. Not being able to is no fault."""
    plain = replace(config, disabled={}, origins={})
    with suppress(DirectoryError):
        write(state / NAME, _CONFIG.dump_json(plain, by_alias=True), 0o600)


def kept(state: Path) -> Config:
    """The one that was kept; where there is none, one that starts nothing."""
    try:
        with (state / NAME).open("rb") as file:
            return _CONFIG.validate_json(file.read(LIMIT))
    except (OSError, ValidationError):
        return Config()
