"""Tests the classifier: comparison with NumPy, stochastic depth, other image sizes and invalid configs."""

import dataclasses

import jax
import numpy as np
import pytest

from yolos_jax.errors import InputError
from yolos_jax.model.classifier import abstract_classifier, classify
from yolos_jax.model.classifier_config import CLASSIFIERS, ClassifierConfig
from yolos_jax.model.yolos import abstract
from yolos_jax.tasks.classification.stochastic_depth import stochastic_depth
from yolos_jax.weights.deit import config_of_deit
from yolos_jax.weights.reference import to_timm

MICRO = ClassifierConfig(width=12, depth=3, heads=2, patch_size=8, num_classes=4, image_size=32, distilled=True)


def random_params(config, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32), abstract_classifier(config)[1])


def by_hand(state, patches, branches):
    """Computes the logits of both heads in float64 from a timm state dict; `branches` is `[B, depth, 2]`."""
    state = {name: array.astype(np.float64) for name, array in state.items()}

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def gelu(x):
        from scipy.special import erf

        return x * (1 + erf(x / np.sqrt(2))) / 2

    kernel = state["patch_embed.proj.weight"]  # [D, 3, p, p]
    pixels = patches.reshape(*patches.shape[:2], 8, 8, 3)
    x = np.einsum("bnhwc,dchw->bnd", pixels, kernel) + state["patch_embed.proj.bias"]
    first = np.concatenate([state["cls_token"], state["dist_token"]], axis=1)
    x = np.concatenate([np.repeat(first, len(x), axis=0), x], axis=1) + state["pos_embed"]
    for i in range(3):
        q, k, v = np.split(linear(f"blocks.{i}.attn.qkv", norm(f"blocks.{i}.norm1", x)), 3, axis=-1)
        q, k, v = (one.reshape(*one.shape[:2], 2, 6).transpose(0, 2, 1, 3) for one in (q, k, v))
        weights = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(6))
        mixed = (weights / weights.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        x = x + branches[:, i, 0, None, None] * linear(f"blocks.{i}.attn.proj", mixed)
        hidden = gelu(linear(f"blocks.{i}.mlp.fc1", norm(f"blocks.{i}.norm2", x)))
        x = x + branches[:, i, 1, None, None] * linear(f"blocks.{i}.mlp.fc2", hidden)
    x = norm("norm", x)
    return linear("head", x[:, 0]), linear("head_dist", x[:, 1])


def test_logits_and_stochastic_depth_match_numpy():
    rng, params = np.random.default_rng(1), random_params(MICRO)
    patches = rng.standard_normal((3, 16, 192)).astype(np.float32)
    keep = rng.integers(0, 2, (3, 3, 2)).astype(np.uint8)
    keep[0] = 1
    branches = stochastic_depth(keep, 0.5)
    np.testing.assert_allclose(branches, keep / np.array([1, 0.75, 0.5])[:, None], rtol=1e-6)
    graph = abstract_classifier(MICRO)[0]
    out = jax.jit(lambda p, x, b: classify(graph, p, x, branches=b))(params, patches, branches)
    want = by_hand(to_timm(params, MICRO), patches, np.asarray(branches, np.float64))
    np.testing.assert_allclose(out.cls, want[0], atol=1e-5)
    np.testing.assert_allclose(out.distilled, want[1], atol=1e-5)
    np.testing.assert_allclose(out.mean, (want[0] + want[1]) / 2, atol=1e-5)
    with pytest.raises(InputError, match="3 x 5 patches, but the sequences have 16"):
        classify(graph, params, patches, (3, 5))


def test_positions_are_resized_for_other_image_sizes():
    from yolos_jax.model.position import resize_to_tokens

    params, graph = random_params(MICRO), abstract_classifier(MICRO)[0]
    patches = np.random.default_rng(2).standard_normal((2, 15, 192)).astype(np.float32)
    sizes = np.array([[3, 5]], np.int32)
    grid = np.asarray(resize_to_tokens(params["pos_embed"]["grid"], sizes, 15, 5)).reshape(3, 5, 12)
    square = dataclasses.replace(MICRO, image_size=32)
    state = to_timm(params, square)
    special = state["pos_embed"][:, :2]
    state["pos_embed"] = np.concatenate([special, grid.reshape(1, 15, 12)], axis=1)
    want = by_hand(state, patches, np.ones((2, 3, 2)))
    found = jax.jit(lambda p, x: classify(graph, p, x, (3, 5)).cls)(params, patches)
    np.testing.assert_allclose(found, want[0], atol=1e-5)


def test_shared_parameter_names_match_the_detector():
    for name, config in CLASSIFIERS.items():
        ours = abstract_classifier(config)[1]
        from yolos_jax.model.config import VARIANTS

        theirs = abstract(VARIANTS[name])[1]
        for part in ("patch_embed", "cls_token", "blocks", "last_block", "norm"):
            assert jax.tree.map(lambda x: x.shape, ours[part]) == jax.tree.map(lambda x: x.shape, theirs[part])
    counts = {name: sum(x.size for x in jax.tree.leaves(abstract_classifier(c)[1])) for name, c in CLASSIFIERS.items()}
    assert counts["ti"] == 5_717_416 and counts["s"] == 22_050_664 and counts["b"] == 86_567_656  # as in timm


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"image_size": 30}, "model.image_size is 30; it must be a positive multiple of model.patch_size 8"),
        ({"distilled": 1}, "model.distilled is 1; it must be True or False"),
        ({"heads": 5}, "model.width 12 is not a multiple of model.heads 5"),
        ({"depth": 1}, "model.depth is 1; it must be a whole number of at least 2"),
    ],
)
def test_invalid_configs(changes, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(MICRO, **changes)


def test_variants_are_inferred_from_classifiers():
    from yolos_jax.model.config import VARIANTS
    from yolos_jax.weights.backbone import find_backbone

    config = CLASSIFIERS["s_dwr"]
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), abstract_classifier(config)[1])
    assert config_of_deit(find_backbone(to_timm(params, config), "x")) == VARIANTS["s_dwr"]
