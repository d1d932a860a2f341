"""The device mesh of a run, which has one axis, and shardings of arrays."""

import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

# Maximum bytes of gradients that XLA combines into one all-reduce between GPUs. With XLA's default of 30 MB, the
# largest all-reduce cannot start until the backward pass reaches the first block; with 8 MB, most start before that.
TOGETHER = 8_000_000
_TOGETHER = "xla_gpu_all_reduce_combine_threshold_bytes"


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of devices (all by default) with one axis, `data`, on which they are grouped by process."""
    found = jax.devices() if devices is None else list(devices)
    return Mesh(np.array(sorted(found, key=lambda d: d.process_index)), ("data",))


def split_over(mesh: Mesh) -> NamedSharding:
    """Sharding that splits the first axis of an array over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding with a copy of the array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def compiler_options(mesh: Mesh | AbstractMesh) -> dict[str, int] | None:
    """XLA options for a training step on these devices; the user's XLA_FLAGS take precedence."""
    if mesh.size == 1 or isinstance(mesh, AbstractMesh) or _TOGETHER in os.environ.get("XLA_FLAGS", ""):
        return None
    return {_TOGETHER: TOGETHER} if mesh.devices.flat[0].platform == "gpu" else None
