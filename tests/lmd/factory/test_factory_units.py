"""The systemd units are ones that systemd understands, and end no machine with the daemon."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[3] / "packaging"
UNITS = ["lmd.service", "lmd-machines.service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_it(unit: str, tmp_path: Path) -> None:
    for name in UNITS:  # the programs are where a package puts them: stand-ins that can be executed
        text = re.sub(r"/usr/bin/lmd?\b", "/bin/true", (PACKAGING / name).read_text())
        (tmp_path / name).write_text(re.sub(r"^Documentation=.*$", "", text, flags=re.M))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit in line]) == (0, [])


def test_stopping_the_daemon_signals_nobody_else() -> None:
    text = (PACKAGING / "lmd.service").read_text()
    assert "\nKillMode=process\n" in text
    assert not re.search(r"^(Private|Protect|SystemCall|Restrict)", text, flags=re.M)  # machines would inherit those
