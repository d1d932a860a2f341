"""Compares the classifier, its training step and its augmentation with transformers, PyTorch and timm.

Tests that need a missing package are skipped.
"""

import dataclasses
import importlib.util
import re
import sys
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from micro_run import initial_state
from PIL import Image
from safetensors.numpy import load_file

from yolos_jax.distributed.mesh import data_mesh, split_over
from yolos_jax.model.classifier import abstract_classifier, classifier_params, classify
from yolos_jax.model.classifier_config import CLASSIFIERS, ClassifierConfig
from yolos_jax.model.yolos import normalize
from yolos_jax.tasks.classification.batches import ClassBatch
from yolos_jax.tasks.classification.mixing import Mixing
from yolos_jax.tasks.classification.random_augment import NAMES, operate
from yolos_jax.tasks.classification.task import classification_loss, image_count
from yolos_jax.tasks.classification.views import CentreView
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.optimizer import make_optimizer
from yolos_jax.training.step import make_gradient, make_step
from yolos_jax.weights.folder import export_classifier
from yolos_jax.weights.huggingface import to_transformers_vit
from yolos_jax.weights.reference import to_timm

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="PyTorch is not installed (parity extra)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (parity extra)")

# XLA options of `make test`, which reduce compilation time to a quarter. The one-device step is compiled as in a run.
QUICKLY = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
MICRO = ClassifierConfig(width=24, depth=3, heads=2, patch_size=8, num_classes=7, image_size=32)


def random_params(config, seed=3):
    """Returns random parameters, none of which is 0 or 1, scaled to keep signals from vanishing or exploding."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        values, name = rng.standard_normal(x.shape).astype(np.float32), path[-1].key
        if name == "kernel":
            return values * np.float32(x.shape[-2] ** -0.5)
        return np.float32(1) + values / 10 if name == "scale" else values / 10 if name == "bias" else values / 2

    return jax.tree_util.tree_map_with_path(draw, abstract_classifier(config)[1])


def pixels_of(config, images=2, seed=0):
    """Returns random images as uint8 sequences and as normalised torch images."""
    size, patch = config.image_size, config.patch_size
    image = np.random.default_rng(seed).integers(0, 256, (images, size, size, 3), np.uint8)
    side = size // patch
    cut = image.reshape(images, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    mean, std = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))
    normal = (image.astype(np.float32) / 255 - mean) / std
    return cut.reshape(images, side * side, -1), torch.from_numpy(normal.transpose(0, 3, 1, 2).copy())


def assert_close(ours, theirs):
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max() and theirs.std() > 0.1


@pytest.mark.parametrize("name, distilled", [("ti", False), ("ti", True), ("s_dwr", False)])
def test_logits_equal_transformers(name, distilled, tmp_path):
    config = dataclasses.replace(CLASSIFIERS[name], distilled=distilled, num_classes=11)
    params, names = random_params(config), {i: f"class {i}" for i in range(11)}
    export_classifier(params, Meta(config, names), tmp_path / "hf")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "hf")
    if distilled:
        model = transformers.DeiTForImageClassificationWithTeacher.from_pretrained(tmp_path / "hf")
    assert model.config.id2label == names
    patches, images = pixels_of(config)
    out = jax.jit(lambda p, x: classify(abstract_classifier(config)[0], p, x))(params, patches)
    with torch.no_grad():
        theirs = model.eval()(images)
    assert_close(out.mean, theirs.logits)
    if distilled:
        assert_close(out.cls, theirs.cls_logits)
        assert_close(out.distilled, theirs.distillation_logits)
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    found = processor(photo, return_tensors="np")["pixel_values"][0]
    viewer = CentreView(config.image_size)
    want = viewer.pixels(photo, viewer.draw(np.random.default_rng()))
    want = (want / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    # A difference of one pixel level is 1/255, which normalisation divides by about 0.22.
    assert np.abs(found - want.transpose(2, 0, 1)).max() < 0.02


def timms_networks(monkeypatch):
    """Imports timm. Mocks torchvision if it is missing, because only timm's transforms need it."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed (parity extra)")
    if importlib.util.find_spec("torchvision") is None:
        for name in ("", ".datasets", ".transforms", ".transforms.functional", ".ops", ".ops.misc"):
            monkeypatch.setitem(sys.modules, f"torchvision{name}", MagicMock())
    return importlib.import_module("timm")


