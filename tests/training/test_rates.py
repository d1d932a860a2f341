"""Frozen parameters, the learning rate of the backbone, and layer-wise decay."""

import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.interpreters.partial_eval import dce_jaxpr
from micro_run import assert_equal_trees, initial_state
from micro_step import CONFIG, MESH, batch_of

from benchmarks.traced_products import count_multiply_adds, multiply_adds_of
from yolos_jax.config.reader import setting_differences as other_settings
from yolos_jax.config.recipes import detection_recipe
from yolos_jax.errors import InputError
from yolos_jax.model.yolos import abstract, apply, build
from yolos_jax.tasks.base import frozen_note
from yolos_jax.tasks.detection import batch_divisors
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.training.optimizer import decay_mask, make_optimizer
from yolos_jax.training.rates import make_average, make_hold, rates_of
from yolos_jax.training.resume import newest
from yolos_jax.training.saving import Checkpoints
from yolos_jax.training.settings import CheckpointSettings, RunSettings
from yolos_jax.training.step import LossReport, make_gradient, make_step
from yolos_jax.training.task import Differences, Identity, Options
from yolos_jax.weights.reference import to_reference
from yolos_jax.weights.tensor_names import reference_shapes

SHAPES = abstract(CONFIG)[1]  # three blocks, two of which are stacked
FROZEN = ("det_tokens", "blocks.0", "*.fc2.bias", "mid_pos_embed.1.det", "norm")
RATE, DECAY, CLIP, STEPS = 0.03, 0.3, 0.5, 2
NAMES = list(reference_shapes(CONFIG))


def chosen(**changes):
    """The `optimizer` settings of a recipe."""
    config = detection_recipe().optimizer
    config.update(learning_rate=RATE, **changes)
    return config


def broadcast(rates):
    """The rates as arrays with the shapes of the parameters."""

    def full(x, rate):
        return np.broadcast_to(rate.reshape(rate.shape + (1,) * (len(x.shape) - rate.ndim)), x.shape).copy()

    return jax.tree.map(full, SHAPES, rates)


def by_reference_names(tree):
    return to_reference(jax.tree.map(np.asarray, tree), CONFIG)


def beit_layer(name, layers):
    """BEiT's layer number for a PyTorch parameter: 0 before the blocks, `layers` + 1 after them."""
    parts = name.removeprefix("backbone.").split(".")
    if parts[0] in ("cls_token", "pos_embed", "patch_embed"):
        return 0
    return int(parts[1]) + 1 if parts[0] == "blocks" else layers + 1


def test_layer_decay_and_backbone_rate_of_every_parameter():
    found = by_reference_names(broadcast(rates_of(chosen(layer_decay=0.5, backbone_lr=RATE / 4), SHAPES)))
    for name, rate in found.items():
        own = name.startswith(("class_embed", "bbox_embed", "backbone.det_token", "backbone.mid_pos_embed"))
        want = np.full(rate.shape, 1.0 if own else 0.25 * 0.5 ** (CONFIG.depth + 1 - beit_layer(name, CONFIG.depth)))
        if name == "backbone.pos_embed":
            want[:, -CONFIG.det_tokens :] = 1.0  # position embeddings of DET tokens come last
        np.testing.assert_allclose(rate, want, rtol=1e-6, err_msg=name)
    assert {float(r.flat[0]) for r in found.values()} == {1, 0.25, 0.125, 0.0625, 0.03125, 0.015625}
    assert all(rate.shape == () and rate == 1 for rate in jax.tree.leaves(rates_of(chosen(), SHAPES)))


