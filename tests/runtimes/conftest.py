"""What the tests of the runtimes share: directories and a context of the contract's suite for the fake."""

from collections.abc import Callable
from pathlib import Path

import pytest

from runtimes.conformance import Context
from runtimes.conformance.for_fake import fake_context
from runtimes.contract import Image, ImageKind, Runtime, Settings, Spec
from runtimes.fake import Fake, FakeEngine

MakeContext = Callable[..., Context]
MakeSpec = Callable[..., Spec]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Empty directories for one runtime."""
    return Settings(state_dir=tmp_path / "state", run_dir=tmp_path / "run", cache_dir=tmp_path / "cache")


@pytest.fixture
def fake(settings: Settings) -> Fake:
    """A fake runtime without faults."""
    return Fake(settings)


@pytest.fixture
def engine(fake: Fake) -> FakeEngine:
    """The engine of `fake`."""
    return fake.engine


@pytest.fixture
def make_fake_context(tmp_path: Path, settings: Settings) -> MakeContext:
    """The suite's context over the fake's engine, for the fake itself or a runtime class that is made like it."""

    def make(runtime: Callable[[Settings], Runtime] = Fake) -> Context:
        return fake_context(settings, tmp_path / "work", make=lambda: runtime(settings))

    return make


@pytest.fixture
def make_spec() -> MakeSpec:
    """A spec by the words that its machine runs, with changes to its fields."""

    def make(*words: str, **changes: object) -> Spec:
        plain: dict[str, object] = {
            "id": "lm-1",
            "owner": "run:0",
            "space": "vac.example.org",
            "machinetype": "example",
            "image": Image(kind=ImageKind.REFERENCE, location="localhost/example"),
            "args": words,
        }
        return Spec(**(plain | changes))  # type: ignore[arg-type]

    return make
