"""Twenty steps of the reference's training, on one device and on eight."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from micro_run import initial_state
from PIL import Image
from reference_pack import arrays, tensors, train_config

from yolos_jax.data.augment import Pipeline, Resize, Views
from yolos_jax.data.examples import TrainBatch
from yolos_jax.data.loader import LoadStep, load
from yolos_jax.data.plan import PlannedBatch
from yolos_jax.data.sources.coco import CocoSource
from yolos_jax.distributed.processes import Processes
from yolos_jax.images.sequence import pack
from yolos_jax.model.config import Compute
from yolos_jax.model.yolos import abstract
from yolos_jax.objective import matching
from yolos_jax.objective.weights import LossWeights
from yolos_jax.tasks.detection import batch_divisors, detection_loss
from yolos_jax.training.optimizer import by_epoch, learning_rates, make_optimizer
from yolos_jax.training.prefetch import Batches
from yolos_jax.training.signals import Signals
from yolos_jax.training.step import data_mesh, make_gradient, make_step, split_over
from yolos_jax.weights.reference import from_reference, to_reference

pytestmark = pytest.mark.slow


def config_and_params():
    # The reference skips resizing for images with as many patches as the position grid.
    config = dataclasses.replace(train_config(), skip_equal_count=True)
    return config, from_reference(tensors("train_init.safetensors"), config)


def batch_of(ids, slots, config, canvases=None) -> TrainBatch:
    """The trace's images `ids` in a batch of `slots`, unused ones marked invalid.

    With `canvases`, (h, w) for each image, images are normalised and padded
    with zeros to those sizes, as the reference collates them.
    """
    d = arrays("train_data.npz")
    images = [d[f"img{i:02d}"] for i in ids]
    tokens = max(int(h) * int(w) for h, w in d["hw"]) // config.patch_size**2
    if canvases is not None:
        images = [np.float32((image / 255.0 - d["mean"]) / d["std"]) for image in images]
        room = [(h - image.shape[0], w - image.shape[1]) for image, (h, w) in zip(images, canvases)]
        images = [np.pad(image, ((0, h), (0, w), (0, 0))) for image, (h, w) in zip(images, room)]
        tokens = int(d["hw"].max(0).prod()) // config.patch_size**2
    patches, grid = pack(images, tokens, slots, config.patch_size)

    def fill(name, dtype):
        values = d[name][ids]
        return np.concatenate([values, np.zeros((slots - len(ids), *values.shape[1:]), dtype)]).astype(dtype)

    targets = fill("tgt_labels", np.int32), fill("tgt_boxes", np.float32), fill("tgt_count", np.int32)
    return TrainBatch(patches, grid, *targets, np.arange(slots) < len(ids))


def follow(name, devices, matcher="host", padded=False, parts=1, feed=None):
    """Trains along a trace, comparing losses of every step and the stored parameters.

    `feed(z, slots, mesh)` yields other batches than `batch_of` makes.
    """
    z, (config, params) = arrays(f"{name}.npz"), config_and_params()
    replicas, each, per_epoch = (int(z[key]) for key in ("replicas", "images_per_replica", "steps_per_epoch"))
    rates = learning_rates(int(z["epochs"]), float(z["base_lr"]), 1e-7)
    schedule = by_epoch(rates, per_epoch)
    optimizer = make_optimizer("adamw", schedule, float(z["weight_decay"]), float(z["clip_max_norm"]))
    mesh = data_mesh(jax.devices()[:devices])
    loss = detection_loss(abstract(config)[0], each, matcher, mesh, LossWeights())
    step = make_step(make_gradient(loss, batch_divisors(each), mesh, parts), optimizer, mesh)
    state = initial_state(params, optimizer, mesh)
    unit, compared = math.lcm(devices * parts, each), 0
    slots = -(-replicas * each // unit) * unit

    def batches():
        for s, ids in enumerate(z["step_images"].reshape(len(z["step_images"]), -1)):
            canvases = np.repeat(z["batch_hw"][s], each, axis=0) if padded else None
            yield batch_of(ids, slots, config, canvases)

    for s, batch in enumerate(feed(z, slots, mesh) if feed else batches()):
        state, report = step(state, batch)
        assert report.applied and np.isclose(rates[s // per_epoch], z["lr"][s], atol=1e-9, rtol=0)
        bound = 1e-4 if s < per_epoch else 1e-3
        for key in ("total", "ce", "bbox", "giou"):
            want = z[f"loss_{key}_mean"][s]
            np.testing.assert_allclose(report.loss.terms[key], want, atol=bound, rtol=bound, err_msg=f"step {s}")
        if f"p{s + 1:02d}.backbone.cls_token" in z.files:
            compare(to_reference(jax.tree.map(np.asarray, state.params), config), z, f"p{s + 1:02d}.", config)
            compared += 1
    assert compared >= 3


@pytest.mark.parametrize(
    "devices, matcher", [(1, "host"), pytest.param(8, "host", marks=pytest.mark.numbers), (8, "device")]
)
def test_parameters_after_1_5_and_20_steps(devices, matcher):
    follow("train_trace_r4", devices, matcher)


@pytest.mark.parametrize("devices, parts", [(1, 4), (2, 2), (8, 2)])
def test_parameters_with_gradient_accumulation(devices, parts):
    follow("train_trace_r4", devices, parts=parts)


def test_accumulated_pairs_stay_together():
    follow("train_trace_r2b2", 1, padded=True, parts=2)


class TraceOrder:
    """The plan of a trace: images in order, as they are."""

    def __init__(self, z, sizes, batch_size, patch):
        self.order, self.batch_size = z["step_images"].reshape(len(z["step_images"]), -1), batch_size
        self.edges = [int((sizes // patch).prod(1).max())]
        self.pipeline, self.views = Pipeline(Resize((patch,), patch, patch)), Views((sizes,), sizes)

    def batch(self, step):
        indices = self.order[step]
        return PlannedBatch(step, indices, self.views.of(indices), self.edges[0])

    def substitute(self, step, index, attempt):
        raise AssertionError("every image can be read")


def write_trace_data(root):
    """The trace's images and boxes as a COCO folder."""
    d = arrays("train_data.npz")
    (root / "images").mkdir()
    images, annotations = [], []
    for i, (height, width) in enumerate(d["hw"].tolist()):
        Image.fromarray(d[f"img{i:02d}"]).save(root / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        for label, (x, y, w, h) in list(zip(d["tgt_labels"][i].tolist(), d["tgt_boxes"][i].tolist()))[
            : d["tgt_count"][i]
        ]:
            xywh = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append({"id": len(annotations), "image_id": i, "category_id": label, "bbox": xywh})
    categories = [{"id": i, "name": str(i)} for i in range(91)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(content))
    return CocoSource(root, "", annotations=root / "annotations.json", image_folder=root / "images")


@pytest.mark.parametrize("devices, workers", [(1, 0), (8, 2)])
def test_parameters_through_the_loader(tmp_path, devices, workers):
    """Images from files, through worker processes and the thread that feeds the devices."""
    source, config = write_trace_data(tmp_path), config_and_params()[0]

    def feed(z, slots, mesh):
        plan = TraceOrder(z, source.examples.sizes, slots, config.patch_size)
        work = LoadStep(source, plan, config.patch_size, Compute.max_side)
        loaded = load(work, 0, len(plan.order), workers)
        with Batches(loaded, split_over(mesh), Processes(), Signals(), False) as batches:
            for batch in batches:
                ids = plan.order[batch.step]
                assert batch.indices.tolist() == [*ids, *[-1] * (slots - len(ids))]
                np.testing.assert_array_equal(batch.arrays.patches, batch_of(ids, slots, config).patches)
                yield batch.arrays
        assert not batches.skipped

    follow("train_trace_r4", devices, feed=feed)


def test_parameters_with_strong_weight_decay():
    follow("train_trace_r4_wd01", 1)


def test_parameters_with_two_images_per_replica():
    """Cross entropy normalised within pairs. The loader never pads images; this test does, like the reference."""
    follow("train_trace_r2b2", 8, padded=True)


def compare(state, z, prefix, config):
    """99.9 % within 1e-5, all within 5e-4; the gradient of key biases is noise and left out."""
    parts = []
    for name, value in state.items():
        off = np.abs(value - z[prefix + name])
        if name.endswith("attn.qkv.bias"):
            off = np.delete(off, np.s_[config.width : 2 * config.width])
        parts.append(off.ravel())
    off = np.concatenate(parts)
    assert np.quantile(off, 0.999) < 1e-5 and off.max() < 5e-4, (prefix, np.quantile(off, 0.999), off.max())


@pytest.mark.numbers
def test_first_gradient_is_the_references():
    z, (config, params) = arrays("train_trace_r4.npz"), config_and_params()
    ids = z["step_images"][0].ravel()
    each, mesh = int(z["images_per_replica"]), data_mesh(jax.devices()[:1])
    loss = detection_loss(abstract(config)[0], each, "host", mesh, LossWeights())
    grads = jax.jit(jax.grad(loss, has_aux=True))(params, batch_of(ids, len(ids), config))[0]
    for name, value in to_reference(jax.tree.map(np.asarray, grads), config).items():
        np.testing.assert_allclose(value, z[f"grad01.{name}"], atol=1e-5, rtol=1e-4, err_msg=name)


def test_eight_devices_equal_one_and_match_their_own_images(monkeypatch):
    """Same loss and gradients; the callback runs once per device and sees that device's images only."""
    config, params = config_and_params()
    ids = np.arange(16) % len(arrays("train_data.npz")["hw"])
    batch, seen = batch_of(ids, 16, config), []
    solve = matching.solve_on_host

    def watch(cost, count):
        seen.append(np.asarray(count).tolist())
        return solve(cost, count)

    monkeypatch.setattr(matching, "solve_on_host", watch)
    results = {}
    for devices in (1, 8):
        seen.clear()
        mesh = data_mesh(jax.devices()[:devices])
        loss = detection_loss(abstract(config)[0], 1, "host", mesh, LossWeights())
        gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
        results[devices] = jax.block_until_ready(gradient(params, jax.device_put(batch, split_over(mesh))))
        share = len(ids) // devices
        want = [batch.count[i : i + share].tolist() for i in range(0, len(ids), share)]
        assert sorted(seen) == sorted(want)
    (loss1, _), grads1 = results[1]
    (loss8, _), grads8 = results[8]
    np.testing.assert_allclose(loss8, loss1, rtol=1e-5)
    grads1, grads8 = (to_reference(jax.tree.map(np.asarray, g), config) for g in (grads1, grads8))
    for name, value in grads1.items():
        off = np.abs(grads8[name] - value)
        if name.endswith("attn.qkv.bias"):  # the key part is rounding noise around zero
            off = np.delete(off, np.s_[config.width : 2 * config.width])
        assert off.max() <= 1e-5 * max(np.abs(value).max(), 1e-3), name
