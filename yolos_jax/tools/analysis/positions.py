"""Cosine similarity of position embeddings, at their trained size or resized for an image."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from yolos_jax.errors import InputError
from yolos_jax.model.position import resize_to_tokens

PLACES = 5  # chosen patches per side of the grid; their similarity to all patches is drawn


class Grid(NamedTuple):
    """One set of position embeddings."""

    name: str  # for example "initial" or "after block 3"
    patches: np.ndarray  # float32 [h, w, D]
    det: np.ndarray  # float32 [Q, D]


class Likeness(NamedTuple):
    """Cosine similarities of one set of position embeddings."""

    name: str
    places: np.ndarray  # int [n, 2], (row, column) of the chosen patches
    maps: np.ndarray  # float32 [n, h, w], of each chosen patch and all patches
    det: np.ndarray  # float32 [Q, Q], of all pairs of DET tokens
    det_patches: np.ndarray  # float32 [Q, h, w], of each DET token and all patches


def grids_of(params: dict) -> list[Grid]:
    """The trained sets of position embeddings of a model: the initial one, then the mid-layer ones, if any."""
    first = params["pos_embed"]
    out = [Grid("initial", np.asarray(first["grid"]), np.asarray(first["det"]))]
    mid = params.get("mid_pos_embed")
    if mid is not None:
        for block, (grid, det) in enumerate(zip(np.asarray(mid["grid"]), np.asarray(mid["det"]))):
            out.append(Grid(f"after block {block}", grid, det))
    return out


@functools.partial(jax.jit, static_argnums=(1, 2))
def _resized(grid: Any, rows: int, columns: int) -> jax.Array:
    sizes = jnp.array([[rows, columns]], jnp.int32)
    return resize_to_tokens(grid, sizes, rows * columns, max(rows, columns)).reshape(rows, columns, -1)


def resized_grid(grid: Grid, rows: int, columns: int) -> Grid:
    """The position embeddings as the network resizes them for an image of `rows` x `columns` patches."""
    return Grid(grid.name, np.asarray(_resized(grid.patches, rows, columns)), grid.det)


def likeness(grid: Grid, places: int = PLACES) -> Likeness:
    """Similarity of `places` x `places` evenly spaced patches to all patches, without computing all pairs."""
    h, w, _ = grid.patches.shape
    ys, xs = (np.unique(((np.arange(places) + 0.5) * side / places).astype(int)) for side in (h, w))
    chosen = np.array([(y, x) for y in ys for x in xs])
    patches, det = _unit(grid.patches), _unit(grid.det)
    maps = np.einsum("nd,hwd->nhw", patches[chosen[:, 0], chosen[:, 1]], patches)
    values = maps, det @ det.T, np.einsum("qd,hwd->qhw", det, patches)
    return Likeness(grid.name, chosen, *(np.asarray(v, np.float32) for v in values))


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-300)


def by_distance(found: Likeness) -> list[dict[str, Any]]:
    """Mean similarity of the chosen patches to the patches in their row or column, by distance in patches."""
    out = []
    h, w = found.maps.shape[1:]
    for axis, side in (("row", w), ("column", h)):
        total, count = np.zeros(side), np.zeros(side, np.int64)
        for (y, x), values in zip(found.places, found.maps):
            line = values[y] if axis == "row" else values[:, x]
            distance = np.abs(np.arange(side) - (x if axis == "row" else y))
            np.add.at(total, distance, line)
            np.add.at(count, distance, 1)
        out += [
            {"embeddings": found.name, "along": axis, "distance": int(d), "cosine": float(total[d] / count[d])}
            for d in np.flatnonzero(count)
        ]
    return out


def chosen_grids(grids: list[Grid], layer: int | None, depth: int) -> list[Grid]:
    """All sets, or the set of one layer: 0 is the initial one, `n` the one added after block `n - 1`.

    Raises `InputError` if the layer has no position embeddings.
    """
    if layer is None:
        return grids
    if not 0 <= layer < len(grids):
        there = f"layers 0 to {len(grids) - 1} (0 is the initial one)" if len(grids) > 1 else "only layer 0"
        raise InputError(
            f"there are no position embeddings for layer {layer}; this model of {depth} blocks has {there}."
        )
    return [grids[layer]]
