"""Keys of one table that cannot stand together."""

Clash = tuple[tuple[str, ...], str]
"""Keys as the file has them, and what is wrong with the first of them beside the others."""


class Clashes(ValueError):
    """All that were found."""

    def __init__(self, found: list[Clash]) -> None:
        super().__init__("; ".join(f"{keys[0]}: {text}" for keys, text in found))
        self.found = found
