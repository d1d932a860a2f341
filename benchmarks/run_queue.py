"""Executes training runs in separate processes, several in parallel; an interrupted queue can be resumed."""

import concurrent.futures
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolos_jax.errors import InputError, counted

ONE = "--one"  # flag that makes a module execute one run, given as JSON


def finished(file: Path) -> list[dict[str, Any]]:
    """Reads a `results.jsonl`, where each line has the description of a run (`run`) and its results.

    Ignores a truncated last line; raises `InputError` if any other line cannot be parsed.
    """
    lines = file.read_text().splitlines() if file.is_file() else []
    found = []
    for i, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if i < len(lines):
                raise InputError(f"line {i} of {file} is not valid JSON; delete it to repeat its run.") from error
    return found


def run_all(module: str, runs: Sequence[dict[str, Any]], out: Path, jobs: int) -> list[dict[str, Any]]:
    """Executes the runs that have no result in `out/results.jsonl`, `jobs` in parallel, and returns all results.

    Each run executes `python -m MODULE --one JSON` on one core, which prints its result as JSON on the last line. The
    output is logged to `out/logs`. If any runs failed, an `InputError` at the end lists them.
    """
    file = out / "results.jsonl"
    (out / "logs").mkdir(parents=True, exist_ok=True)
    runs = json.loads(json.dumps(runs))  # converts tuples to lists, as in the file
    there = finished(file)
    file.write_text("".join(json.dumps(each) + "\n" for each in there))
    done = [each["run"] for each in there]
    left = [run for run in runs if run not in done]
    failed: list[str] = []
    lock = threading.Lock()
    cores: queue.Queue[int | None] = queue.Queue()
    for core in _cores(jobs):
        cores.put(core)

    def one(run: dict[str, Any]) -> None:
        core = cores.get()
        name = run["name"]
        try:
            result = _process(module, run, core, out / "logs" / f"{name}.txt")
        finally:
            cores.put(core)
        with lock:
            if result is None:
                failed.append(name)
            else:
                with file.open("a") as results:
                    results.write(json.dumps({"run": run} | result) + "\n")
            count = len(finished(file))
            print(f"{name}: {'failed' if result is None else json.dumps(result)} ({count} results)", flush=True)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, left))
    if failed:
        raise InputError(f"{counted(len(failed), 'run')} failed: {', '.join(failed)}; see {out / 'logs'}.")
    return [each for each in finished(file) if each["run"] in runs]


def _cores(jobs: int) -> list[int | None]:
    """A CPU core for each job; None if the system does not support CPU affinity."""
    if not hasattr(os, "sched_getaffinity"):
        return [None] * jobs
    cores = sorted(os.sched_getaffinity(0))
    return [cores[i % len(cores)] for i in range(jobs)]


def _process(module: str, run: dict[str, Any], core: int | None, log: Path) -> dict[str, Any] | None:
    """Executes one run and returns its result; None if it failed."""
    one_core = {"OMP_NUM_THREADS": "1", "NPROC": "4", "JAX_PLATFORMS": "cpu"}
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    environment = os.environ | one_core | {"XLA_FLAGS": flags}
    command = [sys.executable, "-m", module, ONE, json.dumps(run | {"core": core})]
    with log.open("w") as text:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=text, text=True, env=environment)
        text.write(done.stdout)
    if done.returncode:
        return None
    return json.loads(done.stdout.splitlines()[-1])


def stay_on(core: int | None) -> None:
    """Pins this process to one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})
