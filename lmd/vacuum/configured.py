"""The decision's rules from a checked configuration."""

from lmd.config.models import Config, MachineType
from lmd.vacuum.facts import Rules, TypeRules

MEBIBYTE = 1 << 20


def rules(config: Config) -> Rules:
    """What the decision needs of `[settings]`."""
    settings = config.settings
    return Rules(
        processors_per_superslot=settings.processors_per_superslot,
        overload_per_processor=settings.overload_per_processor,
        accounting_window_seconds=settings.accounting_window_seconds,
        share_by_hs06=settings.share_unit == "hs06",
        max_starting_machines=settings.max_starting_machines,
    )


def kinds(config: Config) -> tuple[TypeRules, ...]:
    """All machinetypes that can be used; one without a target share is refused by the decision, with that reason."""
    return tuple(_kind(machinetype) for machinetype in config.machinetypes.values())


def _kind(machinetype: MachineType) -> TypeRules:
    return TypeRules(
        name=machinetype.name,
        target_share=machinetype.target_share,
        machinegroup=machinetype.machinegroup,
        min_processors=machinetype.min_processors,
        max_processors=machinetype.max_processors,
        min_wallclock_seconds=machinetype.min_wallclock_seconds,
        max_wallclock_seconds=machinetype.max_wallclock_seconds,
        backoff_seconds=machinetype.backoff_seconds,
        fizzle_seconds=machinetype.fizzle_seconds,
        grace_secs=machinetype.grace_secs,
        memory_bytes_per_processor=machinetype.mb_per_processor * MEBIBYTE,
        disk_bytes=machinetype.joboutputs_bytes + machinetype.console_bytes,
        interruptible=machinetype.interruptible,
        idle=machinetype.machine_class == "idle",
    )
