"""Runs stages side by side in worker processes: single-threaded and pinned on a CPU, one an accelerator elsewhere.

Two threads on two cores collapse as soon as anything else wants a core; two pinned single-threaded processes do not. Workers
outlive their jobs (importing torch takes seconds), end when their parent ends, and a job that fails, or whose process dies, is
tried once more before it is given up.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from forescale.core.artifacts import Stage
from forescale.core.device import worker_environment
from forescale.core.errors import UserError

ATTEMPTS = 2


@dataclass
class Job:
    """A stage to make, and what it weighs (FLOPs) for scheduling and progress."""

    name: str
    stage: Stage
    config: Any
    inputs: Mapping[str, Path]
    out_dir: Path
    weight: float
    seed: int | None = None
    attempts: int = 0
    error: str | None = None
    done: bool = False


@dataclass
class State:
    """What a display needs, by name of the job: its share done, its latest loss, its first alarm."""

    shares: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    alarms: dict[str, dict[str, Any]] = field(default_factory=dict)


Display = Callable[[Sequence[Job], State], None]


def run_jobs(jobs: Sequence[Job], workers: int, threads: int, display: Display | None = None) -> None:
    """Makes all jobs, heaviest first. A failed job has `error` set after its last attempt; UserErrors are raised at once."""
    pending = deque(sorted(jobs, key=lambda job: -job.weight))
    state = State()
    lock = threading.Lock()
    fatal: list[Exception] = []
    active: dict[int, _Worker] = {}

    def serve(slot: int) -> None:
        # Ctrl-C is the parent's to handle: processes that are started from this thread inherit its mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        worker = active[slot] = _Worker(slot, threads)
        try:
            while not fatal:
                with lock:
                    if not pending:
                        return
                    job = pending.popleft()
                job.attempts += 1
                outcome = worker.run(job, state)
                if outcome is None:
                    job.done, job.error = True, None
                    state.shares[job.name] = 1.0
                elif isinstance(outcome, UserError):
                    fatal.append(outcome)
                else:
                    job.error = str(outcome)
                    if job.attempts < ATTEMPTS:
                        with lock:
                            pending.append(job)
        except Exception as error:
            fatal.append(error)
        finally:
            worker.stop()

    slots = [threading.Thread(target=serve, args=(slot,), daemon=True) for slot in range(min(workers, len(jobs)))]
    for slot in slots:
        slot.start()
    try:
        while any(slot.is_alive() for slot in slots):
            if display:
                display(jobs, state)
            for slot in slots:
                slot.join(timeout=0.25)
            if fatal:
                # What stopped one (a full disk, say) will stop the others; what they have done is checkpointed.
                _kill(active)
    except BaseException as error:
        fatal.append(RuntimeError(f"stopped: {error}"))
        _kill(active)
        raise
    if display:
        display(jobs, state)
    if fatal:
        raise fatal[0]


def _kill(workers: Mapping[int, _Worker]) -> None:
    for worker in list(workers.values()):
        worker.kill()


class _Worker:
    """A child process that makes one stage after another."""

    def __init__(self, slot: int, threads: int) -> None:
        self.slot, self.threads = slot, threads
        self.process: Any = None
        self.pipe: Connection | None = None

    def run(self, job: Job, state: State) -> Exception | None:
        if self.process is None or not self.process.is_alive():
            self._start()
        assert self.pipe is not None
        try:
            self.pipe.send((job.stage, job.config, dict(job.inputs), job.out_dir, job.seed))
            while True:
                kind, value = self.pipe.recv()
                if kind == "progress":
                    done, total, loss = value
                    state.shares[job.name], state.losses[job.name] = done / total, loss
                elif kind == "alarm":
                    state.alarms.setdefault(job.name, value)
                elif kind == "done":
                    return None
                elif kind == "user-error":
                    return UserError(value)
                else:
                    return RuntimeError(value)
        except (EOFError, OSError):
            self.process.join(timeout=5)
            code = self.process.exitcode
            self.process = None
            return RuntimeError(f"its process ended with status {code}")

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        # glibc and OpenMP read their settings when a process starts, so they must stand in the environment beforehand.
        with _START_LOCK:
            before = dict(os.environ)
            os.environ.update(worker_environment(self.threads))
            try:
                self.process = context.Process(
                    target=_serve, args=(theirs, self.slot, self.threads, os.getpid()), daemon=True
                )
                self.process.start()
            finally:
                os.environ.clear()
                os.environ.update(before)
        theirs.close()

    def kill(self) -> None:
        if self.process is not None and self.process.is_alive():
            self.process.kill()

    def stop(self) -> None:
        if self.pipe is not None:
            self.pipe.close()
        if self.process is not None:
            self.process.join(timeout=5)
            if self.process.is_alive():
                self.process.kill()


_START_LOCK = threading.Lock()


def _serve(pipe: Connection, slot: int, threads: int, parent: int) -> None:
    """The child's life: receive a job, make it, say so."""
    _die_with(parent)
    import torch

    from forescale.ladder.rung import set_report

    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())
    else:
        torch.set_num_threads(threads)
        if threads == 1 and hasattr(os, "sched_setaffinity"):
            allowed = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {allowed[slot % len(allowed)]})
    last = 0.0

    def report(kind: str, value: Any) -> None:
        nonlocal last
        if kind != "progress" or time.perf_counter() - last > 0.2:
            last = time.perf_counter()
            pipe.send((kind, value))

    set_report(report)
    while True:
        try:
            stage, config, inputs, out_dir, seed = pipe.recv()
        except EOFError:
            return
        try:
            stage.make(config, inputs, out_dir, seed)
            pipe.send(("done", None))
        except UserError as error:
            pipe.send(("user-error", str(error)))
        except OSError as error:
            # A full disk or a lost mount is the user's to mend; trying again would fail again.
            pipe.send(
                ("user-error", f"{out_dir}: {error.strerror or error}; free space or mend the path and run again.")
            )
        except Exception:
            pipe.send(("error", traceback.format_exc()))


def _die_with(parent: int) -> None:
    """Ends this process when its parent has ended, even by kill -9, so that no orphan goes on writing."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
