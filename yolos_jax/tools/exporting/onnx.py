"""Exports the detector to ONNX for any batch and image size, with checked outputs and an optional int8 version."""

import importlib.metadata
import importlib.util
import logging
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from yolos_jax.errors import InputError
from yolos_jax.images.sequence import pack
from yolos_jax.inference.detector import detect
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.yolos import abstract
from yolos_jax.tools.exporting.stablehlo import INPUTS, OUTPUTS, Onnx

# Maximum difference from this package's outputs; for logits, relative to the largest logit if that is above 1.
LARGEST_DIFFERENCE = {"logits": 1e-4, "boxes": 1e-5}
PACKAGES = ("spox", "onnxruntime")
MEANINGS = {
    "images": "RGB pixels of resized images, each in the upper left corner of a canvas whose sides are multiples of "
    "the patch size; pixels beyond an image are ignored",
    "grid": "(h, w) of each image in patches",
    "size": INPUTS["size"],
}


def check_installed() -> None:
    """Raises `InputError` if a required package is not installed; the message names it."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX export needs {' and '.join(missing)}: run pip install 'yolos-jax[onnx]'.")


def to_onnx(config: YolosConfig, compute: Compute, params: dict, int8: bool = False) -> Onnx:
    """Exports the ONNX programs, which contain the parameters, and their entry in export.json.

    The float32 program is checked with onnxruntime on a batch of noise, with images of two sizes on one canvas. With
    `int8`, a second program uses int8 weights in its matrix products, so its outputs are less precise.

    Raises:
      InputError: packages are not installed, or the outputs of onnxruntime differ too much.
    """
    check_installed()
    from yolos_jax.tools.exporting.onnx_graph import build_model

    model = build_model(config, params)
    content = model.SerializeToString()
    difference = _differences(config, compute, params, content)
    versions = " and ".join(f"{name} {importlib.metadata.version(name)}" for name in ("spox", "onnxruntime"))
    if not all(difference[name] <= LARGEST_DIFFERENCE[name] for name in difference):
        raise InputError(
            f"for this model, the outputs of {versions} differ too much from those of yolos-jax: {difference}."
        )
    facts: dict[str, Any] = {
        "file": "detector.onnx",
        "inputs": {
            "images": {"dtype": "uint8", "shape": ["batch", "height", "width", 3], "meaning": MEANINGS["images"]},
            "grid": {"dtype": "int32", "shape": ["batch", 2], "meaning": MEANINGS["grid"]},
            "size": {"dtype": "float32", "shape": ["batch", 2], "meaning": MEANINGS["size"]},
        },
        "outputs": "the same as those of the other programs",
        "made_with": versions,
        "differences_from_ours": difference,
    }
    files = {"detector.onnx": content}
    if int8:
        facts["int8_file"] = "detector-int8.onnx"
        files[facts["int8_file"]] = _with_int8_weights(model)
    return Onnx(files, facts)


def session(content: bytes) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU that prints only errors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _differences(config: YolosConfig, compute: Compute, params: dict, content: bytes) -> dict[str, float]:
    """The largest differences between the outputs of onnxruntime and yolos-jax on two images of noise."""
    patch, longest = config.patch_size, min(compute.max_side, 12)
    grid = np.array([[max(longest // 2, 1), longest], [longest, max(longest // 3, 1)]], np.int32)
    canvas = np.random.default_rng(0).integers(0, 256, (2, longest * patch, longest * patch, 3), np.uint8)
    size = np.array([[640, 480], [300, 900]], np.float32)
    found = dict(zip(OUTPUTS, session(content).run(list(OUTPUTS), {"images": canvas, "grid": grid, "size": size})))
    images = [pixels[: h * patch, : w * patch] for pixels, (h, w) in zip(canvas, grid)]
    batch = pack(images, longest * longest, 2, patch, compute.max_side)
    graph = abstract(config, compute)[0]
    ours = jax.device_get(jax.jit(lambda *inputs: detect(graph, *inputs))(params, *batch, size))
    difference = {name: float(np.abs(found[name] - getattr(ours, name)).max()) for name in LARGEST_DIFFERENCE}
    difference["logits"] /= max(1.0, float(np.abs(ours.logits).max()))
    return difference


def _with_int8_weights(model: Any) -> bytes:
    """Quantizes the weights to int8 per output channel; activations are quantized dynamically at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        logger = logging.getLogger()
        level = logger.level
        logger.setLevel(logging.ERROR)  # suppresses a warning that the model was not optimised
        try:
            kinds = ["MatMul"]
            quantize_dynamic(model, path, kinds, per_channel=True, weight_type=QuantType.QInt8)
        finally:
            logger.setLevel(level)
        return path.read_bytes()
