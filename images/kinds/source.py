"""What each kind of recipe gives: the inputs that decide it, and a tree with the packages that are in it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from images.built import Package
from images.entries import Tree
from images.recipe import Recipe

Progress = Callable[[str], None]
"""Told in a few words what is being done, whenever that changes."""


@dataclass(frozen=True, slots=True)
class RootTree:
    """A root file system and the packages it consists of, sorted by name."""

    tree: Tree
    packages: tuple[Package, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Where and how to build: `epoch` in Unix seconds, a `scratch` directory that is removed afterwards.

    Child processes are given the descriptors `held`, so that a lock outlives this process for as long as they run.
    """

    epoch: int
    scratch: Path
    progress: Progress
    held: tuple[int, ...] = ()


class Source(Protocol):
    """A kind of recipe."""

    def missing(self) -> str | None:
        """What this host lacks, and the line to type, in one line; None if nothing."""

    def inputs(self) -> tuple[str, ...]:
        """What of this host decides the image, beside the recipe."""

    def root(self, recipe: Recipe, work: Work) -> AbstractContextManager[RootTree]:
        """Make the tree, whose content can be read until the context ends. Raises ImageError."""
