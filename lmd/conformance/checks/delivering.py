"""What a machine is handed: its command, its variables, and secrets that nobody else sees."""

import json
import re

from lmd.conformance.beside import TYPE, Live
from lmd.conformance.check import check, expect
from lmd.conformance.contract import inspected
from lmd.conformance.ground import SPACE
from lmd.conformance.trial import (
    ARGUMENTS,
    GREETING,
    SECRETS,
    VARIABLES,
    Trial,
)
from runtimes.contract import Exec

USER_DATA = "/user_data"
WAIT = """#!/bin/sh
trap 'exit 0' TERM
cat /lmc/token >/dev/null && echo here >"$JOBOUTPUTS/here"
sleep 30 & wait $!
"""
MARK = b"lmc-secret-7c5d"


@check("user_data is run as the machine's command, by its root, with the type's args byte for byte")
async def user_data_is_the_command(trial: Trial) -> None:
    report = (await trial.portrait()).report()
    wanted = [argument.encode() for argument in ARGUMENTS]
    expect(report.arguments() == wanted, f"the arguments are {report.arguments()}, not {wanted}")
    expect(report.text("user") == "0:0", f"user_data runs as {report.text('user')}, not as 0:0")


@check("/user_data belongs to the machine's root, who alone may read and run it, and cannot be changed")
async def user_data_is_for_root_alone(trial: Trial) -> None:
    report = (await trial.portrait()).report()
    _place(report.text(f"place.{USER_DATA}"), "regular file 500 0:0", USER_DATA)
    expect(report.text(f"changeable.{USER_DATA}") == "no", f"{USER_DATA} can be changed by the payload")
    mounted = [mount for mount in report.mounts() if mount.target == USER_DATA]
    expect(bool(mounted) and all(mount.read_only for mount in mounted), f"{USER_DATA} is not mounted read-only")


@check("the patterns in user_data are replaced, and those that mean nothing are deleted")
async def patterns_are_replaced(trial: Trial) -> None:
    left = await trial.portrait()
    report = left.report()
    wanted = {
        "space": SPACE,
        "machinetype": TYPE,
        "vmtype": TYPE,
        "machine_hostname": left.record.id,
        "machinefeatures_url": "file:///etc/machinefeatures",
        "jobfeatures_url": "file:///etc/jobfeatures",
        "joboutputs_url": "file:///var/spool/joboutputs",
        "uuid": left.record.job_id,
        "option_greeting": GREETING,
        "file_letter": "a line of a file",
        "nobody_knows": "",
    }
    for name, value in wanted.items():
        found = report.text(f"pattern.{name}")
        expect(found == value, f"##user_data_{name}## became {found!r}, not {value!r}")
    expect(bool(report.text("pattern.manager_hostname")), "##user_data_manager_hostname## became nothing")


@check("an entrypoint takes the place of user_data as the command; user_data is there to be read")
async def entrypoint_takes_the_place_of_user_data(trial: Trial) -> None:
    script = 'printf "%s\\n" "$0" "$@" >"$JOBOUTPUTS/arguments" && cat /user_data >"$JOBOUTPUTS/user_data"'
    left = await trial.run(
        "#!/bin/sh\n# ##user_data_space##\nexit 9\n",
        entrypoint=["/bin/sh", "-c", script],
        args=["first", "second word"],
    )
    expect(left.file("arguments") == b"first\nsecond word\n", f"the arguments were {left.file('arguments')!r}")
    read = left.file("user_data")
    expect(read == f"#!/bin/sh\n# {SPACE}\nexit 9\n".encode(), f"user_data was read as {read!r}")


@check("the type's environment variables arrive byte for byte")
async def variables_arrive(trial: Trial) -> None:
    given = (await trial.portrait()).report().environment()
    for name, value in VARIABLES.items():
        expect(given.get(name) == value, f"{name} is {given.get(name)!r}, not {value!r}")


