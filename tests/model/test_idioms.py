"""Uses the network as a plain `flax.nnx` module: construction, gradients, training, jit, split and printing."""

import gc
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from reference_pack import ROOT

from yolos_jax.errors import InputError
from yolos_jax.images.sequence import pack
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.init import starting_values
from yolos_jax.model.yolos import Yolos, abstract, apply, build

MICRO = YolosConfig(
    width=24, depth=3, heads=2, det_tokens=5, num_classes=7, init_pe_size=(64, 96), mid_pe_size=(64, 96)
)


def batch():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    return pack([image], tokens=24, batch_size=1)


def values_of(model):
    return nnx.to_pure_dict(nnx.state(model))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_array_equal(x, y)


def test_docs_example(capsys):
    """Runs the example in the docs, which prints one line per part of the network, with a smaller model."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "api" / "network.md").read_text(), re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) == 10
    assert 'VARIANTS["s"]' in code
    shown = {"MICRO": MICRO}
    exec(code.replace('VARIANTS["s"]', "MICRO"), shown)
    out, gradients = shown["out"], nnx.to_pure_dict(shown["gradients"])
    assert out.logits.shape == (2, 5, 8) and out.boxes.shape == (2, 5, 4)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    lines = capsys.readouterr().out.splitlines()
    counts = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in lines}
    assert counts == {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in gradients.items()}
    assert len(lines) == 10


def test_training_and_printing_in_flax_style(capsys):
    """Uses `nnx.Optimizer`; its update is compiled because it has hundreds of operations."""
    model = Yolos(MICRO, rngs=nnx.Rngs(0))
    patches, grid = batch()

    def loss_fn(model):
        return optax.softmax_cross_entropy(model(patches, grid).logits, jax.nn.one_hot([[1] * 5], 8)).mean()

    optimizer = nnx.Optimizer(model, optax.adamw(1e-3), wrt=nnx.Param)
    value_and_grad = nnx.jit(nnx.value_and_grad(loss_fn))
    loss, grads = value_and_grad(model)
    nnx.jit(lambda optimizer, model, grads: optimizer.update(model, grads))(optimizer, model, grads)
    print(model)
    assert value_and_grad(model)[0] < loss
    assert "Yolos( # Param: " in capsys.readouterr().out


def test_constructor_draws_the_initial_values():
    """The values equal those that `starting_values` draws with the key data as its seed."""
    for scheme in ("reference", "from_nothing"):
        model = Yolos(MICRO, rngs=nnx.Rngs(3), scheme=scheme)
        words = jax.random.key_data(nnx.Rngs(3).params()).tolist()
        assert_equal(values_of(model), starting_values(abstract(MICRO)[1], words, scheme))
    assert all(isinstance(x, jax.Array) and x.dtype == jnp.float32 for x in jax.tree.leaves(values_of(model)))
    other = Yolos(MICRO, rngs=nnx.Rngs(4), scheme="from_nothing")
    assert (other.det_tokens[...] != model.det_tokens[...]).all()
    with pytest.raises(InputError, match="choose one of reference, from_nothing"):
        Yolos(MICRO, rngs=nnx.Rngs(0), scheme="magic")
    with pytest.raises(TypeError, match="rngs"):
        Yolos(MICRO)


def test_constructors_under_transformations():
    """jit creates the same network, eval_shape draws no values, and vmap over keys creates an ensemble."""
    model = Yolos(MICRO, rngs=nnx.Rngs(0))
    assert_equal(values_of(nnx.jit(lambda: Yolos(MICRO, rngs=nnx.Rngs(0)))()), values_of(model))
    shapes = values_of(nnx.eval_shape(lambda: Yolos(MICRO, rngs=nnx.Rngs(0))))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
    ensemble = nnx.vmap(lambda rngs: Yolos(MICRO, rngs=rngs))(nnx.Rngs(0).split(2))
    kernels = ensemble.blocks.attn.qkv.kernel[...]
    assert kernels.shape == (2, 2, 24, 72) and (kernels[0] != kernels[1]).all()


def test_eval_shape_allocates_nothing(monkeypatch):
    def never(*args):
        raise AssertionError("random values were drawn")

    monkeypatch.setattr("yolos_jax.model.init.starting_values", never)
    huge = YolosConfig(width=8192, depth=256, heads=64)  # 769 GiB of parameters
    gc.collect()  # frees the arrays of other tests
    before = len(jax.live_arrays())
    shapes = jax.tree.leaves(abstract(huge)[1])
    assert sum(leaf.size for leaf in shapes) * 4 > 2**39 and len(jax.live_arrays()) == before


def test_jit_grad_and_split():
    patches, grid = batch()
    model = Yolos(MICRO, rngs=nnx.Rngs(0))
    out = model(patches, grid, (0, -1))
    compiled = nnx.jit(lambda model, *args: model(*args, (0, -1)))(model, patches, grid)
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(compiled), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    graph, state = nnx.split(model)
    assert_equal(nnx.merge(graph, state)(patches, grid, (0, -1)), out)
    # the form that yolos-jax uses: a graph from `abstract` and a plain dict of arrays
    assert_equal(apply(abstract(MICRO)[0], values_of(model), patches, grid, (0, -1)), out)

    def loss(model):
        out = model(patches, grid)
        return (out.logits**2).sum() + (out.boxes**2).sum()

    grads = values_of(nnx.grad(loss)(model))
    graph, params = nnx.split(model)
    plain = jax.grad(lambda params: loss(nnx.merge(graph, params)))(params)
    assert_equal(grads, nnx.to_pure_dict(plain))


def test_compute_does_not_affect_the_parameters():
    half = Compute(compute_dtype="bfloat16", remat=True, query_block=8, max_side=20)
    assert_equal(build(MICRO, 5, compute=half)[1], build(MICRO, 5)[1])
    model = Yolos(MICRO, half, rngs=nnx.Rngs(0))
    assert_equal(values_of(model), values_of(Yolos(MICRO, rngs=nnx.Rngs(0))))
    assert nnx.eval_shape(lambda model: model(*batch()), model).logits.dtype == jnp.float32


def test_printing_names_the_parts():
    model = Yolos(MICRO, rngs=nnx.Rngs(0))
    text = str(model)
    for part in ("patch_embed=Linear", "pos_embed=Positions", "blocks=Block", "class_head=Head", "shape=(2, 24, 72)"):
        assert part in text
    nnx.display(model)
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert f"Param: {count:,}" in text
