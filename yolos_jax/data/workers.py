"""Worker processes of the loader: how they start and end, and how their batches travel.

A worker writes each batch to a file and sends the file's name. A name is short, so no reader waits for the rest of a
long message when a worker dies while sending. On Linux the files lie in memory. What a killed process leaves there (its
files, and the semaphores of its workers) is found by name and removed by the next process that loads data.
"""

import contextlib
import functools
import gc
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from multiprocessing import resource_tracker, util
from pathlib import Path
from typing import Any

from yolos_jax.errors import InputError

MEMORY = Path("/dev/shm")  # files and semaphores in memory; Linux has it
NAME = "yolos-jax-"  # what the names of our folders there begin with
ENLARGE = "enlarge it (docker run --shm-size), or lower data.workers or data.ahead (data.workers=0 needs none)."


@functools.cache
def own_folder() -> Path:
    """This process's folder for batches on their way; it goes when the process ends.

    The process holds a lock on the folder, which shows others that it is in use. The system frees the lock of a
    process however it ends.
    """
    path = Path(tempfile.mkdtemp(prefix=NAME, dir=MEMORY if MEMORY.is_dir() else None))
    if MEMORY.is_dir():
        while _lock(path) is None or not path.exists():  # before the lock, another process may take it for a leftover
            path = Path(tempfile.mkdtemp(prefix=NAME, dir=MEMORY))
        # There is no public way to name the semaphores that multiprocessing makes; its processes inherit this one.
        multiprocessing.current_process()._config["semprefix"] = f"/{path.name}"  # type: ignore[attr-defined]
    # After multiprocessing itself has ended the workers and removed its semaphores (their priority is 0).
    util.Finalize(None, shutil.rmtree, (path, True), exitpriority=-1)
    return path


def _lock(folder: Path) -> int | None:
    """Locks a folder: its open descriptor, or None if it is in use, gone or another user's."""
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    with contextlib.suppress(BlockingIOError):
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    os.close(descriptor)
    return None


def remove_leftovers() -> None:
    """Removes the batches and semaphores of killed processes; those of running ones stay. Only on Linux."""
    for folder in MEMORY.glob(f"{NAME}*"):
        lock = _lock(folder)
        if lock is None:
            continue
        for semaphore in MEMORY.glob(f"sem.{folder.name}-*"):
            with contextlib.suppress(OSError):
                semaphore.unlink()
                # If the killed process was this one's parent, Python's tracker would complain of the loss.
                name = f"/{semaphore.name.removeprefix('sem.')}"
                resource_tracker.register(name, "semaphore")
                resource_tracker.unregister(name, "semaphore")
        # By another name first: a worker that has not noticed the end of its parent then finds no folder to write to.
        with contextlib.suppress(OSError):
            shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}-")))
        os.close(lock)


def send(folder: Path, loaded: Any) -> Path:
    """In a worker: writes a batch to a file of its own."""
    path = folder / str(loaded.step)
    try:
        with open(path, "wb") as file:
            pickle.dump(loaded, file, protocol=5)
    except OSError as error:
        raise InputError(f"a data worker cannot write a batch to {folder} ({error.strerror}); {ENLARGE}") from error
    return path


def receive(path: Path) -> Any:
    """Reads what `send` wrote, and removes the file."""
    with open(path, "rb") as file:
        path.unlink()
        return pickle.load(file)  # of our own worker, in a folder that nobody else can write to


def check_shared_memory(batch: int, workers: int, ahead: int, folder: Path = MEMORY) -> None:
    """`InputError` if the batches in flight, of `batch` bytes each, would not fit into shared memory."""
    if not folder.is_dir():
        return
    wanted = 2 * workers * (ahead + 1) * batch
    free = shutil.disk_usage(folder).free
    if wanted > free:
        need = f"{workers} data workers need up to {wanted / 2**20:.0f} MiB of shared memory"
        raise InputError(f"{need} and {folder} has {free / 2**20:.0f} MiB left; {ENLARGE}")


def dead_worker(what: str) -> InputError:
    """The error when a data worker has died; `what` has its exit code."""
    died = f"a data worker died ({what}; -9 is often the system running out of memory)"
    lower = "lower data.workers or data.ahead, and run the same command to go on"
    return InputError(f"{died}. Give it more memory, or {lower}.")


def from_processes(steps: Any, batch: int, workers: int, ahead: int) -> Generator[Any]:
    """Runs a grain data set of batches (of at most `batch` bytes each) in worker processes; yields them in order."""
    import grain

    check_shared_memory(batch, workers, ahead)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    several = grain.multiprocessing.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
    folder = Path(tempfile.mkdtemp(dir=own_folder()))
    paths = steps.to_iter_dataset(options).map(functools.partial(send, folder))
    return _received(iter(paths.mp_prefetch(several, worker_init_fn=start_worker)), folder)


def _received(paths: Any, folder: Path) -> Generator[Any]:
    try:
        yield from map(receive, paths)
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise dead_worker(str(error).split(".")[0]) from error
    finally:
        paths.close()
        shutil.rmtree(folder, ignore_errors=True)
        del paths
        gc.collect()  # grain's iterators are cycles that hold pipes and semaphores


def start_worker(index: int, count: int) -> None:
    """In a new worker: uses no accelerator, ignores Ctrl-C, and ends when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The parent answers a signal to the whole group: it finishes its step and ends its workers.
    signal.signal(signal.SIGTERM, _exit_later)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    time.sleep(0.2)  # the system closes the files of a killed process one by one: its lock may be the last
    remove_leftovers()
    os._exit(1)


def _exit_later(*_: Any) -> None:
    timer = threading.Timer(30.0, os._exit, (1,))
    timer.daemon = True
    timer.start()
