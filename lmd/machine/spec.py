"""A machinetype and its place on this host as the spec that a runtime gets. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from lmd.config.models import MachineType
from lmd.environment import features
from lmd.environment.directory import Directory
from lmd.environment.features import Allocation
from runtimes.contract import Image, ImageKind, Limits, Mount, Network, Nic, Spec, Tmpfs

LIFETIME_MARGIN = 120
"""Seconds after the shutdown time at which the engine ends a machine that nobody of ours looks after any more."""

ASIDE = PurePosixPath("/run/lmd")
"""Where the environment lies in a root directory that is used in place and lacks the usual mount points."""

RESOLV_CONF = PurePosixPath("/etc/resolv.conf")

PLACES = {
    "MACHINEFEATURES": features.MACHINEFEATURES,
    "JOBFEATURES": features.JOBFEATURES,
    "JOBOUTPUTS": features.JOBOUTPUTS,
    "user_data": features.USER_DATA,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is decided about one machine before it is made."""

    id: str
    owner: str
    space: str
    machinetype: MachineType
    image: Image
    allocation: Allocation
    command: tuple[str, ...] | None = None  # in place of the type's own
    detached: bool = False  # an operator has asked the daemon for it
    nic: Nic | None = None  # its place in the factory's own network


def targets(image: Image, exists: Mapping[PurePosixPath, bool]) -> dict[str, PurePosixPath]:
    """Where the parts of the environment lie in the machine, by variable (and `user_data`).

    In a root directory that is used in place no mount point can be made: what it lacks (`exists`) lies below `ASIDE`,
    in a tmpfs. The variables always tell the truth.
    """
    if image.kind is not ImageKind.ROOT_DIRECTORY:
        return dict(PLACES)
    return {name: path if exists.get(path) else ASIDE / path.name for name, path in PLACES.items()}


def existing(root: Path) -> dict[PurePosixPath, bool]:
    """Which of the usual places a root directory has, of the right kind and no link. Reads the file system."""
    found = {path: root / path.relative_to("/") for path in PLACES.values()}
    return {
        path: not real.is_symlink() and (real.is_file() if path == features.USER_DATA else real.is_dir())
        for path, real in found.items()
    }


def spec(plan: Plan, directory: Directory, places: Mapping[str, PurePosixPath], secrets: Sequence[Path]) -> Spec:
    """The spec of a machine whose files are in `directory`; `secrets` in the order of the type's `secret_files`."""
    type_, given = plan.machinetype, plan.allocation
    entrypoint, args = _command(plan, places)
    return Spec(
        id=plan.id,
        owner=plan.owner,
        space=plan.space,
        machinetype=type_.name,
        image=plan.image,
        entrypoint=entrypoint,
        args=args,
        environment=features.variables(type_.features_form, places) | features.twins(given) | dict(type_.environment),
        mounts=_mounts(type_, directory, places, secrets),
        tmpfs=tuple(Tmpfs(target=PurePosixPath(path), size_bytes=size) for path, size in type_.tmpfs.items()),
        scratch=tuple(PurePosixPath(path) for path in type_.tmp_binds),
        limits=Limits(
            processors=given.processors,
            memory_bytes=given.memory_bytes,
            pids=type_.pids,
            open_files=type_.open_files,
        ),
        required_limits=type_.require_limits,
        network=type_.network,
        nic=plan.nic,
        seed=directory.seed if seeded(type_) else None,
        read_only_root=type_.read_only,
        user_namespace=type_.user_namespace,
        nested_containers=type_.nested_containers,
        capabilities=frozenset(type_.capabilities),
        devices=type_.devices,
        architecture=type_.architecture,
        user=type_.user or ("0:0" if type_.runs_user_data else None),
        console_bytes=type_.console_bytes,
        lifetime_seconds=int(given.shutdown_time - given.started) + given.grace + LIFETIME_MARGIN,
    )


def needed(plan: Plan) -> Spec:
    """What a runtime would be asked for this plan, before anything is made for it: to choose the runtime by."""
    nowhere = Directory(Path("/nowhere"))
    made = spec(plan, nowhere, dict(PLACES), [nowhere.path] * len(plan.machinetype.secret_files))
    nic = Nic(address="", prefix=0, gateway="", mac="", port="", bridge="")
    return replace(made, nic=made.nic or (nic if made.network is Network.LMD else None))


def seeded(type_: MachineType) -> bool:
    """Whether a machine of this type gets its user_data on a CD."""
    return type_.machine_model == "vm-raw" and type_.contextualisation == "seed"


def _command(plan: Plan, places: Mapping[str, PurePosixPath]) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    type_ = plan.machinetype
    if plan.command is not None:
        return plan.command, ()
    if type_.runs_user_data:
        return (str(places["user_data"]),), type_.args or ()
    return type_.entrypoint, type_.args


def _mounts(
    type_: MachineType, directory: Directory, places: Mapping[str, PurePosixPath], secrets: Sequence[Path]
) -> tuple[Mount, ...]:
    mounts = [
        Mount(source=directory.machinefeatures, target=places["MACHINEFEATURES"]),
        Mount(source=directory.jobfeatures, target=places["JOBFEATURES"]),
        Mount(source=directory.joboutputs, target=places["JOBOUTPUTS"], read_only=False, owned_by_machine=True),
    ]
    if type_.user_data is not None:
        mounts.append(Mount(source=directory.user_data, target=places["user_data"], owned_by_machine=True))
    if type_.network is Network.LMD and type_.isolation == "container":
        mounts.append(Mount(source=directory.resolv_conf, target=RESOLV_CONF))
    mounts += [
        Mount(source=source, target=PurePosixPath(target), owned_by_machine=True)
        for source, target in zip(secrets, type_.secret_files, strict=True)
    ]
    return tuple(mounts)
