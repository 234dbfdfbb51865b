"""What is put into a machine: its command, environment and name; files from the host, scratch, an image."""

import asyncio
from pathlib import PurePosixPath

from runtimes.conformance.bench import Bench
from runtimes.conformance.check import NotApplicable, Violation, check, expect, needs
from runtimes.contract import Delivery, Images, Mount, Rejected, Tmpfs

NASTY = ("", "a b", "$HOME `id` $(id)", "quote\"and'apostrophe", "*", "-n", "two\nlines", "ünïcödé", "\\n")
MIB = 2**20


@check("the command's arguments and the environment arrive byte by byte, and the host name is the id")
async def command_and_environment_arrive(bench: Bench) -> None:
    environment = {f"LMC_{number}": value for number, value in enumerate(NASTY)}
    script = 'for word in "$@"; do printf "<%s>" "$word"; done; hostname; ' + "; ".join(
        f'printf "[%s]" "$LMC_{number}"' for number in range(len(NASTY))
    )
    spec = bench.shell(script, environment=environment)
    machine_id = spec.id
    said = await bench.inside(script, id=machine_id, environment=environment, args=(*(spec.args or ()), "sh", *NASTY))
    wanted = "".join(f"<{word}>" for word in NASTY) + machine_id + "\n" + "".join(f"[{word}]" for word in NASTY)
    expect(said.rstrip("\n") == wanted, f"the machine saw {said!r}, not {wanted!r}")


@check("a machine writes into a directory of the host that is bound for writing")
async def bound_directory_is_written(bench: Bench) -> None:
    await _binds(bench)
    folder = bench.folder("bound")
    mount = Mount(source=folder, target=PurePosixPath("/lmc"), read_only=False, owned_by_machine=True)
    text = "from inside, with blanks and 'quotes'"
    spec = bench.spec(bench.payloads.write("/lmc/result", text), mounts=(mount,))
    await bench.runtime.create(spec)
    end = (await bench.ended(spec.id)).end
    expect(end is not None and end.exit_code == 0, f"the payload could not write: {end}")
    await bench.runtime.destroy(spec.id)
    expect((folder / "result").read_text() == text, "the file does not hold what was written")


@check("a machine cannot write into a directory that is bound read-only")
async def read_only_bind_is_not_written(bench: Bench) -> None:
    await _binds(bench)
    folder = bench.folder("bound")
    for owned in (False, True):
        mount = Mount(source=folder, target=PurePosixPath("/lmc"), read_only=True, owned_by_machine=owned)
        spec = bench.spec(bench.payloads.write("/lmc/result", "never"), mounts=(mount,))
        await bench.runtime.create(spec)
        await bench.ended(spec.id)
        expect(not (folder / "result").exists(), "a file was written into a directory bound read-only")


@check("a mount whose source is not there is rejected and leaves nothing", invariant=3)
async def missing_source_is_rejected(bench: Bench) -> None:
    await _binds(bench)
    gone = bench.folder("bound") / "gone"
    spec = bench.spec(bench.payloads.sleep(60), mounts=(Mount(source=gone, target=PurePosixPath("/lmc")),))
    try:
        await bench.runtime.create(spec)
    except Rejected:
        pass
    else:
        raise Violation("create did not raise Rejected")
    expect(await bench.find(spec.id) is None, "the refused machine is listed")
    expect(not gone.exists(), f"{gone} was made on the host")


@check("a read-only root cannot be written, a tmpfs in it can")
async def read_only_root_is_read_only(bench: Bench) -> None:
    can = await bench.can()
    needs(can.read_only_root, can.absent.get("read_only_root", "read_only_root is not claimed"))
    script = "for d in / /bin /lmc; do (echo x > $d/lmc-probe) 2>/dev/null && echo wrote $d; done; exit 0"
    tmpfs = (Tmpfs(target=PurePosixPath("/lmc"), size_bytes=MIB),)
    wrote = (await bench.inside(script, read_only_root=True, tmpfs=tmpfs)).split()[1::2]
    expect(wrote == ["/lmc"], f"the machine could write to {wrote}, not to /lmc alone")


