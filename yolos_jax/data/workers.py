"""Starts and stops the worker processes of the loader, and transfers their batches.

A worker writes each batch to a file and sends only its name. Sending a whole batch could block the reader forever if
the worker died in the middle of the message. On Linux, the files are in shared memory. A killed process leaves files
and semaphores there, which the next process that loads data finds by name and removes.
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

MEMORY = Path("/dev/shm")  # files and semaphores in shared memory on Linux
NAME = "yolos-jax-"  # prefix of the folders of this package in shared memory
ENLARGE = "enlarge it (docker run --shm-size), or decrease data.workers (0 uses no shared memory) or data.ahead."


@functools.cache
def own_folder() -> Path:
    """Returns this process's folder for batches in transfer, which is removed when the process ends.

    A lock on the folder marks it as in use. The operating system releases the lock when the process ends, even if it
    is killed.
    """
    path = Path(tempfile.mkdtemp(prefix=NAME, dir=MEMORY if MEMORY.is_dir() else None))
    if MEMORY.is_dir():
        while _lock(path) is None or not path.exists():  # another process may remove the folder before it is locked
            path = Path(tempfile.mkdtemp(prefix=NAME, dir=MEMORY))
        # multiprocessing has no public API for semaphore names; child processes inherit this prefix.
        multiprocessing.current_process()._config["semprefix"] = f"/{path.name}"  # type: ignore[attr-defined]
    # Runs after multiprocessing has ended the workers and removed its semaphores (priority 0).
    util.Finalize(None, shutil.rmtree, (path, True), exitpriority=-1)
    return path


def _lock(folder: Path) -> int | None:
    """Locks a folder. Returns its descriptor, or None if it is in use, does not exist or belongs to another user."""
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
    """Removes batches and semaphores left by killed processes on Linux; does not affect running processes."""
    for folder in MEMORY.glob(f"{NAME}*"):
        lock = _lock(folder)
        if lock is None:
            continue
        for semaphore in MEMORY.glob(f"sem.{folder.name}-*"):
            with contextlib.suppress(OSError):
                semaphore.unlink()
                # Otherwise, Python's resource tracker would warn if the killed process was the parent of this one.
                name = f"/{semaphore.name.removeprefix('sem.')}"
                resource_tracker.register(name, "semaphore")
                resource_tracker.unregister(name, "semaphore")
        # The folder is renamed first, so that a worker that outlives its parent cannot write to it.
        with contextlib.suppress(OSError):
            shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}-")))
        os.close(lock)


def send(folder: Path, loaded: Any) -> Path:
    """Writes a batch to a new file and returns its path; called in a worker."""
    path = folder / str(loaded.step)
    try:
        with open(path, "wb") as file:
            pickle.dump(loaded, file, protocol=5)
    except OSError as error:
        raise InputError(f"a data worker cannot write a batch to {folder} ({error.strerror}); {ENLARGE}") from error
    return path


def receive(path: Path) -> Any:
    """Reads a batch written by `send` and removes its file."""
    with open(path, "rb") as file:
        path.unlink()
        return pickle.load(file)  # written by our own worker, in a folder that only this user can write to


def check_shared_memory(batch: int, workers: int, ahead: int, folder: Path = MEMORY) -> None:
    """Raises `InputError` if the prefetched batches, of `batch` bytes each, do not fit into shared memory."""
    if not folder.is_dir():
        return
    wanted = 2 * workers * (ahead + 1) * batch
    free = shutil.disk_usage(folder).free
    if wanted > free:
        need = f"{workers} data workers need up to {wanted / 2**20:.0f} MiB of shared memory"
        raise InputError(f"{need} but {folder} has only {free / 2**20:.0f} MiB left; {ENLARGE}")


def dead_worker(what: str) -> InputError:
    """Returns the error for a data worker that died; `what` contains its exit code."""
    died = f"a data worker died ({what}; -9 often means that the system ran out of memory)"
    lower = "decrease data.workers or data.ahead, then run the same command again to continue"
    return InputError(f"{died}. Provide more memory, or {lower}.")


def from_processes(steps: Any, batch: int, workers: int, ahead: int) -> Generator[Any]:
    """Computes a Grain data set of batches (at most `batch` bytes each) in worker processes; yields them in order."""
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
        gc.collect()  # Grain iterators form reference cycles that keep pipes and semaphores open


def start_worker(index: int, count: int) -> None:
    """Configures a new worker to use no accelerator, ignore Ctrl-C and end when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # If the whole process group receives a signal, the parent finishes its step first and then ends its workers.
    signal.signal(signal.SIGTERM, _exit_later)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    time.sleep(0.2)  # the operating system may take a moment to release the lock of a killed parent
    remove_leftovers()
    os._exit(1)


def _exit_later(*_: Any) -> None:
    timer = threading.Timer(30.0, os._exit, (1,))
    timer.daemon = True
    timer.start()
