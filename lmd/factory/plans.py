"""A machine on paper: its plan for the runtime, its row for the database."""

import secrets
import uuid

from lmd.config.models import MachineType, Settings
from lmd.environment.features import Allocation
from lmd.environment.identity import RANDOM_BYTES, machine_id
from lmd.factory.rows import Row
from lmd.machine.conditions import conditions
from lmd.machine.material import Material
from lmd.machine.spec import Plan
from lmd.vacuum.decision import Start


def planned(
    type_: MachineType,
    start: Start,
    runtime: str,
    material: Material,
    *,
    name: str,
    settings: Settings,
    wall: float,
    boot: float,
    boot_id: str,
    detached: bool,
) -> tuple[Plan, Row]:
    """Both for one machine of the factory `name`, with a new id; `wall` and `boot` are the time by both clocks."""
    given = Allocation(
        job_id=str(uuid.uuid4()),
        processors=start.processors,
        memory_bytes=type_.mb_per_processor * start.processors * 2**20,
        started=wall,
        shutdown_time=start.until,
        grace=type_.grace_secs,
        hs06_per_processor=settings.hs06_per_processor,
        swap_bytes=0,
    )
    plan = Plan(
        id=machine_id(name, secrets.token_bytes(RANDOM_BYTES)),
        owner=f"factory:{name}",
        space=settings.space,
        machinetype=type_,
        image=material.image,
        start=material.start,
        allocation=given,
        detached=detached,
    )
    return plan, _row(plan, start, runtime, wall, boot, boot_id)


def _row(plan: Plan, start: Start, runtime: str, wall: float, boot: float, boot_id: str) -> Row:
    given, type_ = plan.allocation, plan.machinetype
    return Row(
        id=plan.id,
        job_id=given.job_id,
        runtime=runtime,
        owner=plan.owner,
        space=plan.space,
        machinetype=type_.name,
        processors=given.processors,
        memory_bytes=given.memory_bytes,
        conditions=conditions(type_),
        boot_id=boot_id,
        created=wall,
        created_boot=boot,
        shutdown_time=start.until,
        deadline=boot + (start.until - wall),
        image=type_.root_image,
        hs06_per_processor=given.hs06_per_processor,
        because=start.because,
        detached=plan.detached,
        idle=start.idle,
    )