@check("a tmpfs is in memory and holds no more than its size")
async def tmpfs_is_limited(bench: Bench) -> None:
    script = "grep ' /lmc ' /proc/mounts; dd if=/dev/zero of=/lmc/f bs=65536 count=256 2>&1; stat -c 'size %s' /lmc/f"
    said = await bench.inside(script, tmpfs=(Tmpfs(target=PurePosixPath("/lmc"), size_bytes=4 * MIB),))
    expect(" tmpfs " in said, f"/lmc is no tmpfs: {said[:300]!r}")
    size = int(said.split("size ")[-1])
    expect(MIB < size <= 4 * MIB, f"{size} bytes fit into a tmpfs of {4 * MIB}")


@check("scratch is writable, and gone with the machine")
async def scratch_goes_with_the_machine(bench: Bench) -> None:
    await _scratches(bench)
    spec = bench.spec(bench.payloads.write("/lmc/file", "x"), scratch=(PurePosixPath("/lmc"),))
    for _ in range(2):  # the second time under the same id, which must not find the first one's
        await bench.runtime.create(spec)
        end = (await bench.ended(spec.id)).end
        expect(end is not None and end.exit_code == 0, f"the payload could not write into its scratch: {end}")
        await bench.runtime.destroy(spec.id)
        left = await bench.left(spec.id)
        expect(not left, f"destroy left {left}")


@check("scratch is empty at first and on disk, not in memory")
async def scratch_is_on_disk(bench: Bench) -> str:
    await _scratches(bench)
    script = "ls -A /lmc | wc -l; grep ' /lmc ' /proc/mounts; echo x > /lmc/f && stat -f -c 'type %T' /lmc"
    said = await bench.inside(script, scratch=(PurePosixPath("/lmc"),))
    expect(said.split()[0] == "0", f"scratch is not empty at first: {said!r}")
    expect(" tmpfs " not in said and "type tmpfs" not in said, f"scratch is in memory: {said!r}")
    expect(" /lmc " in said, f"scratch is no mount of its own: {said!r}")
    return said.split()[-1]


@check("ensure makes an image present, tells its digest, and rejects one that does not exist")
async def images_are_ensured(bench: Bench) -> str:
    runtime = bench.runtime
    if not isinstance(runtime, Images):
        raise NotApplicable("this runtime keeps no images")
    digests = set(await asyncio.gather(*(runtime.ensure(bench.context.image) for _ in range(3))))
    expect(len(digests) == 1, f"the digest differs from time to time: {digests}")
    (digest,) = digests
    expect(digest.startswith("sha256:") and len(digest) == 71, f"{digest!r} is no digest")
    seen = await bench.start(bench.payloads.sleep(60))
    expect(seen.image_digest in (None, digest), f"the machine has image {seen.image_digest}, ensure told {digest}")
    try:
        await runtime.ensure(bench.context.missing_image)
    except Rejected:
        return digest[:19]
    raise Violation("ensure did not raise Rejected for an image that does not exist")


async def _binds(bench: Bench) -> None:
    can = await bench.can()
    needs(
        bool({Delivery.BIND, Delivery.VIRTIOFS} & can.delivery),
        can.absent.get("delivery", "directories of the host cannot be bound"),
    )


async def _scratches(bench: Bench) -> None:
    can = await bench.can()
    needs(can.scratch, can.absent.get("scratch", "scratch is not claimed"))


CHECKS = (
    command_and_environment_arrive,
    bound_directory_is_written,
    read_only_bind_is_not_written,
    missing_source_is_rejected,
    read_only_root_is_read_only,
    tmpfs_is_limited,
    scratch_goes_with_the_machine,
    scratch_is_on_disk,
    images_are_ensured,
)
