"""Twenty steps of the reference's training, on one device and on eight."""

import dataclasses

import jax
import numpy as np
import pytest
from reference_pack import arrays, tensors, train_config

from yolos_jax.data.examples import TrainBatch
from yolos_jax.model.yolos import abstract
from yolos_jax.objective import matching
from yolos_jax.sequence import pack
from yolos_jax.training.optimizer import adamw, by_epoch, learning_rates
from yolos_jax.training.step import data_mesh, initial_state, make_loss, make_step, split_over
from yolos_jax.weights import from_reference, to_reference


def config_and_params():
    # The reference skips resizing for pictures with as many patches as the position grid.
    config = dataclasses.replace(train_config(), skip_equal_count=True)
    return config, from_reference(tensors("train_init.safetensors"), config)


def batch_of(ids, slots, config) -> TrainBatch:
    """The trace's images `ids` in a batch of `slots`, unused ones marked invalid."""
    d = arrays("train_data.npz")
    tokens = max(int(h) * int(w) for h, w in d["hw"]) // config.patch_size**2
    patches, grid = pack([d[f"img{i:02d}"] for i in ids], tokens, slots, config.patch_size)

    def fill(name, dtype):
        values = d[name][ids]
        return np.concatenate([values, np.zeros((slots - len(ids), *values.shape[1:]), dtype)]).astype(dtype)

    targets = fill("tgt_labels", np.int32), fill("tgt_boxes", np.float32), fill("tgt_count", np.int32)
    return TrainBatch(patches, grid, *targets, np.arange(slots) < len(ids))


@pytest.mark.parametrize("solver", ["host", "device"])
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("name", ["train_trace_r4", "train_trace_r4_wd01"])
def test_parameters_after_1_5_and_20_steps(name, devices, solver):
    if solver == "device" and name != "train_trace_r4":
        pytest.skip("one trace is enough for the other matcher")
    z, (config, params) = arrays(f"{name}.npz"), config_and_params()
    replicas, each = int(z["replicas"]), int(z["images_per_replica"])
    rates = learning_rates(int(z["epochs"]), float(z["base_lr"]))
    per_epoch = int(z["steps_per_epoch"])
    optimizer = adamw(by_epoch(rates, per_epoch), float(z["weight_decay"]), float(z["clip_max_norm"]))
    mesh = data_mesh(jax.devices()[:devices])
    step = make_step(abstract(config)[0], optimizer, mesh, each, solver)
    state = initial_state(params, optimizer, mesh)
    slots = -(-replicas * each // devices) * devices
    for s, ids in enumerate(z["step_images"].reshape(len(z["step_images"]), -1)):
        state, report = step(state, batch_of(ids, slots, config))
        assert report.applied and np.isclose(rates[s // per_epoch], z["lr"][s], atol=1e-9, rtol=0)
        bound = 1e-4 if s < per_epoch else 1e-3
        for field, key in (("total", "total"), ("ce", "ce"), ("bbox", "bbox"), ("giou", "giou")):
            want = z[f"loss_{key}_mean"][s]
            np.testing.assert_allclose(getattr(report.terms, field), want, atol=bound, rtol=bound, err_msg=f"step {s}")
        if f"p{s + 1:02d}.backbone.cls_token" in z.files:
            compare(to_reference(jax.tree.map(np.asarray, state.params), config), z, f"p{s + 1:02d}.", config)


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


def test_first_gradient_is_the_references():
    z, (config, params) = arrays("train_trace_r4.npz"), config_and_params()
    ids = z["step_images"][0].ravel()
    loss = make_loss(abstract(config)[0], int(z["images_per_replica"]), "host", data_mesh(jax.devices()[:1]))
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
        loss = jax.jit(jax.value_and_grad(make_loss(abstract(config)[0], 1, "host", mesh), has_aux=True))
        results[devices] = jax.block_until_ready(loss(params, jax.device_put(batch, split_over(mesh))))
        share = len(ids) // devices
        want = [batch.count[i : i + share].tolist() for i in range(0, len(ids), share)]
        assert sorted(seen) == sorted(want)
    (loss1, _), grads1 = results[1]
    (loss8, _), grads8 = results[8]
    np.testing.assert_allclose(loss8, loss1, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads1), jax.tree.leaves(grads8)):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, float(np.abs(a).max())), rtol=0)
