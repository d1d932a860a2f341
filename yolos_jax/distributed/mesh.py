"""The devices of a run as a one-axis mesh, and shardings of arrays."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


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
