"""Connects the processes of a run, and ends them if one fails.

Nothing in this module initializes jax before `join`.
"""

import collections
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from yolos_jax.distributed import witness
from yolos_jax.distributed.witness import fork_witness
from yolos_jax.errors import InputError

JOINING = 300  # timeout in seconds for the processes to connect
TIMEOUTS: dict[str, Any] = {  # in seconds; a process without a heartbeat for `heartbeat_timeout_seconds` counts as dead
    "initialization_timeout": JOINING, "heartbeat_timeout_seconds": 30, "shutdown_timeout_seconds": 20,
}  # fmt: skip
LOST = (
    "another process of this run has died or is unreachable{} (see its output), so this process exits too. "
    "Run the same command on all hosts to continue from the newest checkpoint."
)
ALONE = (
    "the processes of this run could not connect{}; pass --coordinator=HOST:PORT, --processes=N and --process=I to "
    "each of them, or --distributed=off to run a single process."
)


def detected(environment: Mapping[str, str]) -> str:
    """Detects the launcher of this process from its environment variables; "" if there is none."""
    if int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:  # checked first, as Open MPI may run inside Slurm
        return "Open MPI"
    if int(environment.get("SLURM_NTASKS", 1)) > 1 and {"SLURM_STEP_NODELIST", "SLURM_PROCID"} <= environment.keys():
        return "Slurm"
    if "," in environment.get("TPU_WORKER_HOSTNAMES", "") or "MEGASCALE_COORDINATOR_ADDRESS" in environment:
        return "the TPU runtime"
    return ""


def devices_of_node(environment: Mapping[str, str]) -> list[int] | None:
    """All GPUs of a node where Slurm or Open MPI starts one process; None for jax's default of one GPU per process."""
    gpus, tasks = environment.get("SLURM_GPUS_ON_NODE", ""), environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    if tasks.partition("(")[0] == "1" and gpus.isdigit():
        return list(range(int(gpus)))
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    if environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1" and visible:
        return list(range(len(visible.split(","))))
    return None


def join(coordinator: str = "", processes: int = 0, process: int = -1, mode: str = "auto") -> None:
    """Connects to the other processes, if there are any. Must be called before jax is used.

    Args:
      coordinator: `host:port` of process 0, if no launcher provides it.
      processes, process: the number of processes, and the index of this one (0, 1, ...).
      mode: "auto" detects the launcher; "on" leaves detection to `jax.distributed`, for Kubernetes and for TPU hosts
        without environment variables; "off" runs a single process.

    Raises:
      InputError: the arguments conflict, or the processes cannot connect.
    """
    given = bool(coordinator), processes > 0, process >= 0
    found = detected(os.environ) if mode == "auto" else ""
    if mode == "off" or not (any(given) or found or mode == "on"):
        return
    if found == "Open MPI" and coordinator and not any(given[1:]):
        # Open MPI 5 and later do not pass the address of process 0 to the processes.
        processes, process = (int(os.environ[f"OMPI_COMM_WORLD_{name}"]) for name in ("SIZE", "RANK"))
    elif found == "Open MPI" and not coordinator and "OMPI_MCA_orte_hnp_uri" not in os.environ:
        raise InputError("this Open MPI does not provide the address of process 0; add --coordinator=HOST:PORT.")
    elif any(given) and not all(given) and not found and mode != "on":
        raise InputError("--coordinator, --processes and --process must be used together; pass all to every process.")
    if coordinator and not coordinator.rpartition(":")[2].isdigit():
        raise InputError(f"--coordinator is {coordinator!r}; it must be HOST:PORT, for example 10.0.0.1:8476.")
    if processes > 0 and not process < processes:
        raise InputError(f"--process is {process}; it must be between 0 and {processes - 1} (--processes={processes}).")
    print(_waiting(found, coordinator, processes), file=sys.stderr, flush=True)
    fork_witness(LOST, ALONE.format(f" within {JOINING} s or before one of them ended"))
    _initialize(coordinator or None, processes if processes > 0 else None, process if process >= 0 else None)


def _waiting(launcher: str, coordinator: str, processes: int) -> str:
    """The first line that a process prints: which processes it waits for, and the timeout."""
    names = {"Slurm": "SLURM_NTASKS", "Open MPI": "OMPI_COMM_WORLD_SIZE"}
    count = f"all {processes}" if processes > 0 else f"all {os.environ.get(names.get(launcher, ''), '')}".strip()
    by = f" started by {launcher}" if launcher else ""
    at = f" (process 0 is at {coordinator})" if coordinator else ""
    return f"waiting up to {JOINING} s for {count} processes{by}{at}; use --distributed=off to run a single process"


def _initialize(coordinator: str | None, processes: int | None, process: int | None) -> None:
    import jax

    with contextlib.suppress(AttributeError):  # this package handles SIGTERM itself
        jax.config.update("jax_enable_preemption_service", False)
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler cannot interrupt the wait in C++
    try:
        jax.distributed.initialize(coordinator, processes, process, devices_of_node(os.environ), **TIMEOUTS)
        owners = collections.Counter(device.process_index for device in jax.devices())
    except (RuntimeError, ValueError) as error:
        raise InputError(ALONE.format(f" ({str(error).strip().splitlines()[0][:300]})")) from error
    finally:
        signal.signal(signal.SIGINT, before)
    if len(set(owners.values())) > 1:
        counts = ", ".join(str(owners[i]) for i in sorted(owners))
        raise InputError(f"the processes have different numbers of devices ({counts}); assign the same number to each.")
    witness.joined(jax.process_index())


def leave(code: int) -> None:
    """Exits immediately, without waiting for other processes, which may have died."""
    try:
        witness.farewell()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # even if writing output fails because its reader has exited
        os._exit(code)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Wraps a program so that a process exits immediately if it fails, which the other processes detect."""
    try:
        yield
    except Exception:
        if not witness.is_watched():
            raise
        traceback.print_exc()
        leave(1)
