"""Fixtures over `factory_ground`."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from factory_ground import Lmd, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def make_lmd(short_tmp: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Lmd]]:
    made: list[Lmd] = []

    def make(text: str, **environment: str) -> Lmd:
        home = short_tmp / f"d{abs(hash(request.node.nodeid)) % 10**10:x}{len(made)}"
        made.append(Lmd(home, text, environment))
        return made[-1]

    yield make
    for lmd in made:
        if lmd.process is not None and lmd.process.poll() is None:
            lmd.end(9)


@pytest.fixture
def make_spec() -> Callable[..., object]:
    """A spec for the fake by the words that its machine runs, with changes to its fields."""
    from runtimes.contract import Image, ImageKind, Spec

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


@pytest.fixture(scope="session")
def podman(private_podman) -> Iterator[object]:
    """One OCI runtime is enough here: the contract's suite runs on both."""
    with private_podman("factory", "crun") as engine:
        yield engine


@pytest.fixture(scope="session")
def podman_image(podman, busybox_root: Path) -> str:
    """A reference that is never pulled."""
    return podman.import_image(busybox_root, "localhost/lmd-test/factory:1").location
