"""The devices of a run as a one-axis mesh, and shardings of arrays."""

import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

# Bytes of gradients in one all-reduce between GPUs, and XLA's option for them. With XLA's own 30 MB, the gradients of
# all blocks wait for those of the first block; with 8 MB, most of them are sent during the backward pass.
TOGETHER = 8_000_000
_TOGETHER = "xla_gpu_all_reduce_combine_threshold_bytes"


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices (all by default) along one axis, `data`, grouped by process."""
    found = jax.devices() if devices is None else list(devices)
    return Mesh(np.array(sorted(found, key=lambda d: d.process_index)), ("data",))


def split_over(mesh: Mesh) -> NamedSharding:
    """Arrays split along their first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def compiler_options(mesh: Mesh | AbstractMesh) -> dict[str, int] | None:
    """XLA's options for a step on these devices; the user's XLA_FLAGS take precedence."""
    if mesh.size == 1 or isinstance(mesh, AbstractMesh) or _TOGETHER in os.environ.get("XLA_FLAGS", ""):
        return None
    return {_TOGETHER: TOGETHER} if mesh.devices.flat[0].platform == "gpu" else None
