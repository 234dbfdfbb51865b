"""Runtimes are found by name, imported when used, and what is missing is said with its name."""

import importlib
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from runtimes import registry
from runtimes.contract import Settings
from runtimes.fake import Fake


def add_entry_points(monkeypatch: pytest.MonkeyPatch, **added: str) -> None:
    points = EntryPoints(EntryPoint(name, value, registry.GROUP) for name, value in added.items())
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))


def test_a_built_in_runtime_is_made_with_its_settings(settings: Settings) -> None:
    runtime = registry.load("fake", settings)
    assert isinstance(runtime, Fake)
    assert runtime.engine.directory.is_relative_to(settings.state_dir)


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_every_built_in_name_is_the_name_of_its_class(name: str) -> None:
    module, _, attribute = registry.BUILT_IN[name].partition(":")
    assert getattr(importlib.import_module(module), attribute).name == name


def test_an_unknown_name_is_answered_with_the_known_ones(settings: Settings) -> None:
    with pytest.raises(registry.UnknownRuntime, match=r"no runtime 'fakes'; known are docker, fake, .*podman"):
        registry.load("fakes", settings)


def test_an_installed_package_adds_a_runtime(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    add_entry_points(monkeypatch, other="runtimes.fake:Fake")
    assert isinstance(registry.load("other", settings), Fake)
    assert {"other", "fake", "podman"} <= set(registry.locations())


def test_an_installed_package_cannot_replace_a_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    add_entry_points(monkeypatch, fake="os:system")
    assert registry.locations()["fake"] == registry.BUILT_IN["fake"]


@pytest.mark.parametrize("value", ["no_such_client:Runtime", "runtimes.no_such_module:Runtime"])
def test_a_client_that_is_not_installed_is_named_with_its_runtime(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, value: str
) -> None:
    add_entry_points(monkeypatch, other=value)
    with pytest.raises(ImportError, match=r"runtime other: .*no_such.*install"):
        registry.load("other", settings)


def test_no_engine_client_is_imported_before_its_runtime_is_used() -> None:
    script = (
        "import sys, runtimes.registry, runtimes.contract, runtimes.conformance, runtimes.fake\n"
        "clients = {'podman', 'docker', 'libvirt', 'requests'} & set(sys.modules)\n"
        "assert not clients, clients\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
