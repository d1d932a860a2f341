"""Compares every full-size variant with transformers on real images, with the same weights and pixels.

The weights are random, because only their shapes matter here. No parameter is 0
or 1, so that a misplaced or missing one changes the outputs.
"""

import dataclasses
import gc
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from reference_pack import data_folder

from yolos_jax.datasets.coco_names import COCO_NAMES
from yolos_jax.images.sequence import pack, resize, resized_size
from yolos_jax.model.config import VARIANTS, Compute
from yolos_jax.model.yolos import MEAN, STD, abstract, apply
from yolos_jax.weights import export_huggingface, load_weights

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="PyTorch is not installed (parity extra)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (parity extra)")

IMAGES = 10
SHORT_SIDE = 128  # pixels; fast on two CPU cores, and different from the size of every position grid
# width, depth, heads, image_size, whether there are mid-layer positions; from hf_names.txt
SHAPES = {
    "ti": (192, 12, 3, (800, 1333), False),
    "s": (384, 12, 6, (512, 864), True),
    "s_dwr": (330, 14, 6, (512, 864), True),
    "b": (768, 12, 12, (800, 1344), True),
}


def real_images():
    """Returns `IMAGES` normalised `[h, w, 3]` images of different sizes."""
    found = {}
    for path in sorted((data_folder("coco_tiny80") / "val2017").glob("*.jpg")):
        with Image.open(path) as image:
            size = resized_size(*image.size, SHORT_SIDE, None)
            if size not in found:
                pixels = resize(image.convert("RGB"), size).astype(np.float32)
                found[size] = (pixels / 255 - np.float32(MEAN)) / np.float32(STD)
        if len(found) == IMAGES:
            break
    assert len(found) == IMAGES
    return list(found.values())


def random_model(name):
    width, depth, heads, image_size, mid = SHAPES[name]
    config = transformers.YolosConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        image_size=list(image_size),
        use_mid_position_embeddings=mid,
        num_labels=91,
    )
    with torch.device("meta"):  # the default initialisation would be overwritten
        model = transformers.YolosForObjectDetection(config)
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(17)
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            tensor.normal_(generator=generator)
            if key.endswith("bias"):
                tensor.mul_(0.1)
            elif "layernorm" in key:
                tensor.mul_(0.1).add_(1.0)
            elif "token" in key or "position" in key:
                tensor.mul_(0.5)
            else:
                tensor.mul_(tensor[0].numel() ** -0.5)
    return model


def outputs_of(model, images):
    """Returns the logits and boxes of the images, which are processed separately."""
    with torch.no_grad():
        out = [model(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]) for image in images]
    return np.concatenate([o.logits for o in out]), np.concatenate([o.pred_boxes for o in out])


def relative(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("name", list(VARIANTS))
def test_same_outputs_and_round_trip(name, tmp_path):
    images = real_images()
    model = random_model(name)
    logits, boxes = outputs_of(model, images)
    before = model.state_dict()
    model.save_pretrained(tmp_path / "theirs")

    config, params, names, report, *_ = load_weights(tmp_path / "theirs")
    shutil.rmtree(tmp_path / "theirs")
    # the config equals that of the published variant except for the epsilon of the layer norms
    assert config == dataclasses.replace(VARIANTS[name], layer_norm_eps=config.layer_norm_eps)
    assert len(report.taken) == len(before) and not report.initialised and not report.ignored

    sides = [(image.shape[0] // config.patch_size, image.shape[1] // config.patch_size) for image in images]
    small = Compute(max_side=max(map(max, sides)))  # saves computation without changing the results
    batch = pack(images, max(h * w for h, w in sides), len(images), config.patch_size, small.max_side)
    graph, _ = abstract(config, small)
    out = jax.jit(lambda *args: apply(graph, *args))(params, batch.patches, batch.grid)
    differences = relative(np.asarray(out.logits), logits), relative(np.asarray(out.boxes), boxes)
    print(f"{name}: relative difference of logits {differences[0]:.1e}, of boxes {differences[1]:.1e}")
    assert max(differences) <= 1e-4
    assert logits.std(axis=1).min() > 0.01  # the outputs of the DET tokens differ

    assert names == {i: f"LABEL_{i}" for i in range(91)}
    export_huggingface(params, config, COCO_NAMES, tmp_path / "ours")
    del params, out, model
    gc.collect()
    back = transformers.YolosForObjectDetection.from_pretrained(tmp_path / "ours")
    assert back.config.id2label == {i: COCO_NAMES.get(i, "N/A") for i in range(91)}
    after = back.state_dict()
    assert after.keys() == before.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype and torch.equal(tensor, after[key]), key
    shutil.rmtree(tmp_path / "ours")