@pytest.mark.parametrize("distilled", [False, True])
def test_logits_match_timm(distilled, monkeypatch):
    timm = timms_networks(monkeypatch)
    config = dataclasses.replace(CLASSIFIERS["ti"], distilled=distilled)
    params = random_params(config)
    model = timm.create_model("deit_tiny_distilled_patch16_224" if distilled else "deit_tiny_patch16_224").eval()
    state = {name: torch.from_numpy(array) for name, array in to_timm(params, config).items()}
    assert model.load_state_dict(state, strict=True)
    patches, images = pixels_of(config)
    out = jax.jit(lambda p, x: classify(abstract_classifier(config)[0], p, x))(params, patches)
    with torch.no_grad():
        assert_close(out.mean, model(images))


def timms_operations():
    """Imports only timm's module of augmentation operations, which does not need torchvision."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        pytest.skip("timm is not installed (parity extra)")
    path = f"{spec.submodule_search_locations[0]}/data/auto_augment.py"
    alone = importlib.util.spec_from_file_location("timms_operations", path)
    module = importlib.util.module_from_spec(alone)
    sys.modules["timms_operations"] = module
    alone.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_augmented_pixels_match_timm(name, monkeypatch):
    theirs = timms_operations()
    called = "".join(part.capitalize() for part in name.split("_"))
    called = {"Autocontrast": "AutoContrast", "TranslateX": "TranslateXRel", "TranslateY": "TranslateYRel"}.get(
        called, called
    )
    increasing = f"{called}Increasing"
    called = increasing if increasing in theirs._RAND_INCREASING_TRANSFORMS else called
    assert called in theirs._RAND_INCREASING_TRANSFORMS and len(theirs._RAND_INCREASING_TRANSFORMS) == len(NAMES)
    hparams = {"translate_const": 100, "img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}
    image = Image.fromarray(np.random.default_rng(0).integers(20, 230, (40, 56, 3), np.uint8))
    # At magnitude 10, timm's posterize would keep 0 bits.
    for magnitude in (0.0, 3.3, 9.0, 9.87, 9.99 if name == "posterize" else 10.0):
        for negative in (False, True):
            monkeypatch.setattr(theirs.random, "random", lambda negative=negative: 0.9 if negative else 0.1)
            want = theirs.AugmentOp(called, prob=1.0, magnitude=magnitude, hparams=hparams)(image)
            found = operate(image, NAMES.index(name), magnitude / 10, negative)
            np.testing.assert_array_equal(found, want, f"{magnitude=} {negative=}")


def torch_model(config, params, tmp_path):
    export_classifier(params, Meta(config, {}), tmp_path / "micro")
    return transformers.ViTForImageClassification.from_pretrained(tmp_path / "micro").train()


def batches(config, steps, images):
    """Returns reproducible batches, each with its images as normalised torch tensors."""
    rng, found = np.random.default_rng(5), []
    for step in range(steps):
        patches, normal = pixels_of(config, images, seed=step)
        mixed = Mixing(size=config.image_size).draw(rng, images)
        keep = np.ones((images, config.depth, 2), np.uint8)
        labels = rng.integers(0, config.num_classes, images).astype(np.int32)
        found.append((ClassBatch(patches, labels, np.ones(images, bool), keep, *mixed), normal))
    return found


def train_torch(model, given, rate, decay, smoothing):
    """Trains with AdamW, timm's two parameter groups, pairwise mixing and soft targets; returns the last loss."""
    groups = [{"params": [], "weight_decay": decay}, {"params": [], "weight_decay": 0.0}]
    for name, tensor in model.named_parameters():
        plain = tensor.ndim <= 1 or "token" in name or "position" in name
        groups[plain]["params"].append(tensor)
    optimizer = torch.optim.AdamW(groups, lr=rate)
    for batch, images in given:
        swapped = images.reshape(-1, 2, *images.shape[1:]).flip(1).reshape(images.shape)
        share = torch.from_numpy(batch.share)
        x = share[:, None, None, None] * images + (1 - share)[:, None, None, None] * swapped
        for i, (top, left, bottom, right) in enumerate(batch.box.tolist()):
            if bottom > top:
                x[i] = images[i]
                x[i, :, top:bottom, left:right] = swapped[i, :, top:bottom, left:right]
        hot = torch.nn.functional.one_hot(torch.from_numpy(batch.labels).long(), 7).float()
        other = hot.reshape(-1, 2, 7).flip(1).reshape(hot.shape)
        target = (1 - smoothing) * (share[:, None] * hot + (1 - share)[:, None] * other) + smoothing / 7
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x).logits, target)
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns the batches, the initial parameters, and PyTorch's parameters and loss after 20 steps."""
    params, given = classifier_params(MICRO, 1, "from_nothing"), batches(MICRO, 20, 16)
    model = torch_model(MICRO, params, tmp_path_factory.mktemp("torch"))
    loss = train_torch(model, given, 1e-3, 0.05, 0.1)
    folder = tmp_path_factory.mktemp("after") / "hf"
    model.save_pretrained(folder)  # parameter names in saved files are the same in all transformers versions
    return given, params, load_file(folder / "model.safetensors"), loss


