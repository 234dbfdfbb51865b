"""The checks of this host, in the order of the report."""

from typing import Any

from lmd.doctor import runtimes
from lmd.doctor.check import Check
from lmd.doctor.checks import (
    clock,
    configuration,
    containers_conf,
    daemon,
    devices,
    disk,
    groups,
    host,
    ids,
    limits,
    memory,
    mounts,
    namespaces,
    network,
    repositories,
)

CHECKS: tuple[Check[Any], ...] = (
    host.CHECK,
    runtimes.CHECK,
    containers_conf.CHECK,
    ids.CHECK,
    groups.CHECK,
    limits.CHECK,
    namespaces.NAMESPACES,
    namespaces.SECURITY,
    mounts.CHECK,
    repositories.CHECK,
    devices.CHECK,
    network.CHECK,
    disk.CHECK,
    memory.CHECK,
    clock.CHECK,
    configuration.CHECK,
    daemon.CHECK,
)
