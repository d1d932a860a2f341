"""Tests how worker processes start and end, and the removal of files that killed processes leave in shared memory."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from made_coco import coco_split, make_coco
from reference_pack import ROOT

from yolos_jax.data import workers
from yolos_jax.data.augment import Pipeline, Resize
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.examples import TrainBatch
from yolos_jax.data.loader import Loaded, LoadStep, load_batches
from yolos_jax.data.plan import TrainingPlan
from yolos_jax.errors import InputError

linux = pytest.mark.skipif(not workers.MEMORY.is_dir(), reason="requires /dev/shm")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("images"), [(64, 48), (48, 64), (100, 40)] * 6)


def training(root) -> LoadStep:
    source = coco_split(root, "train2017")
    plan = TrainingPlan(source.examples.sizes, Pipeline(Resize((48,), 96)), 4, 2, 1000, 0)
    return detection_work(source, plan, 16, 84)


@pytest.mark.timeout(120)
def test_workers_start_no_jax_backend_and_end_on_close(data, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")  # inherited by the worker

    work, before = training(data), set(psutil.Process().children(recursive=True))

    class Look:  # a local class is pickled by value
        nbytes = work.nbytes

        def __call__(self, step: int):
            import jax
            from jax._src import xla_bridge

            facts = os.getpid(), os.environ["JAX_PLATFORMS"], str(jax.config.jax_platforms), [*xla_bridge._backends]
            return work(step)._replace(skipped=facts)

    batches = load_batches(Look(), 0, 12, workers=2)
    found = [next(batches).skipped for _ in range(8)]
    workers = [p for p in psutil.Process().children(recursive=True) if p not in before and is_worker(p)]
    assert {pid for pid, *_ in found} == {p.pid for p in workers} and len(workers) == 2
    assert [rest for _, *rest in found] == [["cpu", "cpu", []]] * 8
    batches.close()
    psutil.wait_procs(workers, timeout=30)
    assert not any(alive(p) for p in workers)


@pytest.mark.timeout(120)
def test_worker_errors_reach_the_caller():
    class Fails:
        nbytes = 0

        def __call__(self, step: int):
            raise InputError(f"step {step} is bad.")

    with (
        pytest.raises(InputError, match="step 0 is bad"),
        contextlib.closing(load_batches(Fails(), 0, 4, 1)) as batches,
    ):
        list(batches)


# Prints the name of its folder in shared memory, then loads the given number of steps or, with "stay", waits after the
# first step. With "fork", forks a process that does so for each line of input, which is the path of its output file.
PARENT = """
import os, sys, time
from pathlib import Path
import grain
from yolos_jax.data.augment import Pipeline, Resize
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.loader import load_batches
from yolos_jax.data.plan import TrainingPlan
from yolos_jax.datasets.examples import read_split
from yolos_jax.datasets.opening import find_split
from yolos_jax.datasets.settings import SplitOptions
from yolos_jax.data.workers import own_folder

source = read_split(find_split(Path(sys.argv[1]), "train2017"), SplitOptions())
plan = TrainingPlan(source.examples.sizes, Pipeline(Resize((48,), 96)), 4, 2, 1000, 0)

def main():
    batches = load_batches(detection_work(source, plan, 16, 84), 0, int(sys.argv[2]), int(sys.argv[3]))
    print(own_folder().name, flush=True)
    for loaded in batches:
        if "stay" in sys.argv:
            print("loading", flush=True)
            time.sleep(600)

if "fork" not in sys.argv:
    main()
else:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.setsid()
            os.dup2(os.open(line.strip(), os.O_WRONLY), 1)
            main()
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def command(data, steps: int, workers: int, *more: str) -> list[str]:
    return [sys.executable, "-c", PARENT, str(data), str(steps), str(workers), *more]


def listed(names: list[str]) -> list[str]:
    """Entries of shared memory whose names contain one of `names`."""
    assert names
    here = os.listdir(workers.MEMORY) if workers.MEMORY.is_dir() else []
    return [entry for entry in here if any(name in entry for name in names)]


@pytest.mark.timeout(240)
def test_leftovers_of_killed_processes_are_removed_at_the_next_start(data, tmp_path):
    """Nothing is printed to stderr, not even by Python's resource tracker, which warns about leaked semaphores."""
    names = left_by_kills(data, tmp_path) if workers.MEMORY.is_dir() else []
    done = subprocess.run(command(data, 7, 2), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert not listed(names + done.stdout.split())


def left_by_kills(data, tmp_path) -> list[str]:
    """Kills ten processes at random times, alone or with their children; returns the names of their folders."""
    rng, names, left = np.random.default_rng(0), [], 0
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command(data, 4000, 1, "fork"), cwd=ROOT, **options) as forks:
        for kill in range(10):
            os.mkfifo(tmp_path / f"{kill}")
            print(tmp_path / f"{kill}", file=forks.stdin, flush=True)
            pid = int(forks.stdout.readline())
            with open(tmp_path / f"{kill}") as said:
                names.append(said.readline().strip())
                time.sleep(rng.uniform(0, 2.5))  # the worker starts after one or two seconds
                (os.killpg if kill % 2 else os.kill)(pid, signal.SIGKILL)
                said.read()  # waits until the workers have also ended
            assert int(forks.stdout.readline()) == -signal.SIGKILL
            left = max(left, len(listed(names)))
        forks.stdin.close()
    assert left > 10 and len(set(names)) == 10
    return names