@pytest.mark.parametrize("devices", [1, 8])
def test_twenty_steps_match_pytorch(trained, devices):
    given, params, theirs, last = trained
    mesh = data_mesh(jax.devices()[:devices])
    loss = classification_loss(abstract_classifier(MICRO)[0], MICRO, 0.0, 0.1, mixes=True)
    optimizer = make_optimizer("adamw", lambda step: 1e-3, 0.05, 0.0)
    step = make_step(make_gradient(loss, image_count, mesh), optimizer, mesh)
    state = initial_state(params, optimizer, mesh)
    lowered = step.lower(state, jax.device_put(given[0][0], split_over(mesh)))
    program = lowered.compile(QUICKLY if devices > 1 else None)
    moves = re.findall(r" (all-gather|collective-permute|all-to-all|send|recv)\(", program.as_text())
    # Mixing needs no communication; only the flags that mark finite losses are gathered.
    assert moves == ["all-gather"] * (devices > 1)
    for batch, _ in given:
        state, report = program(state, jax.device_put(batch, split_over(mesh)))
        assert bool(report.applied)
    np.testing.assert_allclose(report.loss.terms["loss"], last, rtol=1e-5)
    ours = to_transformers_vit(jax.tree.map(np.asarray, state.params), MICRO)
    assert ours.keys() == theirs.keys()
    off = [np.abs(array - theirs[name]).ravel() for name, array in ours.items() if not name.endswith("key.bias")]
    off = np.concatenate(off)
    print(f"{devices} device(s): fraction within 1e-5: {(off <= 1e-5).mean():.5f}, largest difference: {off.max():.1e}")
    assert (off <= 1e-5).mean() >= 0.999 and off.max() <= 5e-4


def test_normalised_pixels_match(tmp_path):
    patches, images = pixels_of(MICRO)
    ours = np.asarray(normalize(jnp.asarray(patches))).reshape(2, 4, 4, 8, 8, 3).transpose(0, 5, 1, 3, 2, 4)
    np.testing.assert_allclose(ours.reshape(2, 3, 32, 32), images.numpy(), atol=1e-6)
