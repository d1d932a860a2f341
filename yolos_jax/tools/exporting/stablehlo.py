"""Exports the detector as a portable program (StableHLO) with `jax.export`.

A program is compiled for a fixed number of patches. Shorter sequences are padded, which does not change the result, so
the program for the largest image works for every image, and additional programs only save time. The batch size is
dynamic. The number of patches cannot be dynamic, because the block sizes of attention depend on it.

Parameters are an input of the programs and are stored in a separate file, so a program is 60 kB for any model. If every
program contained them as constants, the outputs would be bit-identical, but YOLOS-B (511 MB) would take 17 s and
2.8 GB to compile on a CPU instead of 3 s and 1.4 GB.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export

from yolos_jax.errors import InputError, check_empty, make_folder
from yolos_jax.images.sequence import Geometry
from yolos_jax.inference.detector import detect
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.yolos import abstract
from yolos_jax.tools.exporting import run_detector
from yolos_jax.training.checkpoint_files import Meta, check_room

MOST_IMAGES = 2**31 - 1  # maximum number of images per batch
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
INPUTS = {
    "patches": "RGB pixels of the resized image, cut into patches row by row; the values of a patch "
    "are in (row, column, channel) order; entries from index h * w on (see grid) are padding with arbitrary values",
    "grid": "(h, w) of each image in patches, both at most longest_side_in_patches",
    "size": "(width, height) of each original image in pixels, which pixel_boxes refer to",
}
OUTPUTS = {
    "logits": "logits of every query; the last class is 'no object'",
    "boxes": "centre x, centre y, width, height as fractions of the image's sides",
    "scores": "probability of the best label other than 'no object'",
    "labels": "the best label: a key of label_names, and an index into category_ids unless that is null",
    "pixel_boxes": "x0, y0, x1, y1 in pixels of the original image; not clipped to the image",
}


class Onnx(NamedTuple):
    """Checked ONNX programs: contents by file name, and their entry in export.json."""

    files: dict[str, bytes]
    facts: dict[str, Any]


def patches_of(height: int, width: int, patch: int, max_side: int) -> int:
    """Number of patches of a resized image; raises `InputError` if the image does not fit the model."""
    if height < 1 or width < 1 or height % patch or width % patch:
        raise InputError(
            f"an image has {height} x {width} pixels; both sides must be multiples of the patch size, {patch}."
        )
    if max(height, width) // patch > max_side:
        raise InputError(
            f"an image of {height} x {width} pixels is longer than model.max_side = {max_side} patches "
            f"of {patch} pixels; use a smaller one."
        )
    return (height // patch) * (width // patch)


def to_stablehlo(
    config: YolosConfig, compute: Compute, patches: int, batch: int | None, platforms: Sequence[str]
) -> export.Exported:
    """Exports the program for sequences of `patches` patches; nothing is computed or compiled.

    Args:
      config, compute: the model, and how it is computed.
      patches: N, the maximum number of patches of an image.
      batch: the batch size B, or None for a dynamic one.
      platforms: the platforms that it may run on, from `PLATFORMS`.

    Returns:
      A program whose `call(parameters, patches, grid, size)` returns a dict with the keys of `OUTPUTS`. `parameters`
      is a flat dict with keys such as "blocks.attn.qkv.kernel".

    Raises:
      InputError: the number of patches or images is out of range, or a platform is unknown.
    """
    most = compute.max_side**2
    if not 1 <= patches <= most:
        raise InputError(
            f"a program for {patches} patches cannot be exported: the number must be in 1..{most} "
            f"(model.max_side = {compute.max_side} patches per side)."
        )
    if batch is not None and not 1 <= batch <= MOST_IMAGES:
        raise InputError(f"a batch size of {batch} is invalid; it must be in 1..{MOST_IMAGES}, or polymorphic.")
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise InputError(f"unknown platform {', '.join(unknown)!r}; choose from {', '.join(PLATFORMS)}.")
    # Calls to cuDNN would tie the program to GPUs, and jax does not guarantee their compatibility.
    graph, shapes = abstract(config, dataclasses.replace(compute, attention="blocks"))
    b = export.symbolic_shape("batch")[0] if batch is None else batch

    def program(
        parameters: dict[str, jax.Array], patches: jax.Array, grid: jax.Array, size: jax.Array
    ) -> dict[str, jax.Array]:
        return dict(zip(OUTPUTS, detect(graph, unflatten_dict(parameters, sep="."), patches, grid, size)))

    return export.export(jax.jit(program), platforms=list(platforms))(
        flatten_dict(shapes, sep="."),
        jax.ShapeDtypeStruct((b, patches, config.patch_values), jnp.uint8),
        jax.ShapeDtypeStruct((b, 2), jnp.int32),
        jax.ShapeDtypeStruct((b, 2), jnp.float32),
    )


def write_folder(
    folder: str | Path,
    params: dict,
    meta: Meta,
    geometry: Geometry,
    programs: Sequence[export.Exported],
    onnx: Onnx | None = None,
) -> dict[str, Any]:
    """Writes a folder that works without this package: programs, parameters, run_detector.py and, last, export.json.

    Args:
      folder: new or empty.
      params, meta: parameters and metadata of the checkpoint.
      geometry: how images are resized.
      programs: programs from `to_stablehlo`, for different numbers of patches.
      onnx: the ONNX programs, if any.

    Returns:
      The content of export.json.

    Raises:
      InputError: the folder is not empty or cannot be written to.
    """
    facts = _describe(meta, geometry, programs)
    contents = {entry["file"]: program.serialize() for program, entry in zip(programs, facts["programs"])}
    check_empty(folder)
    path = make_folder(folder)
    check_room(path, params)
    for name, content in contents.items():
        (path / name).write_bytes(content)
    np.savez(path / facts["parameters"]["file"], **flatten_dict(params, sep="."))
    if onnx is not None:
        facts["onnx"] = onnx.facts
        for name, model in onnx.files.items():
            (path / name).write_bytes(model)
    shutil.copyfile(run_detector.__file__, path / "run_detector.py")
    (path / "export.json").write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def _describe(meta: Meta, geometry: Geometry, programs: Sequence[export.Exported]) -> dict[str, Any]:
    """Describes the programs for their users with JSON-serialisable values."""
    first = programs[0]
    tokens = [program.in_avals[-3].shape[1] for program in programs]
    outputs = jax.tree.unflatten(first.out_tree, first.out_avals)

    def array(value: Any, meaning: str) -> dict[str, Any]:
        shape = [size if isinstance(size, int) else str(size) for size in value.shape]
        return {"dtype": str(value.dtype), "shape": shape, "meaning": meaning}

    inputs = {name: array(value, INPUTS[name]) for name, value in zip(INPUTS, first.in_avals[-3:])}
    inputs["patches"]["shape"][1] = "patches"  # each program has a different number of patches
    batch = first.in_avals[-1].shape[0]
    return {
        "programs": [{"file": f"detector-{n}.stablehlo", "patches": n} for n in tokens],
        "parameters": {"file": "parameters.npz", "meaning": "first input: arrays by name"},
        "inputs": inputs,
        "outputs": {name: array(outputs[name], meaning) for name, meaning in OUTPUTS.items()},
        "batch": batch if isinstance(batch, int) else None,
        "platforms": list(first.platforms),
        "images": {
            "short_side": geometry.short_side,
            "max_side": geometry.max_side,
            "patch_size": geometry.patch,
            "longest_side_in_patches": geometry.model_max_side,
            "resizing": "bilinear, antialiased, in 8 bits, to whole patches on both sides; see run_detector.py",
            "normalisation": "part of the program",
        },
        "label_names": {str(label): name for label, name in meta.label_names.items()},
        "category_ids": None if meta.category_ids is None else list(meta.category_ids),
        "model": meta.model.to_dict(),
        "step": meta.step,
        "jax_version": jax.__version__,
        "calling_convention_version": first.calling_convention_version,
    }