@linux
def test_only_unused_folders_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "MEMORY", tmp_path)
    precious = tmp_path / "elsewhere"
    for name in ("yolos-jax-dead", "yolos-jax-alive", "another", "elsewhere"):
        (tmp_path / name / "load").mkdir(parents=True)
        (tmp_path / name / "load" / "7").write_bytes(b"batch")
    (tmp_path / "yolos-jax-link").symlink_to(precious)
    (tmp_path / "yolos-jax-file").write_bytes(b"")
    for name in ("sem.yolos-jax-dead-1", "sem.yolos-jax-dead-2", "sem.yolos-jax-alive-1", "sem.mp-1"):
        (tmp_path / name).write_bytes(b"")
    lock = workers._lock(tmp_path / "yolos-jax-alive")
    workers.remove_leftovers()
    kept = {"yolos-jax-alive", "another", "elsewhere", "yolos-jax-link", "yolos-jax-file"}
    kept |= {"sem.yolos-jax-alive-1", "sem.mp-1"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert (tmp_path / "yolos-jax-alive" / "load" / "7").is_file() and (precious / "load" / "7").is_file()
    os.close(lock)  # as the operating system does when a process ends
    workers.remove_leftovers()
    kept -= {"yolos-jax-alive", "sem.yolos-jax-alive-1"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    monkeypatch.setattr(workers, "MEMORY", tmp_path / "no")  # as on systems other than Linux
    workers.remove_leftovers()


@linux
def test_removed_folder_is_created_again(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "MEMORY", tmp_path)
    monkeypatch.setattr(workers.util, "Finalize", lambda *_, **__: None)
    monkeypatch.setitem(multiprocessing.current_process()._config, "semprefix", "/before")
    lock, refused = workers._lock, []

    def too_late(folder):
        if len(refused) == 2:
            return lock(folder)
        refused.append(folder)
        descriptor = lock(folder) if len(refused) == 2 else None  # locked by another process, then locked but removed
        folder.rmdir()
        return descriptor

    monkeypatch.setattr(workers, "_lock", too_late)
    folder = workers.own_folder.__wrapped__()
    assert len(refused) == 2 and folder not in refused and folder.is_dir()
    assert lock(folder) is None  # in use
    assert multiprocessing.current_process()._config["semprefix"] == f"/{folder.name}"


def test_batch_is_transferred_unchanged(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (2, 9, 768), np.uint8), np.int32([[3, 3], [1, 1]]), np.full((2, 0), -1)]
    loaded = Loaded(
        5, TrainBatch(*arrays, rng.random((2, 0, 4)), np.zeros(2), np.array([True, False])), [4, -1], (), 9, 10
    )
    path = workers.send(tmp_path, loaded)
    found = workers.receive(path)
    assert found[:1] + found[2:] == loaded[:1] + loaded[2:] and not path.exists()
    for one, other in zip(found.batch, loaded.batch):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype and one.flags.writeable


@linux
def test_error_if_a_batch_does_not_fit(tmp_path):
    (tmp_path / "5").symlink_to("/dev/full")
    batch = Loaded(5, TrainBatch(*[np.zeros(9000)] * 6), np.zeros(2), (), 0, 0)
    with pytest.raises(InputError, match=r"cannot write a batch to .* \(No space left on device\); enlarge it"):
        workers.send(tmp_path, batch)


@linux
def test_error_if_prefetched_batches_do_not_fit(tmp_path):
    workers.check_shared_memory(2**20, 2, 2, tmp_path)
    workers.check_shared_memory(2**60, 2, 2, tmp_path / "no")
    with pytest.raises(
        InputError, match=r"2 data workers need up to 12582912 MiB of shared memory but .* has only .* MiB left"
    ):
        workers.check_shared_memory(2**40, 2, 2, tmp_path)


@pytest.mark.timeout(120)
def test_workers_end_when_their_parent_is_killed(data):
    parent = subprocess.Popen(
        command(data, 7, 2, "stay"), cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    children = []
    try:
        name = parent.stdout.readline().strip()
        assert parent.stdout.readline().strip() == "loading"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert sum(is_worker(p) for p in children) == 2 and all(alive(p) for p in children)
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
        end = time.monotonic() + 30
        while any(alive(p) for p in children) and time.monotonic() < end:
            time.sleep(0.1)
        assert not [p.cmdline() for p in children if alive(p)]
        assert not listed([name])  # the workers removed the folder of their parent
    finally:
        for process in (parent, *children):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        parent.stdout.close()


def is_worker(process: psutil.Process) -> bool:
    """Whether a process is a `multiprocessing` worker and not its resource tracker."""
    return "spawn_main" in " ".join(process.cmdline())


def alive(process: psutil.Process) -> bool:
    """Whether a process is running; False for zombies."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
