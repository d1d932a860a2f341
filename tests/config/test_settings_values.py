"""Every value of every setting is accepted or rejected with a one-line message, and accepted recipes can be built."""

import dataclasses
import functools
import resource
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolos_jax.config.reader import assign, read_recipe
from yolos_jax.config.recipes import DETECTION, DetectionConfig, detection_recipe
from yolos_jax.config.recipes import SETTINGS as TABLES
from yolos_jax.errors import InputError
from yolos_jax.model.config import Compute
from yolos_jax.model.yolos import abstract
from yolos_jax.setting import part
from yolos_jax.tasks import recipe
from yolos_jax.training.rates import rates_of

SETTINGS = TABLES[DETECTION]
SIZES = np.array([(640, 480), (480, 640), (500, 375), (427, 640), (640, 427), (333, 500), (1, 9000), (3000, 40)])
SECONDS, KIBIBYTES = 5, 2**20  # limits on CPU time and memory for any single value
TEXT = st.text(st.characters(), max_size=20) | st.sampled_from(
    [
        "",
        "a\nb",
        "a\0b",
        "\r",
        "\u2028",
        "\udc80",
        "é" * 50,
        "x" * 10**6,
        "9" * 5000,
        "(" * 5000,
        "-" * 5000,
        "None",
        "nan",
    ]
)
NUMBERS = st.integers() | st.integers(-(2**70), 2**70) | st.just(10**4000) | st.floats() | st.booleans()
LEAVES = st.none() | NUMBERS | TEXT | st.binary(max_size=9)

ANY = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def fitting(found):
    """A strategy for values that a setting accepts, including its bounds."""
    how = found.setting
    if found.optional:
        return st.none() | fitting(dataclasses.replace(found, optional=False))
    if how.choices and found.items is str:
        return st.lists(st.sampled_from(how.choices), max_size=how.lengths[1]).map(tuple)
    if how.choices:
        return st.sampled_from(how.choices)
    if found.type is bool:
        return st.booleans()
    if found.type is int:
        return st.sampled_from([how.low, how.high]) | st.integers(how.low, how.high)
    if found.type is float:
        return st.sampled_from([how.low, how.high]) | st.floats(how.low, how.high)
    if found.items is int:
        least, most = how.lengths
        whole = st.sampled_from([how.low, how.high]) | st.integers(how.low, how.high)
        longest = st.just((how.low, *range(how.high - most + 2, how.high + 1)))
        return st.lists(whole, min_size=least, max_size=most).map(tuple) | longest
    if found.items is str:
        return st.lists(st.sampled_from(["*", "a", "blocks.[0-5]", "det_tokens"]), max_size=3).map(tuple)
    return st.sampled_from(["", "a", "/nowhere", "x" * 4096])


def complete(config):
    return read_recipe(config, DetectionConfig)


def recipe_with(key, value, variant="ti"):
    """A recipe, as nested dicts, with one changed value and few epochs, so that its plan is quick to compute."""
    return put(put(detection_recipe(variant).to_dict(), "train.epochs", 2), key, value)


def put(config, key, value):
    section, _, name = key.rpartition(".")
    (config[section] if section else config)[name] = value
    return config


def refusal(work):
    """The message of the `InputError` that `work` raises, or None; fails if `work` is slow or the message is long."""
    start = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sentence = None
    try:
        work()
    except InputError as error:
        sentence = str(error)
        assert len(sentence.splitlines()) == 1 and 10 < len(sentence) < 1000 and "\0" not in sentence, sentence
        sentence.encode()
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < KIBIBYTES
    return sentence


@functools.cache
def shapes_of(model):
    return abstract(model)[1]


def build(config):
    """Builds everything that a recipe describes, except for the images."""
    config = complete(config)
    model = recipe.model_of(config, 3)
    part(config.model, Compute)
    recipe.geometry_of(config, model)
    plan = recipe.plan_of(config, model, SIZES)
    plan.batch(len(plan) - 1)
    rates_of(config.optimizer, shapes_of(model))


@pytest.mark.parametrize("key", SETTINGS)
@settings(max_examples=20)
@given(value=ANY, text=TEXT | NUMBERS.map(str) | st.lists(NUMBERS.map(str), max_size=4).map(",".join))
def test_any_value_is_accepted_or_rejected_with_one_line(key, value, text):
    in_a_recipe, on_the_command_line = recipe_with(key, value), detection_recipe()
    on_the_command_line.train.epochs = 2
    sentences = refusal(lambda: complete(in_a_recipe)), refusal(lambda: assign(on_the_command_line, key, text))
    for sentence, config in zip(sentences, (in_a_recipe, on_the_command_line)):
        if sentence is None:
            refusal(functools.partial(build, config))
        else:
            assert sentence.startswith(f"{key} is ") or f"config.{key}" in sentence


@pytest.mark.parametrize("key", SETTINGS)
@settings(max_examples=8)
@given(data=st.data())
def test_valid_values_are_accepted_and_can_be_built(key, data):
    value = data.draw(fitting(SETTINGS[key]))
    config = recipe_with(key, value, "s")
    assert refusal(lambda: complete(config)) is None
    refusal(lambda: build(config))
    typed = detection_recipe("s")
    assign(typed, key, str(value))
    found = complete(typed)
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value and isinstance(found, bool) == isinstance(value, bool)


@settings(max_examples=60)
@given(data=st.data())
def test_valid_settings_can_be_built_in_any_combination(data):
    config = recipe_with("seed", 0)
    for key in data.draw(st.sets(st.sampled_from(sorted(SETTINGS)), min_size=2, max_size=12)):
        put(config, key, data.draw(fitting(SETTINGS[key])))
    refusal(lambda: build(config))


def test_the_largest_plan_can_be_built():
    """The recipe has the maximum numbers of sequence lengths, scales and buckets."""
    config = detection_recipe()
    config.model.update(patch_size=1, max_side=1024)
    config.data.update(max_side=1024, buckets=64, scales=tuple(range(925, 1025)), crop_range=(1, 2048))
    config.data.crop_sides = tuple(range(1900, 2000))
    config.train.epochs = 100_000
    assert refusal(lambda: build(config)) is None


@pytest.mark.parametrize("key", [key for key, found in SETTINGS.items() if found.type in (int, float)])
def test_errors_for_numbers_state_both_bounds(key):
    how = SETTINGS[key].setting
    values = [how.low - 1, how.high * 2, float("nan"), float("inf"), "x", True]
    if not SETTINGS[key].optional:
        values.append(None)
    for value in values:
        with pytest.raises(InputError, match=rf"^{key} is .*; it must be .* from .* to .*\.$"):
            complete(recipe_with(key, value))
