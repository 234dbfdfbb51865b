"""Inode numbers: what the kernel knows of the tree, and by which number.

A number stands for one content for ever: a file that changes with a new revision gets another one, so that open
files and the kernel's page cache are never wrong. Directories keep their number as long as they exist.
Numbers are not used twice. All of this belongs to the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace

from cvmfs.entry import Kind
from cvmfs.tree import Located

ROOT = 1
_MOST_ABSENT = 4096


@dataclass(slots=True)
class Node:
    """What a number stands for. `names` is what the kernel was told about a directory: name to number, 0 for absent."""

    number: int
    path: bytes
    key: Hashable
    located: Located
    lookups: int = 0
    names: dict[bytes, int] = field(default_factory=dict)
    absent: int = 0


def node_key(path: bytes, located: Located) -> Hashable:
    """What has to be equal for two entries to be one inode."""
    entry = located.entry
    if entry.kind is Kind.DIRECTORY:
        return path
    # chunk tables are not part of the entry, so only an unchanged catalog says that they are unchanged
    version = located.catalog.hash if entry.chunked else None
    if entry.link_group:
        return located.mount, entry.link_group, replace(entry, name=b""), version
    return path, entry, version


class Inodes:
    """The table of nodes."""

    def __init__(self, root: Located) -> None:
        node = Node(ROOT, b"", b"", root, 1)
        self._nodes = {ROOT: node}
        self._numbers: dict[Hashable, int] = {b"": ROOT}
        self._next = ROOT + 1

    def __getitem__(self, number: int) -> Node:
        return self._nodes[number]

    @property
    def highest(self) -> int:
        """The highest number given so far."""
        return self._next - 1

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, number: int) -> Node | None:
        """The node of this number, if the kernel still knows it."""
        return self._nodes.get(number)

    def admit(self, path: bytes, located: Located) -> Node:
        """The node for an entry; made if there is none."""
        key = node_key(path, located)
        number = self._numbers.get(key)
        if number is not None:
            node = self._nodes[number]
            # what a parent says of the start of another catalog is the poorer description
            if not located.entry.mountpoint or node.located.entry.mountpoint:
                node.located = located
            return node
        node = Node(self._next, path, key, located)
        self._next += 1
        self._nodes[node.number] = node
        self._numbers[key] = node.number
        return node

    def tell(self, parent: Node, name: bytes, number: int) -> bool:
        """Note that the kernel is told a name; False if it must not keep it (too many absent ones)."""
        known = parent.names.get(name)
        if number == 0 and known is None:
            if parent.absent >= _MOST_ABSENT:
                return False
            parent.absent += 1
        elif number and known == 0:
            parent.absent -= 1
        parent.names[name] = number
        return True

    def drop_unused(self, node: Node) -> None:
        """Remove a node that was made and then not told to the kernel."""
        if node.lookups <= 0 and node.number != ROOT:
            self._nodes.pop(node.number, None)
            self._numbers.pop(node.key, None)

    def forget(self, number: int, lookups: int) -> None:
        """The kernel gives back so many lookups of a number."""
        node = self._nodes.get(number)
        if node is not None:
            node.lookups -= lookups
            self.drop_unused(node)

    def told(self) -> Iterator[tuple[Node, bytes, int]]:
        """Every directory, name and number that the kernel may remember."""
        for node in list(self._nodes.values()):
            for name, number in list(node.names.items()):
                yield node, name, number

    def directories(self) -> list[Node]:
        """The nodes that are directories."""
        return [node for node in self._nodes.values() if node.located.entry.kind is Kind.DIRECTORY]
