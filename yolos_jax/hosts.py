"""Several processes of one run: how they find each other, and how they decide together.

Every process runs the same program on its own part of each batch. Whatever
one of them alone learns (a signal, a picture that cannot be read, a full disk)
is told to all before the next step, so all of them end at the same one.
"""

import atexit
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from yolos_jax.errors import InputError

HEARTBEAT = 30  # seconds without a sign of life until a process counts as dead
SHUTDOWN = 20  # seconds to wait for the others at the end
LOST = (
    "another process of this run has died or cannot be reached any more (see what the others printed), so this one "
    "ends too. Run the same command on all hosts to go on from the newest checkpoint."
)

T = TypeVar("T")


class LostProcess(InputError):
    """Another process is gone; nothing can be computed together any more."""

    def leave(self) -> None:
        """Ends this process at once: there is nobody to wait for."""
        leave(2)


class Team:
    """The processes of a run, seen from one of them; without `jax.distributed` there is one.

    Attributes:
      index: which one this is.
      count: how many there are.
    """

    def __init__(self) -> None:
        import jax

        self.index, self.count = jax.process_index(), jax.process_count()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.index == 0

    def tell(self, value: Any) -> list[Any]:
        """What every process has to say (JSON-ready), in their order. All must call this at the same point."""
        if self.count == 1:
            return [value]
        import numpy as np

        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        sizes = self._gather(np.array([text.size], np.int32))[:, 0]
        padded = np.zeros(int(sizes.max()), np.uint8)
        padded[: text.size] = text
        return [json.loads(row[:size].tobytes()) for row, size in zip(self._gather(padded), sizes)]

    def together(self, work: Callable[[], T], vote: Callable[[], int] = int) -> tuple[T, int]:
        """Does some work in every process, and agrees on how it went.

        Args:
          work: anything that needs no other process. If it fails in one, all fail.
          vote: asked afterwards.

        Returns:
          (what `work` returned here, the largest vote of all)

        Raises:
          InputError: somebody's `work` raised one.
          LostProcess: another process is gone.
          Exception: whatever else this process's `work` raised.
        """
        if self.count == 1:
            return work(), vote()
        error: Exception | None = None
        try:
            value = work()
        except Exception as raised:  # the others are waiting to be told
            error = raised
        import numpy as np

        votes = self._gather(np.array([error is not None, vote()], np.int32))
        if votes[:, 0].any():
            texts = self.tell("" if error is None else str(error) or type(error).__name__)
            if error is not None:
                raise error
            who = int(votes[:, 0].argmax())
            raise InputError(f"process {who} of {self.count} stopped: {texts[who]}")
        return value, int(votes[:, 1].max())

    def from_leader(self, tree: Any, like: Any) -> Any:
        """Arrays of the leading process in all of them, as numpy and bit by bit.

        Args:
          tree: nested dicts or tuples of arrays; looked at in the leading process only.
          like: things of the same structure with `.shape` and `.dtype` (4 bytes wide).
        """
        import jax
        import numpy as np

        if self.count == 1:
            return jax.tree.map(np.asarray, tree)
        from jax.experimental import multihost_utils

        def bits(x: Any) -> np.ndarray:  # a sum of floats would make 0.0 of -0.0
            return np.ascontiguousarray(x).reshape(x.shape).view(np.uint32)

        def nothing(x: Any) -> np.ndarray:
            return np.zeros(x.shape, np.uint32)

        mine = jax.tree.map(bits, tree) if self.leads else jax.tree.map(nothing, like)
        with told_if_lost(self.count):
            found = multihost_utils.broadcast_one_to_all(mine, is_source=self.leads)
        return jax.tree.map(lambda x, y: np.array(x).view(np.dtype(y.dtype)), found, like)

    def same(self, **values: Any) -> None:
        """`InputError` that names the first of the values that is not alike in all processes."""
        told = self.tell(values)
        for name, value in told[0].items():
            for i, other in enumerate(told):
                if other[name] != value:
                    raise InputError(
                        f"{name} is {other[name]} in process {i} and {value} in process 0; start all processes of a "
                        "run with the same command and the same data."
                    )

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Only the leading process prints."""
        with open(os.devnull, "w") as nowhere, contextlib.nullcontext() if self.leads else _printing_to(nowhere):
            yield

    def _gather(self, array: Any) -> Any:
        """`[n]` of every process -> `[count, n]`."""
        from jax.experimental import multihost_utils

        with told_if_lost(self.count):
            return multihost_utils.process_allgather(array)


@contextlib.contextmanager
def told_if_lost(count: int) -> Iterator[None]:
    """Takes a failed exchange between `count` processes for one of them being gone; lets other failures pass."""
    import jax

    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if count == 1 or "RESOURCE_EXHAUSTED" in str(error) or not _of_transport(error):
            raise
        raise LostProcess(LOST) from error


def _of_transport(error: Exception) -> bool:
    import jax

    words = ("gloo", "nccl", "connection", "unavailable", "heartbeat", "coordination", "aborted", "socket", "peer")
    return isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error).lower() for word in words)


@contextlib.contextmanager
def _printing_to(file: Any) -> Iterator[None]:
    with contextlib.redirect_stdout(file):
        yield


def place(tree: Any, sharding: Any) -> Any:
    """Arrays that every process has whole -> arrays on the devices of all; those that are there already stay."""
    import jax
    import numpy as np

    def one(x: Any) -> Any:
        if isinstance(x, jax.Array) and x.sharding == sharding:
            return x
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda part: host[part])

    return jax.tree.map(one, tree)


def detected(environment: Mapping[str, str]) -> str:
    """The launcher that started this process as one of several, by its environment; "" if there is none."""
    if int(environment.get("SLURM_NTASKS", 1)) > 1 and {"SLURM_STEP_NODELIST", "SLURM_PROCID"} <= environment.keys():
        return "Slurm"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "Open MPI"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", "") or "MEGASCALE_COORDINATOR_ADDRESS" in environment:
        return "TPU"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return "Kubernetes"
    return ""


def devices_of_node(environment: Mapping[str, str]) -> list[int] | None:
    """All GPUs of a node where Slurm or Open MPI started one process on it.

    None leaves it to jax, which takes one process for each GPU under these launchers.
    """
    gpus, tasks = environment.get("SLURM_GPUS_ON_NODE", ""), environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    if tasks.partition("(")[0] == "1" and gpus.isdigit():
        return list(range(int(gpus)))
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    if environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1" and visible:
        return list(range(len(visible.split(","))))
    return None


def join(coordinator: str = "", processes: int = 0, process: int = -1, mode: str = "auto") -> None:
    """Makes this process one of several, if it was started as such; call it before jax does anything.

    Args:
      coordinator: `host:port` of process 0, where no launcher says it.
      processes, process: how many there are, and which this is (0, 1, ...).
      mode: "auto" asks the environment, "on" leaves that to `jax.distributed` (TPU hosts without a sign in the
        environment), "off" stays alone.

    Raises:
      InputError: the arguments do not fit together, or the processes do not find each other.
    """
    given = bool(coordinator), processes > 0, process >= 0
    found = detected(os.environ) if mode == "auto" else ""
    if mode == "off" or not (any(given) or found or mode == "on"):
        return
    if found == "Open MPI" and coordinator and not any(given[1:]):
        # from version 5 on Open MPI no longer says where its processes find each other
        processes, process = (int(os.environ[f"OMPI_COMM_WORLD_{name}"]) for name in ("SIZE", "RANK"))
    elif any(given) and not all(given) and not found and mode != "on":
        raise InputError("--coordinator, --processes and --process belong together; give all three to every process.")
    if coordinator and not coordinator.rpartition(":")[2].isdigit():
        raise InputError(f"--coordinator is {coordinator!r}; it must be HOST:PORT, such as 10.0.0.1:8476.")
    if processes > 0 and not process < processes:
        raise InputError(f"--process is {process}; with --processes={processes} it is one of 0..{processes - 1}.")
    _leave_witness()
    import jax

    with contextlib.suppress(AttributeError):  # SIGTERM is ours to answer
        jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator or None,
            processes if processes > 0 else None,
            process if process >= 0 else None,
            devices_of_node(os.environ) if found else None,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:300]
        raise InputError(
            f"the processes of this run do not find each other ({reason}); give --coordinator=HOST:PORT, --processes=N "
            "and --process=I to each, or --distributed=off to run alone."
        ) from error
    local = Team().tell(jax.local_device_count())
    if len(set(local)) > 1:
        raise InputError(f"the processes have {local} devices each; give all of them the same number.")


def _leave_witness() -> None:
    """A small process that speaks for this one if it ends without a word.

    When process 0 is gone, jax's runtime aborts the others at once, before
    Python could say anything.
    """
    if not hasattr(os, "fork"):
        return
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setpgid(0, 0)  # Ctrl-C is not meant for it
        os.close(writer)
        said = b""
        while part := os.read(reader, 64):
            said += part
        if not said:
            os.write(2, f"\nerror: this process was killed, or {LOST}\n".encode())
        os._exit(0)
    os.close(reader)
    global _writer
    _writer = writer
    atexit.register(farewell)


_writer: int | None = None


def farewell() -> None:
    """Nothing needs to be said for this process any more."""
    global _writer
    if _writer is not None:
        os.write(_writer, b"bye")
        os.close(_writer)
        _writer = None


def leave(code: int) -> None:
    """Ends this process at once: without those that are gone there is nothing to wait for."""
    farewell()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def guarded(main: Callable[[], object]) -> None:
    """Runs a program's `main`; one of several processes that fails alone leaves at once, so that the others notice."""
    try:
        main()
    except Exception:
        if _writer is None:
            raise
        traceback.print_exc()
        leave(1)
