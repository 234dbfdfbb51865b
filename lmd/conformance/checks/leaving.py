"""What a machine leaves: its joboutputs and its console come home, within their quota, and nothing else stays."""

from lmd.conformance.check import check, expect
from lmd.conformance.trial import Left, Trial
from lmd.environment.outcome import Exit

OUTPUTS = """#!/bin/sh
cd "$JOBOUTPUTS" || exit 1
mkdir -p sub/empty "with space"
printf 'a\\000b\\377' >sub/bytes
: >"with space/$(printf 'odd\\tname')"
ln -s sub/bytes link
"""
BY_A_USER = """
cd "$JOBOUTPUTS" && id -u >user && mkdir made && echo "200 by a user" >shutdown_message
"""
HOSTILE = """#!/bin/sh
cd "$JOBOUTPUTS" || exit 1
ln -s /etc/shadow shadow
ln -s ../../../../../../etc/shadow up
mkfifo fifo
echo fine >file
"""
SAYS = """#!/bin/sh
echo first
echo second >&2
printf 'third, \\303\\251\\n'
"""
FILL_BYTES = """#!/bin/sh
trap '' TERM
while :; do head -c 1000000 /dev/zero >>"$JOBOUTPUTS/large"; sleep 0.05; done
"""
FILL_FILES = """#!/bin/sh
trap '' TERM
n=0
while [ $n -lt 5000 ]; do n=$((n + 1)); : >"$JOBOUTPUTS/$n"; done
while :; do sleep 1; done
"""
SOON = 5.0
"""Seconds within which a machine that is over its quota has ended."""


@check("joboutputs belong to the machine's root, and root and every other user in the machine may write there")
async def joboutputs_are_for_every_user(trial: Trial) -> None:
    report = (await trial.portrait()).report()
    found = report.text("place./var/spool/joboutputs")
    expect(found == "directory 1777 0:0", f"/var/spool/joboutputs is a {found}, not a directory 1777 0:0")
    left = await trial.run(entrypoint=["/bin/sh", "-c", BY_A_USER], user="1000:1000")
    expect(left.file("user") == b"1000\n", f"the payload ran as {left.file('user')!r}, not as 1000")
    expect((left.joboutputs / "made").is_dir(), "a directory that user 1000 made did not come home")
    expect(str(left.outcome.message) == "200 by a user", f"the message of user 1000 was read as {left.outcome.message}")


@check("joboutputs come home as they were: bytes, directories, odd names, links that stay inside")
async def joboutputs_come_home(trial: Trial) -> None:
    left = await trial.run(OUTPUTS)
    expect(left.file("sub/bytes") == b"a\0b\xff", f"sub/bytes came home as {left.file('sub/bytes')!r}")
    expect((left.joboutputs / "sub/empty").is_dir(), "the empty directory did not come home")
    expect((left.joboutputs / "with space/odd\tname").is_file(), "the file with an odd name did not come home")
    link = left.joboutputs / "link"
    expect(link.is_symlink() and str(link.readlink()) == "sub/bytes", "the link did not come home")
    expect(not left.summary.left_out, f"left out: {left.summary.left_out}")


@check("links that lead out and fifos are left out of what comes home, and named")
async def hostile_joboutputs_stay_out(trial: Trial) -> None:
    left = await trial.run(HOSTILE)
    names = sorted(path.name for path in left.joboutputs.iterdir())
    expect(names == ["file"], f"{names} came home, not file alone")
    named = {line.partition(":")[0] for line in left.summary.left_out}
    expect(named == {"shadow", "up", "fifo"}, f"{named} were named as left out")


@check("what the payload writes to its standard output and error is kept, and shown as it comes")
async def console_is_kept(trial: Trial) -> None:
    left = await trial.run(SAYS)
    wanted = ["first", "second", "third, é"]
    kept = (left.summary.outputs / "console.log").read_bytes()
    for where, content in (("kept", kept), ("shown", left.shown)):
        lines = content.decode(errors="replace").splitlines()
        expect(sorted(lines) == wanted, f"{lines} is {where}, not {wanted}")
        expect(lines.index("first") < lines.index("third, é"), f"{lines} is {where} in another order")


@check("a machine that passes its quota of bytes is ended at once, whatever it does against it")
async def quota_of_bytes_is_enforced(trial: Trial) -> str:
    left = await trial.run(FILL_BYTES, joboutputs_bytes=5_000_000, grace=20)
    return _over_quota(left, SOON + 2 * await trial.slack())


@check("a machine that passes its quota of files is ended at once, whatever it does against it")
async def quota_of_files_is_enforced(trial: Trial) -> str:
    left = await trial.run(FILL_FILES, joboutputs_files=200, grace=20)
    return _over_quota(left, SOON + 2 * await trial.slack())


@check("nothing of a machine stays: it is no longer listed, and its directory is gone")
async def nothing_stays(trial: Trial) -> None:
    left = await trial.run("#!/bin/sh\nexit 0\n", tmp_binds=["/lmc-scratch"])
    problems = await trial.clear()
    expect(not problems, "; ".join(problems))
    expect(not left.summary.kept, "lm run says that it kept the machine")


def _over_quota(left: Left, soon: float) -> str:
    message = str(left.outcome.message)
    expect(left.outcome.exit is Exit.QUOTA, f"the outcome is {left.outcome.exit.name} ({message}), not QUOTA")
    expect(message == "700 Joboutputs quota exceeded", f"the message is {message!r}")
    expect(left.seconds < soon, f"it has ended after {left.seconds:.1f} s only")
    return f"ended after {left.seconds:.1f} s"


CHECKS = (
    joboutputs_are_for_every_user,
    joboutputs_come_home,
    hostile_joboutputs_stay_out,
    console_is_kept,
    quota_of_bytes_is_enforced,
    quota_of_files_is_enforced,
    nothing_stays,
)
