"""The cost of a model, compared with the paper's Tables 4 to 6: parameters, multiply-adds, images per second."""

import functools
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from yolos_jax.datasets.annotations import read_annotations
from yolos_jax.errors import InputError
from yolos_jax.images.reading import ImageLike, read_rgb
from yolos_jax.images.sequence import Geometry, resize, resized_sizes, rounded_tokens
from yolos_jax.inference.detector import Detector
from yolos_jax.model.config import VARIANTS, Compute, YolosConfig
from yolos_jax.model.yolos import abstract, apply
from yolos_jax.tools.analysis.multiply_adds import mean_multiply_adds, multiply_adds, parameter_count
from yolos_jax.tools.analysis.tables import markdown

IMAGES = 100  # number of images to average over: the first ones in the annotation file
NOTABLE = 0.02  # relative difference from the paper above which it is reported
PARTS = "embedding", "linear", "attention", "heads"  # column names for the fields of `MultiplyAdds`
# variant, short side, billions of multiply-adds, images per second on a 1080 Ti, AP (arXiv 2106.00666)
PAPER = (
    ("ti", 256, 3.4, 114, 23.1), ("ti", 432, 11.7, 84, 28.6), ("ti", 512, 18.8, 60, 28.7), ("ti", 528, 20.7, 51, 30.0),
    ("ti", 800, 81, 12.0, 29.6),
    ("s", 800, 194, 5.7, 36.1), ("s_dwr", 704, 123, 7.7, 37.2), ("s_dwr", 784, 172, 5.7, 37.6),
    ("b", 800, 538, 2.7, 42.0),
)  # fmt: skip


def first_sizes(annotations: Path) -> np.ndarray:
    """int `[n, 2]`, (width, height) of an annotation file's first images; raises `InputError` if it has none."""
    listed = read_annotations(annotations)["images"][:IMAGES]
    if not listed:
        raise InputError(f"{annotations} lists no images.")
    return np.array([(image["width"], image["height"]) for image in listed])


def published_rows(sizes: np.ndarray, variants: Sequence[str] = tuple(VARIANTS)) -> list[dict[str, Any]]:
    """Costs of the paper's models and their published values, for images of (width, height) `sizes`; see `cost_row`."""
    rows = []
    for name, short_side, paper, speed, ap in PAPER:
        if name in variants:
            geometry = Geometry.of(short_side, 0, VARIANTS[name].patch_size, Compute.max_side)
            row = cost_row(name, VARIANTS[name], geometry, sizes)
            rows.append(row | {"paper": paper * 1e9, "paper_fps": speed, "paper_ap": ap})
    return rows


def cost_row(name: str, config: YolosConfig, geometry: Geometry, sizes: np.ndarray) -> dict[str, Any]:
    """Parameters, and mean multiply-adds per image for images of (width, height) `sizes`, JSON-serialisable.

    `multiply_adds_as_published` counts all tokens of the last block; `multiply_adds` and its parts count only the
    tokens that this implementation computes.
    """
    resized = resized_sizes(sizes, geometry.short_side, geometry.max_side, config.patch_size)
    grids = resized[:, ::-1] // config.patch_size
    parts = np.mean([multiply_adds(config, int(h), int(w)) for h, w in grids], axis=0)
    return {
        "variant": name,
        "short_side": geometry.short_side,
        "parameters": parameter_count(config),
        "images": len(sizes),
        "patches": float(grids.prod(1).mean()),
        "multiply_adds_as_published": mean_multiply_adds(config, grids, as_published=True),
        "multiply_adds": mean_multiply_adds(config, grids),
        **dict(zip(PARTS, parts.tolist())),
    }


def cost_table(rows: Sequence[dict[str, Any]]) -> str:
    """Formats rows of `cost_row` as a markdown table, with the paper's values."""
    return markdown([_shown(row) for row in rows])


