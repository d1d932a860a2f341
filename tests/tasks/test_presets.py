"""The presets of `data.augment` in complete recipes: which operations they add, and what they leave unchanged."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from configs import digits
from yolos_jax.config.reader import assign
from yolos_jax.config.recipes import SETTINGS, DetectionConfig, detection_recipe
from yolos_jax.data.augment import Crop, Flip, Pipeline, Resize
from yolos_jax.data.examples import Example
from yolos_jax.errors import InputError
from yolos_jax.images.sequence import Geometry
from yolos_jax.tasks import recipe
from yolos_jax.tasks.augmentation.presets import PRESETS, smaller_sides

ROOT = Path(__file__).parents[2]
SIZES = np.random.default_rng(0).integers(200, 900, (300, 2))
CHANGED = [name for name in PRESETS if name != "none"]
BASES = {"scales": {}, "plain": {"scales": (), "short_side": 512}}
# hashes, see `everything`, of these recipes' plans before presets existed
BEFORE = {
    "scales": "2ddf8806e76f90d1ea8af44e77f140f39c1070204cedaa27797525aa7de49661",
    "plain": "ded3bb9c638513c643ecaf75b5706c0fcfc36e3c01baac2e9e3992ad654a3b46",
}


def config_of(augment, data=None):
    config = detection_recipe("ti")
    config.data.update(augment=augment, **(data or {}))
    config.train.update(batch_size=8, epochs=3)
    return recipe.prepare(config, DetectionConfig)


def pipeline_of(augment, data=None):
    config = config_of(augment, data)
    return recipe.augmentation_of(config, recipe.model_of(config, 91))


def plan_of(augment, data=None):
    config = config_of(augment, data)
    return recipe.plan_of(config, recipe.model_of(config, 91), SIZES)


def everything(plan):
    """The sha256 of all arrays of a plan and of some substitutes."""
    digest = hashlib.sha256(np.int64([*plan.edges, plan.steps_per_epoch, plan.dropped]).tobytes())
    for step in range(len(plan)):
        batch = plan.batch(step)
        for array in (batch.indices, *batch.views.numbers, batch.views.size):
            digest.update(np.ascontiguousarray(array, np.int64).tobytes())
        other = plan.substitute(batch, batch.image(step % 8), step % 3)
        digest.update(np.int64([batch.tokens, other.place, *other.view.size]).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("base", BASES)
def test_none_does_not_change_the_plan(base):
    assert everything(plan_of("none", BASES[base])) == BEFORE[base]


def test_none_is_the_reference_pipeline():
    by_hand = Pipeline(Resize(tuple(range(480, 801, 16)), 1333), before=(Flip(), Crop()))
    assert pipeline_of("none") == by_hand
    plain = Pipeline.of(Geometry.of(512, 0, 16, 84))
    assert pipeline_of("none", BASES["plain"]) == plain
    assert SETTINGS["detection"]["data.augment"].default == "none"


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("augment", CHANGED)
def test_plan_depends_only_on_seed_epoch_and_index(augment, base):
    plan = plan_of(augment, BASES[base])
    sent = pickle.loads(pickle.dumps(plan_of(augment, BASES[base])))
    for step in (len(plan) - 1, 40, 3):  # in any order and without the earlier steps, as after resuming
        one, other = plan.batch(step), sent.batch(step)
        assert one.tokens == other.tokens
        for a, b in zip((one.indices, *one.views.numbers, one.views.size), (other.indices, *other.views.numbers)):
            np.testing.assert_array_equal(a, b)
    assert everything(plan) not in BEFORE.values()


@pytest.mark.parametrize("augment", CHANGED)
def test_presets_keep_the_random_numbers_of_the_recipe(augment):
    """Each operation is seeded by its name. The shape operations of a preset come first, so crop sizes may differ."""
    none, some = pipeline_of("none"), pipeline_of(augment)
    before, among = none.views(SIZES, 3, 5), some.views(SIZES, 3, 5)
    numbers = {operation.name: drawn for operation, drawn in zip(some.operations, among.numbers)}
    np.testing.assert_array_equal(numbers["flip"], before.numbers[0])
    np.testing.assert_array_equal(numbers["crop"].any(1), before.numbers[1].any(1))
    assert (among.size % 16 == 0).all()
    if augment == "light":
        np.testing.assert_array_equal(numbers["crop"], before.numbers[1])
        np.testing.assert_array_equal(among.size, before.size)


def test_operations_of_the_presets():
    names = {augment: {each.name for each in pipeline_of(augment).operations} for augment in PRESETS}
    colours = {"brightness", "contrast", "saturation", "hue", "greyscale", "blur"}
    own = {"flip", "crop", "resize"}
    assert names["none"] == own and names["light"] == own | colours
    assert names["strong"] == names["light"] | {"zoom"}
    assert names["aerial"] == names["strong"] | {"vertical_flip", "quarter_turn"}
    plain = {each.name for each in pipeline_of("aerial", BASES["plain"]).operations}
    assert plain == names["aerial"] - {"flip", "crop"}
    mild, strong = ({each.name: each for each in PRESETS[name].colours} for name in ("light", "strong"))
    for name in colours - {"greyscale", "blur"}:
        assert mild[name].spread < strong[name].spread
    assert mild["greyscale"].probability < strong["greyscale"].probability
    assert mild["blur"].probability < strong["blur"].probability and mild["blur"].most < strong["blur"].most


def test_presets_on_micro_images_without_scales():
    """The recipe `digits`: images of 64 x 64 pixels, patches of 8 x 8, a model for at most 8 patches per side."""
    config = digits.get_config()
    for augment in CHANGED:
        config.data.augment = augment
        ready = recipe.prepare(config, DetectionConfig)
        pipeline = recipe.augmentation_of(ready, recipe.model_of(ready, 10))
        sizes = np.tile([[64, 64]], (400, 1))
        views = pipeline.views(sizes, 0, 0)
        widths = {"light": {64}, "strong": {40, 48, 56, 64}, "aerial": {56, 64}}[augment]
        assert set(views.size.ravel().tolist()) == widths and pipeline.longest(sizes) == 64
        pixels = pipeline.pixels(Image.new("RGB", (64, 64), (200, 100, 50)), views.of(0))
        assert pixels.shape == (*views.size[0][::-1], 3) and pixels.dtype == np.uint8


def test_smaller_sides():
    assert smaller_sides((480, 496, 800), 0.6, 16) == tuple(range(288, 480, 16))
    assert smaller_sides((480,), 1.0, 16) == smaller_sides((16,), 0.5, 16) == smaller_sides((500,), 1.0, 16) == ()
    assert smaller_sides((64,), 0.6, 8) == (40, 48, 56)
    many = smaller_sides((1000,), 0.1, 1)
    assert len(many) <= 20 and many[0] == 100 and many[-1] < 1000


def test_error_for_an_unknown_preset_lists_the_choices():
    config = detection_recipe("ti")
    with pytest.raises(InputError, match=r"^data.augment is 'mild'; choose one of none, light, strong, aerial\.$"):
        assign(config, "data.augment", "mild")
    assert tuple(PRESETS) == SETTINGS["detection"]["data.augment"].setting.choices
    with pytest.raises(InputError, match=r"no config.data.augmentation; .* config.data.augment\?"):
        assign(config, "data.augmentation", "light")


SMALL = {"scales": (32, 48, 64), "max_side": 96, "crop_sides": (48, 64), "crop_range": (32, 60), "short_side": 48}
PIPELINES = {
    f"{augment}-{len(scales)}": pipeline_of(augment, SMALL | {"scales": scales})
    for augment in PRESETS
    for scales in ((32, 48, 64), ())
}
sides = st.integers(1, 120)


@given(st.sampled_from(sorted(PIPELINES)), sides, sides, st.integers(0, 10**6))
def test_boxes_stay_inside_the_image(name, width, height, seed):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.uniform(0, width, (2, 9)), axis=0), np.sort(rng.uniform(0, height, (2, 9)), axis=0)
    boxes = np.stack([x[0], y[0], x[1], y[1]], axis=1).astype(np.float32)
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
    example = Example(0, "", width, height, boxes, np.arange(len(boxes), dtype=np.int32), np.ones(len(boxes)))
    pipeline = PIPELINES[name]
    view = pipeline.views(np.array([[width, height]] * 3), seed, 0).of(2)
    viewed, pixels = pipeline.boxes(example, view), pipeline.pixels(Image.new("RGB", (width, height)), view)
    assert pixels.shape == (viewed.height, viewed.width, 3) == (*view.size[::-1], 3)
    edge = np.float32([viewed.width, viewed.height] * 2)
    slack = 4e-6 * edge  # for float32 rounding, as in the reference
    assert (viewed.boxes >= -slack).all() and (viewed.boxes <= edge + slack).all()
    assert len(viewed.boxes) == len(viewed.labels) == len(viewed.area) <= len(boxes)
    assert (viewed.boxes[:, 2:] > viewed.boxes[:, :2]).all()


@pytest.mark.parametrize("name", [name for name in PIPELINES if not name.startswith("none")])
def test_boxes_follow_the_pixels(name):
    """Locates a green rectangle on black in the pixels of many views; it is always the area with the most green."""
    pipeline, size, box = PIPELINES[name], (96, 72), (24, 20, 72, 56)
    canvas = Image.new("RGB", size)
    canvas.paste((120, 200, 120), box)
    example = Example(0, "", *size, np.float32([box]), np.int32([0]), np.float32([1]))
    views = pipeline.views(np.tile([size], (120, 1)), 1, 0)
    seen = 0
    for i in range(120):
        pixels, viewed = pipeline.pixels(canvas, views.of(i)), pipeline.boxes(example, views.of(i))
        found = np.argwhere(pixels[..., 1] > pixels[..., 1].max() / 2)
        if len(viewed.boxes) and (viewed.boxes[0, 2:] - viewed.boxes[0, :2]).min() > 8:
            corners = [*found.min(0)[::-1], *(found.max(0)[::-1] + 1)]
            np.testing.assert_allclose(viewed.boxes[0], corners, atol=2)
            seen += 1
    assert seen > 60


def test_plan_modules_do_not_import_jax():
    modules = "yolos_jax.tasks.augmentation.presets", "yolos_jax.tasks.rare_classes"
    code = f"import sys, {', '.join(modules)}; assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
