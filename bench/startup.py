"""What `lm --help` costs above a bare Python: medians of whole processes, in turn, in one run.

python bench/startup.py [--rounds 30] [--json]
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    beside = Path(sys.executable).parent / "lm"
    program = str(beside) if beside.exists() else shutil.which("lm") or "lm"
    commands = {"lm --help": [program, "--help"], "python -c pass": [sys.executable, "-c", "pass"]}
    figures: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(chosen.rounds):
        for name, command in commands.items():
            figures[name].append(seconds(command))
    medians = {name: statistics.median(found) for name, found in figures.items()}
    above = medians["lm --help"] - medians["python -c pass"]
    if chosen.json:
        print(json.dumps({"rounds": chosen.rounds, "median_seconds": medians, "above_seconds": above}))
        return
    for name, median in medians.items():
        print(f"{name:<15} median {median * 1000:6.1f} ms (n={chosen.rounds})")
    print(f"lm --help above a bare Python: {above * 1000:.0f} ms")


if __name__ == "__main__":
    main()
