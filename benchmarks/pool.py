"""Jobs of a benchmark side by side, a line of JSON each, so that one that was stopped goes on where it was."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from forescale.core.device import cpus, worker_environment

Record = dict[str, Any]


def run_all(
    one: Callable[[Record], Record],
    jobs: Sequence[Record],
    identity: Sequence[str],
    out: Path,
    tell: Callable[[Record], str],
) -> list[Record]:
    """All records of `out`, after the jobs that it does not hold yet were run, one a core. `one` is a module's own function; its
    record repeats the job's `identity`. `tell` puts a record into words, as it comes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.is_file() else []
    seen = [{key: record[key] for key in identity} for record in done]
    left = [job for job in jobs if {key: job[key] for key in identity} not in seen]
    os.environ.update(worker_environment(1))
    with multiprocessing.get_context("spawn").Pool(cpus()) as pool, out.open("a") as file:
        for record in pool.imap_unordered(one, left):
            done.append(record)
            file.write(json.dumps(record) + "\n")
            file.flush()
            print(tell(record), flush=True)
    return done
