"""Kills `forescale run quick` with SIGKILL at ten random moments and compares the end with an uninterrupted run's.

    python -m benchmarks.kill_quick --whole runs/quick --out runs/killed --kills 10

`--whole` is a finished run of the same recipe. Prints and writes when each kill came, and whether all numbers are equal.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.micro import numbers

from forescale.core.artifacts import MANIFEST, verify, write_json
from forescale.core.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", type=Path, default=Path("runs/quick"))
    parser.add_argument("--out", type=Path, default=Path("runs/killed"))
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--within", type=float, default=60.0, help="seconds: each kill comes 5 to this after its start")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    command = [sys.executable, "-m", "forescale.cli", "run", options.recipe, "--out", str(options.out)]
    moments = []
    for kill in range(options.kills):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        wait = generator.uniform(5, options.within)
        time.sleep(wait)
        if process.poll() is not None:
            print(f"kill {kill + 1}: the run had already ended")
            break
        # Only the parent: its workers have to notice by themselves.
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        folder = options.out
        done = sorted(str(p.parent.relative_to(folder)) for p in folder.rglob(MANIFEST))
        moments.append(
            {"after_seconds": round(wait, 1), "artifacts_done": len(done), "last": done[-1] if done else None}
        )
        print(f"kill {kill + 1} after {wait:.1f} s, {len(done)} artifacts done", flush=True)
    final = subprocess.run(command, check=False)
    damaged = []
    for path in options.out.rglob(MANIFEST):
        try:
            verify(path.parent)
        except UserError as error:
            damaged.append(str(error))
    equal = numbers(options.out) == numbers(options.whole)
    leftovers = [str(p) for p in options.out.rglob("*.tmp")]
    write_json(
        options.out.with_suffix(".json"),
        {"kills": moments, "status": final.returncode, "damaged": damaged, "leftovers": leftovers, "equal": equal},
    )
    print(
        f"exit {final.returncode}; damaged: {damaged or 'none'}; left over: {leftovers or 'none'}; numbers equal: {equal}"
    )
    raise SystemExit(0 if equal and not damaged and final.returncode == 0 else 1)


if __name__ == "__main__":
    main()
