"""ONNX export of the detector by jax2onnx, for one image of a fixed size, checked with onnxruntime.

The program resizes positions although its size is fixed; the cost of that is small.
"""

import importlib.metadata
import importlib.util
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from yolos_jax.errors import InputError
from yolos_jax.inference.detector import detect
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.yolos import abstract
from yolos_jax.tools.exporting.stablehlo import INPUTS, OUTPUTS, Onnx, patches_of

LARGEST_DIFFERENCE = {"logits": 1e-4, "boxes": 1e-5}  # from ours; of logits, relative to the largest if that is above 1


def check_installed() -> None:
    """`InputError` that names the missing packages."""
    missing = [name for name in ("jax2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX needs {' and '.join(missing)}: pip install 'yolos-jax[onnx]'.")


def to_onnx(config: YolosConfig, compute: Compute, params: dict, height: int, width: int) -> Onnx:
    """The program for one image of exactly `height` x `width` pixels, parameters inside, for ONNX.

    It takes `image` (uint8 `[1, height, width, 3]`, RGB) and `size` and gives what `OUTPUTS` names. onnxruntime has
    run it on an image of noise.

    Raises:
      InputError: packages are missing, the converter fails, or its program computes different values.
    """
    check_installed()
    patch = config.patch_size
    patches_of(height, width, patch, compute.max_side)
    graph, (h, w) = abstract(config, compute)[0], (height // patch, width // patch)

    def program(image: jax.Array, size: jax.Array) -> tuple[jax.Array, ...]:
        patches = image.reshape(1, h, patch, w, patch, 3).swapaxes(2, 3).reshape(1, h * w, -1)
        return tuple(detect(graph, params, patches, jnp.array([[h, w]], jnp.int32), size))

    noise = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    inputs = {"image": noise, "size": np.array([[width, height]], np.float32)}
    versions = " and ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax2onnx", "onnxruntime"))
    try:
        content, found = _convert(program, inputs)
    except Exception as error:  # both raise many kinds
        gist = (str(error).strip() or type(error).__name__).split("\n")[0][:200]
        raise InputError(f"{versions} could not convert this model with jax {jax.__version__} ({gist}).") from error
    ours = dict(zip(OUTPUTS, jax.device_get(jax.jit(program)(**inputs))))
    difference = {name: float(np.abs(found[name] - ours[name]).max()) for name in LARGEST_DIFFERENCE}
    difference["logits"] /= max(1.0, float(np.abs(ours["logits"]).max()))
    if not all(difference[name] <= LARGEST_DIFFERENCE[name] for name in difference):
        raise InputError(f"what {versions} made of this model computes other numbers: differences of {difference}.")
    facts = {
        "file": f"detector-{height}x{width}.onnx",
        "inputs": {
            "image": {"dtype": "uint8", "shape": [1, height, width, 3], "meaning": "RGB pixels, resized to this"},
            "size": {"dtype": "float32", "shape": [1, 2], "meaning": INPUTS["size"]},
        },
        "outputs": "those of the other programs, for a batch of 1",
        "made_with": versions,
        "differences_from_ours": difference,
    }
    return Onnx(content, facts)


def _convert(program: Any, inputs: dict[str, np.ndarray]) -> tuple[bytes, dict[str, np.ndarray]]:
    """The ONNX file of a function, and its results in onnxruntime."""
    import jax2onnx
    import onnx_ir
    import onnxruntime
    from onnx_ir.passes.common import LiftSubgraphInitializersToMainGraphPass, RemoveUnusedNodesPass

    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs.values()]
    logger = logging.getLogger("onnx_ir")  # warns of every shape that it does not know
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # Traced by jax alone first: of what jax2onnx puts in the place of jax.numpy's functions, some fail under vmap
        traced = jaxpr_as_fun(jax.make_jaxpr(program)(*shapes))
        names = {"input_names": list(inputs), "output_names": list(OUTPUTS)}
        made = jax2onnx.to_onnx(traced, shapes, model_name="detector", **names)
        # onnxruntime warns of each of the unused constants that are left in the loops
        model = onnx_ir.from_proto(made)
        LiftSubgraphInitializersToMainGraphPass()(model)
        RemoveUnusedNodesPass()(model)
        content = onnx_ir.to_proto(model).SerializeToString()
    finally:
        logger.setLevel(level)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return content, dict(zip(OUTPUTS, session.run(list(OUTPUTS), inputs)))