@check("secret files arrive byte for byte, for the machine's root alone to read, and cannot be changed")
async def secrets_arrive(trial: Trial) -> None:
    report = (await trial.portrait()).report()
    for name, content in SECRETS.items():
        path = f"/lmc/{name}"
        expect(report.content(f"secret.{path}") == content, f"{path} does not hold what its source holds")
        _place(report.text(f"place.{path}"), "regular file 400 0:0", path)
        expect(report.text(f"changeable.{path}") == "no", f"{path} can be changed by the payload")


@check("another user in the machine reads neither user_data nor secrets")
async def secrets_are_kept_from_other_users(trial: Trial) -> None:
    secret = trial.file("token", MARK)
    script = 'cat /lmc/token /user_data >"$JOBOUTPUTS/read" 2>"$JOBOUTPUTS/errors"; id -u >"$JOBOUTPUTS/user"'
    left = await trial.run(
        "#!/bin/sh\nexit 9\n",
        entrypoint=["/bin/sh", "-c", script],
        user="1000:1000",
        secret_files={"/lmc/token": str(secret)},
    )
    expect(left.file("user").strip() == b"1000", f"the payload ran as {left.file('user')!r}, not as 1000")
    expect(left.file("read") == b"", f"user 1000 read {left.file('read')[:80]!r}")


@check("a secret's content is in no variable, no listing, no record, no console and nothing that the engine shows")
async def secrets_are_shown_nowhere(trial: Trial) -> str:
    secret = trial.file("token", MARK)
    shown: dict[str, str] = {}

    async def act(live: Live) -> None:
        await live.left("here")
        shown["the machine's listing"] = repr(await live.runtime.machines())
        shown["the machine's record"] = repr(live.directory.load())
        if isinstance(live.runtime, Exec):
            command = ["/bin/sh", "-c", "cat /proc/1/environ /proc/1/cmdline /proc/self/environ /proc/mounts"]
            shown["the machine's variables"] = repr((await live.runtime.execute(live.seen.id, command)).output)
        ground = trial.ground
        if engine := await inspected(ground.runtime, ground.config, ground.places, live.seen.id):
            expect(live.seen.id in engine, f"the engine does not show machine {live.seen.id}")
            shown["the engine's inspection"] = engine
        await live.runtime.stop(live.seen.id, grace=2)

    left = await trial.run(WAIT, act=act, secret_files={"/lmc/token": str(secret)})
    shown |= {"the console": repr(left.shown), "what lm run says": "\n".join(left.told)}
    shown["the summary"] = json.dumps(left.summary.plain(), default=str)
    for where, text in shown.items():
        expect(MARK.decode() not in text, f"{where} shows the content of a secret file")
    return ", ".join(shown)


@check("the payload's variables are the type's, the contract's, the image's and the engine's; none is the host's")
async def no_variable_of_the_host_arrives(trial: Trial) -> None:
    left = await trial.portrait()
    known = {*VARIABLES, "MACHINEFEATURES", "JOBFEATURES", "JOBOUTPUTS", *_USUAL}
    foreign = sorted(
        name for name in left.report().environment() if name not in known and not re.fullmatch("LM_[A-Z0-9_]+", name)
    )
    expect(not foreign, f"the payload was given {', '.join(foreign)}")


_USUAL = ("HOME", "HOSTNAME", "LANG", "LC_ALL", "OLDPWD", "PATH", "PWD", "SHLVL", "TERM", "_", "container")


def _place(found: str, wanted: str, path: str) -> None:
    expect(found == wanted, f"{path} is {found or 'not there'}, not {wanted}")


CHECKS = (
    user_data_is_the_command,
    user_data_is_for_root_alone,
    patterns_are_replaced,
    entrypoint_takes_the_place_of_user_data,
    variables_arrive,
    secrets_arrive,
    secrets_are_kept_from_other_users,
    secrets_are_shown_nowhere,
    no_variable_of_the_host_arrives,
)
