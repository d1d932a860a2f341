"""Starts and ends the loader's worker processes, and transfers their batches.

A worker writes each batch to a file and sends the file's name. A name is short, so no reader waits for the rest of a
long message when a worker dies while sending. On Linux the files are in shared memory. A killed process leaves files
and semaphores there; the next process that loads data finds them by name and removes them.
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

MEMORY = Path("/dev/shm")  # Linux's shared memory: files and semaphores
NAME = "yolos-jax-"  # prefix of this package's folders there
ENLARGE = "enlarge it (docker run --shm-size), or lower data.workers or data.ahead (data.workers=0 needs none)."


@functools.cache
def own_folder() -> Path:
    """This process's folder for batches in transfer; removed when the process ends.

    The process holds a lock on the folder, which marks it as in use. The system releases the lock however the
    process ends.
    """
    path = Path(tempfile.mkdtemp(prefix=NAME, dir=MEMORY if MEMORY.is_dir() else None))
    if MEMORY.is_dir():
        while _lock(path) is None or not path.exists():  # until locked, another process may remove it as a leftover
            path = Path(tempfile.mkdtemp(prefix=NAME, dir=MEMORY))
        # There is no public way to name multiprocessing's semaphores; child processes inherit this prefix.
        multiprocessing.current_process()._config["semprefix"] = f"/{path.name}"  # type: ignore[attr-defined]
    # Runs after multiprocessing has ended the workers and removed its semaphores (priority 0).
    util.Finalize(None, shutil.rmtree, (path, True), exitpriority=-1)
    return path


def _lock(folder: Path) -> int | None:
    """Locks a folder; returns its open descriptor, or None if it is in use, gone or another user's."""
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
                # If the killed process was this one's parent, Python's resource tracker would warn about it.
                name = f"/{semaphore.name.removeprefix('sem.')}"
                resource_tracker.register(name, "semaphore")
                resource_tracker.unregister(name, "semaphore")
        # Rename it first, so a worker that outlives its parent finds no folder to write to.
        with contextlib.suppress(OSError):
            shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}-")))
        os.close(lock)


def send(folder: Path, loaded: Any) -> Path:
    """Writes a batch to a new file; called in a worker."""
    path = folder / str(loaded.step)
    try:
        with open(path, "wb") as file:
            pickle.dump(loaded, file, protocol=5)
    except OSError as error:
        raise InputError(f"a data worker cannot write a batch to {folder} ({error.strerror}); {ENLARGE}") from error
    return path


def receive(path: Path) -> Any:
    """Reads a file that `send` wrote, and removes it."""
    with open(path, "rb") as file:
        path.unlink()
        return pickle.load(file)  # written by our own worker, in a folder that only this user can write to


def check_shared_memory(batch: int, workers: int, ahead: int, folder: Path = MEMORY) -> None:
    """Raises `InputError` if the prefetched batches, of `batch` bytes each, would not fit into shared memory."""
    if not folder.is_dir():
        return
    wanted = 2 * workers * (ahead + 1) * batch
    free = shutil.disk_usage(folder).free
    if wanted > free:
        need = f"{workers} data workers need up to {wanted / 2**20:.0f} MiB of shared memory"
        raise InputError(f"{need} and {folder} has {free / 2**20:.0f} MiB left; {ENLARGE}")


def dead_worker(what: str) -> InputError:
    """The error for a dead data worker; `what` contains its exit code."""
    died = f"a data worker died ({what}; -9 often means that the system ran out of memory)"
    lower = "lower data.workers or data.ahead, and run the same command to continue"
    return InputError(f"{died}. Give it more memory, or {lower}.")


def from_processes(steps: Any, batch: int, workers: int, ahead: int) -> Generator[Any]:
    """Runs a grain data set of batches (at most `batch` bytes each) in worker processes; yields them in order."""
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
    """Sets up a new worker: it uses no accelerator, ignores Ctrl-C, and ends when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # On a signal to the whole group, the parent finishes its step and then ends its workers.
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