def _shown(row: dict[str, Any]) -> dict[str, str]:
    whole = row["multiply_adds_as_published"]
    unit = 1e9 if whole >= 1e9 else 1e6
    name = "G" if whole >= 1e9 else "M"
    shown = {
        "variant": row["variant"], "short side": str(row["short_side"]),
        "parameters": f"{row['parameters'] / 1e6:.1f} M", "multiply-adds, all tokens": f"{whole / unit:.1f} {name}",
    }  # fmt: skip
    if "paper" in row:
        shown["in the paper"] = f"{row['paper'] / 1e9:g} G ({100 * (whole / row['paper'] - 1):+.1f} %)"
    shown["multiply-adds"] = f"{row['multiply_adds'] / unit:.1f} {name}"
    shown |= {part: f"{row[part] / unit:.2f} {name}" for part in PARTS}
    if "paper" in row:
        shown["images/s in the paper, 1080 Ti"] = f"{row['paper_fps']:g}"
    return shown


def differences_from_paper(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A message for each row that differs from the paper by more than `NOTABLE`."""
    out = []
    for row in rows:
        off = row["multiply_adds_as_published"] / row["paper"] - 1 if "paper" in row else 0.0
        if abs(off) > NOTABLE:
            needed = row["patches"] * (1 + off) ** (-1 / _growth(row))
            out.append(
                f"{row['variant']} at short side {row['short_side']}: {100 * off:+.1f} %. The paper averages over the "
                f"first {IMAGES} images of COCO val; its value corresponds to about {needed:.0f} patches per image. "
                f"The {row['images']} images used here have {row['patches']:.0f} on average."
            )
    return out


def _growth(row: dict[str, Any]) -> float:
    """Growth of the multiply-adds in percent, per percent of additional patches."""
    config, patches = VARIANTS[row["variant"]], round(row["patches"])
    one, more = (multiply_adds(config, 1, n, True).total for n in (patches, round(1.01 * patches)))
    return (more / one - 1) / (round(1.01 * patches) / patches - 1)


def counted_by_xla(config: YolosConfig, rows: int, columns: int) -> float:
    """Half of the floating-point operations that XLA counts for one image of `rows` x `columns` patches.

    XLA counts the body of a loop once, so the blocks and heads are unrolled. It also counts norms, softmax, GELU and
    the resizing of position embeddings, which `multiply_adds` omits. Nothing is compiled.
    """
    tokens = rows * columns
    compute = Compute(query_block=1 + config.det_tokens + tokens, max_side=max(Compute.max_side, rows, columns))
    graph, params = abstract(config, compute)
    patches = jax.ShapeDtypeStruct((1, tokens, config.patch_values), jnp.float32)
    grid = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    with jax.disable_jit():  # runs scans as Python loops
        unrolled = jax.make_jaxpr(lambda *args: apply(graph, *args)[:2])(params, patches, grid)
    program = jax.jit(jax.extend.core.jaxpr_as_fun(unrolled)).lower(*unrolled.in_avals)
    found: Any = program.cost_analysis()
    return float(found["flops"]) / 2


def frames_per_second(detector: Detector, images: Sequence[ImageLike]) -> dict[str, float]:
    """Images per second at batch size 1, excluding compilation: for the network alone, and including image reading."""
    compiled: set[int] = set()  # token counts of compiled programs
    seconds = {"network": 0.0, "reading": 0.0}
    for given in tqdm(images, "measuring", unit="image"):
        start = time.perf_counter()
        image = read_rgb(given, stretch=detector.stretch)
        pixels = resize(image, detector.geometry.size(*image.size))
        seconds["reading"] += time.perf_counter() - start
        detect = functools.partial(detector.forward, [pixels])
        bucket = rounded_tokens(pixels.shape[0] * pixels.shape[1] // detector.config.patch_size**2)
        if bucket not in compiled:
            detect()
            compiled.add(bucket)
        seconds["network"] += timed(detect)
    count = len(images)
    return {"network": count / seconds["network"], "with reading": count / sum(seconds.values())}


def timed(run: Callable[[], Any]) -> float:
    """Calls a function and returns the elapsed seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def environment(device: jax.Device) -> dict[str, Any]:
    """Describes the environment of the measurement with JSON-serialisable values."""
    versions = {}
    for name in ("jax", "jaxlib", "flax", "torch", "transformers"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"device": device.device_kind, "platform": device.platform, "cores": cores, "system": platform.platform(),
            "python": platform.python_version(), "versions": versions}  # fmt: skip