@pytest.mark.parametrize(
    "patterns, want",
    [
        (("det_tokens",), {"backbone.det_token"}),
        (("norm", "cls_*"), {"backbone.norm.weight", "backbone.norm.bias", "backbone.cls_token"}),
        (("blocks.1.mlp.fc?.bias",), {"backbone.blocks.1.mlp.fc1.bias", "backbone.blocks.1.mlp.fc2.bias"}),
        (("blocks.[0-1].norm1",), {f"backbone.blocks.{i}.norm1.{end}" for i in (0, 1) for end in ("weight", "bias")}),
        (("last_block.attn.proj",), {f"backbone.blocks.2.attn.proj.{end}" for end in ("weight", "bias")}),
        (("*_head",), {name for name in NAMES if "embed.layers" in name}),
        (("blocks",), {name for name in NAMES if "blocks" in name}),
    ],
)  # fmt: skip
def test_patterns_of_frozen_parameters(patterns, want):
    found = by_reference_names(broadcast(rates_of(chosen(freeze=patterns), SHAPES)))
    assert {name for name, rate in found.items() if not rate.any()} == want
    assert all(rate.all() for name, rate in found.items() if name not in want)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"freeze": ("det_token",)}, "'det_token', which matches no parameter .* nearest names are det_tokens"),
        ({"freeze": ("norm", "blocks.1.mlp.fc3")}, "nearest names are blocks.1.mlp.fc2, blocks.1.mlp.fc1"),
        ({"freeze": ("blocks.3",)}, "nearest names are blocks.[0-2], blocks"),
        ({"freeze": ("xyz",)}, "the groups of parameters are blocks, box_head, class_head, cls_token, det_tokens"),
        ({"freeze": ("*",)}, r"is \('\*',\); that leaves nothing to train"),
        ({"backbone_lr": 1e9}, "optimizer.backbone_lr 1e\\+09 is more than 1e\\+06 times"),
    ],
)
def test_errors_for_invalid_settings(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        rates_of(chosen(**changes), SHAPES)


def random_like(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), tree)


def followed(optimizer, rates, update=None):
    """The parameters after a few steps with random gradients, keyed by their names in the reference."""
    params, full = random_like(SHAPES, 0), broadcast(rates)
    state, update = optimizer.init(params), update or jax.jit(optimizer.update)
    for step in range(STEPS):
        # gradients of frozen parameters are zero, as with `hold`
        grads = jax.tree.map(lambda g, rate: g * (rate != 0), random_like(SHAPES, 10 + step), full)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return by_reference_names(params)


def test_backbone_rate_matches_a_separate_optimizer():
    rates = rates_of(chosen(backbone_lr=RATE / 7), SHAPES)
    ours = followed(make_optimizer("adamw", lambda step: RATE / (step + 1), DECAY, 0.0, rates), rates)

    def adamw(share):
        return optax.adamw(lambda step: share * RATE / (step + 1), weight_decay=DECAY, mask=decay_mask)

    update = jax.jit(lambda share, *args: adamw(share).update(*args))
    for share in (1, 1 / 7):
        peer = followed(adamw(share), rates, functools.partial(update, share))
        for name, full in by_reference_names(broadcast(rates)).items():
            mine = np.isclose(full, share)
            np.testing.assert_allclose(ours[name][mine], peer[name][mine], rtol=2e-6, atol=1e-7, err_msg=name)


def torch_adamw(params, gradients, rates, decayed):
    """AdamW and `clip_grad_norm_` in float64, as documented by PyTorch. Parameters with rate 0 are excluded."""
    mean, square = ({n: np.zeros(p.shape) for n, p in params.items()} for _ in range(2))
    params = {n: p.astype(np.float64) for n, p in params.items()}
    for step, grads in enumerate(gradients, 1):
        grads = {n: g.astype(np.float64) * (rates[n] != 0) for n, g in grads.items()}
        factor = min(1.0, CLIP / (np.sqrt(sum((g**2).sum() for g in grads.values())) + 1e-6))
        for n, g in grads.items():
            g = g * factor
            params[n] *= 1 - RATE * rates[n] * (DECAY if decayed[n] else 0)
            mean[n], square[n] = 0.9 * mean[n] + 0.1 * g, 0.999 * square[n] + 0.001 * g**2
            denominator = np.sqrt(square[n] / (1 - 0.999**step)) + 1e-8
            params[n] -= RATE * rates[n] * mean[n] / (1 - 0.9**step) / denominator
    return params


