"""Reproduces twenty training steps of the reference, on one and on eight devices."""

import dataclasses
import functools
import json
import math

import jax
import numpy as np
import optax
import pytest
from made_coco import coco_split
from micro_run import initial_state
from PIL import Image
from reference_pack import arrays, tensors, train_config

from yolos_jax.data.augment import Pipeline, Resize, Views
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.examples import TrainBatch
from yolos_jax.data.loader import load_batches
from yolos_jax.data.plan import PlannedBatch
from yolos_jax.distributed.mesh import data_mesh, replicated, split_over
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
from yolos_jax.training.step import make_gradient, make_step
from yolos_jax.weights.reference import from_reference, to_reference

pytestmark = pytest.mark.slow


def config_and_params():
    # The reference does not resize positions for images with as many patches as the position grid.
    config = dataclasses.replace(train_config(), skip_equal_count=True)
    return config, from_reference(tensors("train_init.safetensors"), config)


def batch_of(ids, slots, config, canvases=None) -> TrainBatch:
    """A batch of `slots` slots with the images `ids` of the trace; unused slots are marked as invalid.

    `canvases` has an (h, w) for each image; if given, the images are normalised and padded with zeros to these sizes,
    as in the reference's collate function.
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


SEEN = []  # for each call of the host matcher in the current step, the numbers of boxes of its images


def solve(cost, count, solve_on_host=matching.solve_on_host):
    SEEN.append(np.asarray(count).tolist())
    return solve_on_host(cost, count)


@pytest.fixture(autouse=True)
def watched(monkeypatch):
    """Replaces the matcher in all tests, because a step keeps calling the function that it was traced with."""
    monkeypatch.setattr(matching, "solve_on_host", solve)


@functools.cache
def program(devices, matcher, parts, each, per_epoch, rates, clip_norm):
    """A function (state, batch, weight decay) -> step results; weight decay is an argument to avoid recompilation."""
    mesh = data_mesh(jax.devices()[:devices])
    loss = detection_loss(abstract(config_and_params()[0])[0], each, matcher, mesh, LossWeights())
    gradient = make_gradient(loss, batch_divisors(each), mesh, parts)

    def step(state, batch, decay):
        optimizer = make_optimizer("adamw", by_epoch(np.array(rates), per_epoch), decay, clip_norm)
        return make_step(gradient, optimizer, mesh)(state, batch)

    return jax.jit(step, in_shardings=(replicated(mesh), split_over(mesh), None), donate_argnums=0)


def follow(name, devices, matcher="host", padded=False, parts=1, feed=None):
    """Repeats the steps of a trace, and compares all losses, the first gradient and the stored parameters.

    `feed(z, slots, mesh)`, if given, yields the batches instead of `batch_of`.
    """
    if devices > len(jax.devices()):
        pytest.skip(f"needs {devices} devices, but there are {len(jax.devices())}")
    z, (config, params) = arrays(f"{name}.npz"), config_and_params()
    replicas, each, per_epoch = (int(z[key]) for key in ("replicas", "images_per_replica", "steps_per_epoch"))
    rates, clip_norm = learning_rates(int(z["epochs"]), float(z["base_lr"]), 1e-7), float(z["clip_max_norm"])
    mesh, decay = data_mesh(jax.devices()[:devices]), float(z["weight_decay"])
    step = program(devices, matcher, parts, each, per_epoch, tuple(rates), clip_norm)
    state = initial_state(params, make_optimizer("adamw", by_epoch(rates, per_epoch), decay, clip_norm), mesh)
    unit, compared = math.lcm(devices * parts, each), 0
    slots = -(-replicas * each // unit) * unit

    def batches():
        for s, ids in enumerate(z["step_images"].reshape(len(z["step_images"]), -1)):
            canvases = np.repeat(z["batch_hw"][s], each, axis=0) if padded else None
            yield batch_of(ids, slots, config, canvases)

    for s, batch in enumerate(feed(z, slots, mesh) if feed else batches()):
        SEEN.clear()
        state, report = step(state, jax.device_put(batch, split_over(mesh)), decay)
        assert report.applied and np.isclose(rates[s // per_epoch], z["lr"][s], atol=1e-9, rtol=0)
        if matcher == "host":  # called once per device and part, with only the images of that part
            assert sorted(SEEN) == sorted(np.asarray(batch.count).reshape(devices * parts, -1).tolist())
        bound = 1e-4 if s < per_epoch else 1e-3
        for key in ("total", "ce", "bbox", "giou"):
            want = z[f"loss_{key}_mean"][s]
            np.testing.assert_allclose(report.loss.terms[key], want, atol=bound, rtol=bound, err_msg=f"step {s}")
        if s == 0 and name != "train_trace_r4_wd01":  # this trace stores no gradient
            compare_gradient(state, report, clip_norm, z, config)
        if f"p{s + 1:02d}.backbone.cls_token" in z.files:
            compare(to_reference(jax.tree.map(np.asarray, state.params), config), z, f"p{s + 1:02d}.", config)
            compared += 1
    assert compared >= 3


def compare_gradient(state, report, clip_norm, z, config):
    """Compares the gradient before clipping. Adam's mean after the first step is a tenth of the clipped gradient."""
    scale = np.float32(10 / min(1, clip_norm / (float(report.grad_norm) + 1e-6)))
    grads = jax.tree.map(lambda m: np.asarray(m) * scale, optax.tree.get(state.opt_state, "mu"))
    for name, value in to_reference(grads, config).items():
        np.testing.assert_allclose(value, z[f"grad01.{name}"], atol=1e-5, rtol=1e-4, err_msg=name)


