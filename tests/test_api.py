"""The public names exist, and `import yolos_jax` is fast."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from reference_pack import ROOT, arrays, pack

import yolos_jax
from yolos_jax.errors import InputError
from yolos_jax.images import sequence
from yolos_jax.inference.loading import load_model
from yolos_jax.weights import checkpoints

PROBE = """
import json, sys, time
start = time.perf_counter()
import yolos_jax
seconds = time.perf_counter() - start
from yolos_jax import Detections, InputError, UnreadableImage
print(json.dumps({"seconds": seconds, "names": dir(yolos_jax), "modules": sorted(sys.modules)}))
"""


def test_importing_the_package_does_not_import_jax():
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(done.stdout)
    assert found["seconds"] < 0.3
    assert not {"jax", "jaxlib", "flax", "orbax"} & set(found["modules"])
    assert set(yolos_jax.__all__) <= set(found["names"])


def test_detector_needs_no_slow_imports():
    """Each of the modules listed below takes 0.3 to 2 seconds to import (tensorboardX imports PyTorch)."""
    probe = "import json, sys, yolos_jax.inference.detector; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    modules = set(json.loads(done.stdout))
    assert "jax" in modules and "yolos_jax.weights.load" in modules
    assert not {"scipy.optimize", "orbax.checkpoint", "tensorboardX", "grain", "huggingface_hub", "torch"} & modules


def test_public_names_are_the_right_objects():
    for name in sorted(set(yolos_jax.__all__) - {"VARIANTS"}):
        assert getattr(yolos_jax, name).__name__ == name
    assert yolos_jax.VARIANTS["s"].width == 384
    with pytest.raises(AttributeError, match="no attribute 'Detektor'"):
        _ = yolos_jax.Detektor


def test_load_returns_a_flax_module(tmp_path):
    """`load` accepts Hugging Face folders and checkpoints; the module matches the reference and can be trained."""
    folder = tmp_path / "hf"
    folder.mkdir()
    shutil.copy(pack("hf_config.json"), folder / "config.json")
    shutil.copy(pack("hf_model.safetensors"), folder / "model.safetensors")
    params, meta = load_model(folder)
    checkpoints.save(tmp_path / "ours", 0, params, meta)
    for path in (folder, tmp_path / "ours"):
        network = yolos_jax.load(path)
        assert isinstance(network, yolos_jax.Yolos) and isinstance(network, nnx.Module)
        for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(nnx.state(network, nnx.Param)), strict=True):
            np.testing.assert_array_equal(a, b)

    def loss(network):
        out = network(*batch)
        return out.boxes.sum(), out

    z = arrays("hf_model.npz")
    image = z["in0"].transpose(1, 2, 0)
    tokens = image.shape[0] * image.shape[1] // meta.model.patch_size**2
    batch = sequence.pack([image], tokens, 1, meta.model.patch_size)
    gradient, out = nnx.jit(nnx.grad(loss, has_aux=True))(network)
    np.testing.assert_allclose(out.logits[0], z["logits0"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(out.boxes[0], z["pred_boxes0"], atol=1e-5, rtol=0)
    assert np.abs(gradient.patch_embed.kernel[...]).max() > 0
    with pytest.raises(InputError, match="does not exist"):
        yolos_jax.load(tmp_path / "absent")