def test_clipping_decay_and_block_rates_match_pytorch():
    """Stacked blocks have different rates, and one is frozen. Frozen parameters are not part of the norm."""
    rates = rates_of(chosen(layer_decay=0.6, freeze=FROZEN), SHAPES)
    found = followed(make_optimizer("adamw", lambda step: RATE, DECAY, CLIP, rates), rates)
    start, full = by_reference_names(random_like(SHAPES, 0)), by_reference_names(broadcast(rates))
    gradients = [by_reference_names(random_like(SHAPES, 10 + step)) for step in range(STEPS)]
    marks = jax.tree.map(lambda p, on: np.full(p.shape, on, np.float32), SHAPES, decay_mask(SHAPES))
    want = torch_adamw(start, gradients, full, {name: mark.any() for name, mark in by_reference_names(marks).items()})
    for name, value in found.items():
        np.testing.assert_allclose(value, want[name], atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(value[full[name] == 0], start[name][full[name] == 0])


GRAPH = abstract(CONFIG)[0]


def loss(params, batch, divisors=None):
    """A simple loss on the detector's outputs, which compiles faster than the set loss."""
    out = apply(GRAPH, params, batch.patches, batch.grid)
    total = (out.logits**2).sum() + (out.boxes**2).sum()
    return total, LossReport({"total": total}, jnp.ones(len(batch.patches), bool), {})


@pytest.fixture(scope="module")
def stepped():
    """A run with frozen parameters: (rates, optimizer, parameters, state after two steps, report of the first)."""
    rates = rates_of(chosen(freeze=FROZEN), SHAPES)
    optimizer = make_optimizer("adamw", lambda step: RATE, DECAY, CLIP, rates)
    gradient = make_gradient(loss, batch_divisors(1), MESH, hold=make_hold(rates))
    step = make_step(gradient, optimizer, MESH, make_average(0.9, rates))
    params = build(CONFIG, 0, "from_nothing")[1]
    params["blocks"]["norm1"]["bias"][0] = -0.0  # adding 0.0 would change it
    state, report = step(initial_state(params, optimizer, MESH, ema=True), batch_of())
    first = jax.tree.map(np.asarray, report)
    return rates, optimizer, params, step(state, batch_of())[0], first


def test_frozen_parameters_are_bit_equal_after_training(stepped):
    rates, _, params, state, report = stepped
    assert report.applied and int(state.step) == 2
    start, now, ema = (by_reference_names(t) for t in (params, state.params, state.ema))
    for name, rate in by_reference_names(broadcast(rates)).items():
        for after in (now, ema):
            same = after[name].view(np.uint32) == start[name].view(np.uint32)
            assert same[rate == 0].all(), name
            if rate.any() and not name.endswith("qkv.bias"):
                assert not same[rate != 0].all(), name
    assert (np.signbit(np.asarray(state.params["blocks"]["norm1"]["bias"])[0])).all()


def test_optimizer_has_no_arrays_for_frozen_parameters(stepped):
    _, _, params, state, _ = stepped
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)]
    assert not [path for path in paths if "det_tokens" in path or "['norm']" in path or "['fc2']['bias']" in path]
    frozen = [params["det_tokens"], *jax.tree.leaves(params["norm"])]
    frozen += [params[head]["fc2"]["bias"] for head in ("class_head", "box_head")]
    frozen += [params[blocks]["mlp"]["fc2"]["bias"] for blocks in ("blocks", "last_block")]
    room = sum(x.size for x in jax.tree.leaves(params)) - sum(x.size for x in frozen)
    assert sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim) == 2 * room  # two moments each
    mean = state.opt_state.inner_states["trained"].inner_state[1][0].mu["blocks"]["mlp"]["fc1"]["kernel"]
    assert not np.any(mean[0]) and np.any(mean[1])  # a frozen block in a stack has moments, which stay zero


def test_gradient_norm_excludes_frozen_parameters(stepped):
    rates, _, params, _, report = stepped
    grads, full = jax.jit(make_gradient(loss, batch_divisors(1), MESH))(params, batch_of())
    grads, parts = by_reference_names(grads), by_reference_names(broadcast(rates))
    norm = np.sqrt(sum((g[parts[name] != 0].astype(np.float64) ** 2).sum() for name, g in grads.items()))
    np.testing.assert_allclose(report.grad_norm, norm, rtol=1e-5)
    np.testing.assert_allclose(report.loss.terms["total"], full.terms["total"], rtol=1e-6)


def test_gradients_of_frozen_parameters_are_not_computed():
    """Counts the multiply-adds that remain after dead code elimination; the choice of loss does not matter."""
    params, batch = build(CONFIG, 0)[1], batch_of()

    forward = count_multiply_adds(lambda p: apply(GRAPH, p, batch.patches, batch.grid), params)

    def cost(*freeze):
        rates = rates_of(chosen(freeze=freeze), SHAPES)
        program = jax.make_jaxpr(make_gradient(loss, batch_divisors(1), MESH, hold=make_hold(rates)))(
            params, batch
        ).jaxpr
        needed = dce_jaxpr(program, [True] * len(program.outvars))[0]
        return multiply_adds_of(needed)

    everything, kernels, heads = cost(), cost("blocks", "patch_embed"), cost("[!bc]*", "blocks", "cls_token")
    assert heads < 1.2 * forward  # no backward pass through the blocks
    tokens, det, width = 1 + CONFIG.det_tokens + batch.patches.shape[1], CONFIG.det_tokens, CONFIG.width
    block, mlp = 4 * width**2, 2 * width * CONFIG.mlp_width  # weights of qkv and proj, and of fc1 and fc2
    # In the last block, only keys and values are computed for all tokens, and everything else for DET tokens only.
    last = tokens * 2 * width**2 + det * (2 * width**2 + mlp)
    images = len(batch.patches)
    gone = (CONFIG.depth - 1) * tokens * (block + mlp) + last + batch.patches.shape[1] * width * CONFIG.patch_values
    # One product of `on_cpu.outer_gradient` for each of two norms per block; the last block's second is for DET tokens.
    norms = (2 * CONFIG.depth - 1) * tokens * width + det * width
    assert everything - kernels == images * (gone + norms)  # there is a backward pass, but no gradients of the kernels


