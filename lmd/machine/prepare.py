"""Everything on the host that a machine needs before its runtime is asked: files, user_data, secrets, the record."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmd.config.models import MachineType
from lmd.environment import features, user_data
from lmd.environment.directory import Directory, DirectoryError, Record, process
from lmd.environment.identity import boot_id
from lmd.environment.seed import SeedError
from lmd.machine import connection
from lmd.machine.conditions import CONDITIONS, conditions
from lmd.machine.placement import CannotPlace, placed
from lmd.machine.saved import normal, save
from lmd.machine.spec import Plan, existing, spec, targets
from lmd.machine.start import NoCommand
from runtimes.contract import ImageKind, Spec

SECRET_LIMIT = 1_000_000


class CannotPrepare(Exception):
    """A machine cannot be prepared for a reason that its type or the host has to mend; one line."""


def prepare(plan: Plan, directory: Directory, *, runtime: str, host: str, version: str, supervisor: int | None) -> Spec:
    """Write the machine's directory, complete before any engine is asked; returns the spec for the runtime.

    `supervisor`: the process that looks after the machine and whose end orphans it; None: the daemon, whichever.

    Raises `CannotPrepare`; what was written by then is removed.
    """
    try:
        with placed(plan.machinetype, plan.allocation.processors, directory) as placement:
            return _write(replace(plan, placement=placement), directory, runtime, host, version, supervisor)
    except (DirectoryError, user_data.UserDataError, SeedError, NoCommand, CannotPlace, OSError) as error:
        directory.remove()
        raise CannotPrepare(f"machinetype {plan.machinetype.name}: {error}") from error
    except BaseException:
        directory.remove()
        raise


def _write(plan: Plan, directory: Directory, runtime: str, host: str, version: str, supervisor: int | None) -> Spec:
    type_, given = plan.machinetype, plan.allocation
    root = Path(plan.image.location)
    there = existing(root) if plan.image.kind is ImageKind.ROOT_DIRECTORY else {}
    places = targets(plan, there)
    if type_.user_data is not None:
        form = "http" if type_.features_form == "http" else "file-url"
        content = _user_data(plan, type_, features.variables(form, places), host, version)
    secrets = [_secret(Path(source)) for source in type_.secret_files.values()]
    key = _public_key(type_)
    made = normal(spec(plan, directory, places, [directory.secrets / str(number) for number in range(len(secrets))]))
    record = Record(
        id=plan.id,
        job_id=given.job_id,
        runtime=runtime,
        owner=plan.owner,
        space=plan.space,
        machinetype=type_.name,
        digest=made.digest(),
        processors=given.processors,
        created=given.started,
        shutdown_time=given.shutdown_time,
        boot_id=boot_id(),
        grace=given.grace,
        supervisor=None if supervisor is None else process(supervisor),
        memory_bytes=given.memory_bytes,
        created_boot=time.clock_gettime(time.CLOCK_BOOTTIME),
        conditions=CONDITIONS.dump_python(conditions(type_), mode="json"),
        detached=plan.detached,
    )
    # The record comes first, so that whatever a kill leaves behind is known to be ours and whose it was.
    directory.path.mkdir(mode=0o711, parents=True)
    directory.save(record)
    directory.make(features.machinefeatures(given), features.jobfeatures(given))
    if type_.user_data is not None:
        directory.put_user_data(content)
    for number, secret in enumerate(secrets):
        directory.put_secret(number, secret)
    told = content if type_.user_data is not None else None
    if plan.nic is not None:
        connection.describe(plan, plan.nic, directory, told, key, host)
    if made.seed is not None:
        connection.seed(plan, directory, told, key)
    if supervisor is None:
        save(made, directory)
    return made


def finish(directory: Directory, record: Record, outcome: dict[str, Any]) -> None:
    """Note the outcome; it is written before anything is cleaned up, and only once."""
    if record.outcome is None:
        directory.save(replace(record, outcome=outcome))


def _user_data(plan: Plan, type_: MachineType, urls: dict[str, str], host: str, version: str) -> bytes:
    source = type_.user_data or ""
    facts = user_data.Facts(
        url=source if "://" in source else None,
        space=plan.space,
        machinetype=type_.name,
        machine_hostname=plan.id,
        manager_version=version,
        manager_hostname=host,
        machinefeatures_url=urls["MACHINEFEATURES"],
        jobfeatures_url=urls["JOBFEATURES"],
        joboutputs_url=urls["JOBOUTPUTS"],
        uuid=plan.allocation.job_id,
    )
    files = {name: user_data.load(path) for name, path in type_.user_data_files.items()}
    content = user_data.substitute(user_data.load(source), facts, type_.user_data_options, files)
    if type_.runs_user_data and (why := user_data.runnable(content)):
        raise user_data.UserDataError(f"user_data {source} cannot be run: {why}")
    return content


def _public_key(type_: MachineType) -> str:
    return (
        "" if type_.root_public_key is None else _secret(Path(type_.root_public_key)).decode(errors="replace").strip()
    )


def _secret(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(SECRET_LIMIT + 1)
    if len(content) > SECRET_LIMIT:
        raise CannotPrepare(f"secret file {path}: larger than {SECRET_LIMIT} bytes")
    return content
