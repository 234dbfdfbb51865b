"""A machine's spec, kept beside its files: asked again for the same machine, an engine must get the very same."""

from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from lmd.environment.directory import Directory, DirectoryError, write
from runtimes.contract import Spec

LIMIT = 4_000_000
UNSAVED = {"before_start"}
_SPEC: TypeAdapter[Spec] = TypeAdapter(Spec)


def normal(spec: Spec) -> Spec:
    """The spec with each number of the kind that its field has, as `load` gives it: the digest is over these."""
    return replace(_SPEC.validate_json(_SPEC.dump_json(spec, exclude=UNSAVED)), before_start=spec.before_start)


def save(spec: Spec, directory: Directory) -> None:
    """Write it for root alone, since an environment may hold secrets. Raises `DirectoryError`."""
    write(directory.spec, _SPEC.dump_json(spec, exclude=UNSAVED), 0o600)


def load(directory: Directory) -> Spec:
    """The spec as it was saved, of the same digest. Raises `DirectoryError` if it is not there or damaged."""
    try:
        with directory.spec.open("rb") as file:
            return _SPEC.validate_json(file.read(LIMIT))
    except OSError as error:
        raise DirectoryError(f"{directory.spec}: {error.strerror}") from error
    except ValidationError as error:
        raise DirectoryError(f"{directory.spec}: damaged: {error.error_count()} faults") from error