@pytest.mark.parametrize("parts", [1, 2])
def test_frozen_arrays_need_no_gradient_or_moment_memory(parts):
    params = {"frozen": {"kernel": np.ones((1000, 64), np.float32)}, "head": {"kernel": np.ones((64, 2), np.float32)}}
    rates = {"frozen": {"kernel": np.zeros((), np.float32)}, "head": {"kernel": np.ones((), np.float32)}}

    def toy_loss(params, x, divisors=None):
        total = ((x @ params["frozen"]["kernel"] @ params["head"]["kernel"]) ** 2).sum()
        return total, LossReport({"total": total}, jnp.ones(len(x), bool), {})

    def room(rates):
        optimizer = make_optimizer("adamw", lambda step: RATE, DECAY, CLIP, rates)
        gradient = make_gradient(toy_loss, lambda x: None, MESH, parts, make_hold(rates))
        step = make_step(gradient, optimizer, MESH, make_average(0.9, rates))
        program = step.lower(initial_state(params, optimizer, MESH), np.ones((2, 1000), np.float32)).compile()
        memory = program.memory_analysis()
        return memory.temp_size_in_bytes, memory.argument_size_in_bytes

    size = params["frozen"]["kernel"].nbytes
    one_rate = jax.tree.map(np.ones_like, rates)
    trained, frozen = room(one_rate), room(rates)
    assert frozen[0] < size // 2 and trained[0] > size  # no gradient
    assert trained[1] - frozen[1] == 2 * size  # no moments


def test_resumes_only_with_the_same_frozen_parameters(stepped, tmp_path):
    _, optimizer, _, state, _ = stepped
    config = detection_recipe().to_dict()
    config["optimizer"]["freeze"] = list(FROZEN)
    facts = {"config": config, "data": {"fingerprint": "f", "images": 1}, "order": 1, "versions": {}}
    meta = Meta(CONFIG, {}, 2, facts)

    def task(freeze):
        other = facts | {"config": config | {"optimizer": config["optimizer"] | {"freeze": freeze}}}
        now = Identity(**other, model=CONFIG, label_names={})

        def differences(before):
            fixed = other_settings(before.config, now.config, never=True)
            return Differences([], fixed, other_settings(before.config, now.config))

        return SimpleNamespace(
            shapes=SHAPES, optimizer=optimizer, headline=("AP",), identity=lambda: now, differences=differences
        )

    with Checkpoints(tmp_path, 1) as writer:
        writer.save(2, state, meta)
    options = Options(RunSettings(ema=0.9), CheckpointSettings(), accept_differences=True)
    found, notes = newest(tmp_path, task(FROZEN), options)
    assert_equal_trees(found, jax.tree.map(np.asarray, state))
    assert notes == []
    with pytest.raises(InputError) as error:
        newest(tmp_path, task(()), options)
    assert "optimizer.freeze ['det_tokens', 'blocks.0'" in str(error.value) and "--config.init" in str(error.value)
    assert "norm'] vs. []" in str(error.value) and (tmp_path / "2").is_dir()


def test_note_counts_frozen_parameters():
    rates = rates_of(chosen(freeze=("det_tokens", "blocks.0.norm1")), SHAPES)
    whole = sum(math.prod(shape) for shape in reference_shapes(CONFIG).values())
    (note,) = frozen_note(SHAPES, rates, ("det_tokens", "blocks.0.norm1"))
    assert note == f"{7 * CONFIG.width:,} of {whole:,} parameters are not trained: det_tokens, blocks.0.norm1"
    assert frozen_note(SHAPES, rates_of(chosen(layer_decay=0.5), SHAPES), ()) == ()