@pytest.mark.numbers
def test_parameters_after_1_5_and_20_steps():
    follow("train_trace_r4", 8)


@pytest.mark.parametrize("devices, parts", [(1, 4), (4, 2)])
def test_parameters_with_gradient_accumulation(devices, parts):
    """Four devices process eight slots in two parts; only four of the slots have images."""
    follow("train_trace_r4", devices, parts=parts)


def test_accumulation_does_not_split_replicas():
    follow("train_trace_r2b2", 1, padded=True, parts=2)


class TraceOrder:
    """A plan with the images in the order of a trace, without augmentation."""

    def __init__(self, z, sizes, batch_size, patch):
        self.order, self.batch_size = z["step_images"].reshape(len(z["step_images"]), -1), batch_size
        self.edges = [int((sizes // patch).prod(1).max())]
        self.pipeline, self.views = Pipeline(Resize((patch,), patch, patch)), Views((sizes,), sizes)

    def batch(self, step):
        indices = self.order[step]
        return PlannedBatch(step, indices, self.views.of(indices), self.edges[0])

    def substitute(self, planned, wanted, attempt):
        raise AssertionError("every image can be read")


def write_trace_data(root):
    """Writes the images and boxes of the trace as a COCO folder, and opens it."""
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
    return coco_split(root, "", annotations=root / "annotations.json", image_folder=root / "images")


def check_batch(found, given):
    """Checks that two batches are equal (boxes, up to rounding); ignores slots without a box."""
    for name in ("patches", "grid", "count", "valid"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name), name)
    for image, count in enumerate(given.count):
        np.testing.assert_array_equal(found.labels[image, :count], given.labels[image, :count])
        np.testing.assert_allclose(found.boxes[image, :count], given.boxes[image, :count], atol=1e-6, rtol=0)


@pytest.mark.parametrize("devices, matcher, workers", [(1, "host", 0), (8, "device", 2)])
def test_parameters_with_the_loader(tmp_path, devices, matcher, workers):
    """Loads images from files, with or without worker processes, and with the prefetch thread; also checks batches."""
    source, config = write_trace_data(tmp_path), config_and_params()[0]

    def feed(z, slots, mesh):
        plan = TraceOrder(z, source.examples.sizes, slots, config.patch_size)
        work = detection_work(source, plan, config.patch_size, Compute.max_side)
        loaded = load_batches(work, 0, len(plan.order), workers)
        with Batches(loaded, split_over(mesh), Processes(), Signals(), False) as batches:
            for batch in batches:
                ids = plan.order[batch.step]
                assert batch.indices.tolist() == [*ids, *[-1] * (slots - len(ids))]
                check_batch(jax.device_get(batch.arrays), batch_of(ids, slots, config))
                yield batch.arrays
        assert not batches.skipped

    follow("train_trace_r4", devices, matcher, feed=feed)


def test_parameters_with_strong_weight_decay():
    follow("train_trace_r4_wd01", 1)


def test_parameters_with_two_images_per_replica():
    """Cross entropy is normalised over pairs. Unlike the loader, this test pads images, as the reference does."""
    follow("train_trace_r2b2", 8, padded=True)


def compare(state, z, prefix, config):
    """Checks that 99.9% of the parameters are within 1e-5, and all within 5e-4; key biases are noise and excluded."""
    parts = []
    for name, value in state.items():
        off = np.abs(value - z[prefix + name])
        if name.endswith("attn.qkv.bias"):
            off = np.delete(off, np.s_[config.width : 2 * config.width])
        parts.append(off.ravel())
    off = np.concatenate(parts)
    assert np.quantile(off, 0.999) < 1e-5 and off.max() < 5e-4, (prefix, np.quantile(off, 0.999), off.max())
