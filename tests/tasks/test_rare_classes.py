"""Repeat factors, compared with the formula of LVIS, and class weights of a data set."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolos_jax.data.examples import Example, ExampleTable
from yolos_jax.errors import InputError
from yolos_jax.objective.weights import LossWeights
from yolos_jax.tasks.rare_classes import class_weights_of, inverse_weights, rare_notes, repeats_of


def table_of(labels):
    """A table of examples; `labels` has a list of box labels for each image."""
    return ExampleTable(
        [
            Example(i, "", 9, 9, np.ones((len(own), 4), np.float32), np.int32(own), np.ones(len(own), np.float32))
            for i, own in enumerate(labels)
        ]
    )


def source_of(labels, classes):
    return SimpleNamespace(examples=table_of(labels), num_classes=classes, origin="data/a.json", label_names={0: "red"})


def factors_by_hand(labels, threshold):
    """r_i is the maximum over the classes c in i of max(1, sqrt(t / f_c)); f_c is the fraction of images with c."""
    found = []
    for own in labels:
        r = 1.0
        for c in own:
            f = sum(c in other for other in labels) / len(labels)
            r = max(r, math.sqrt(threshold / f))
        found.append(r)
    return found


@given(st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=30), st.floats(0.001, 1))
def test_factors_match_lvis(labels, threshold):
    repeats = repeats_of(table_of(labels), threshold)
    np.testing.assert_allclose(repeats.whole + repeats.shares / 65_536, factors_by_hand(labels, threshold), atol=1e-5)


def test_factors_of_a_small_example():
    """Class 1 is in 1 of 16 images, so its factor is sqrt(0.25 / (1 / 16)) = 2. Class 0 is in 15 and has factor 1."""
    labels = [[0, 0]] * 14 + [[0, 1, 1]] + [[]]
    repeats = repeats_of(table_of(labels), 0.25)
    assert repeats.whole.tolist() == [1] * 14 + [2, 1] and not repeats.shares.any()
    assert repeats.count == 17
    assert repeats_of(table_of(labels), 0.0) is None


def test_inverse_weights():
    assert inverse_weights(np.array([10, 20, 30, 0])) == (2.0, 1.0, 20 / 30, 1.0)
    assert inverse_weights(np.array([1, 10_000])) == (10.0, 5000.5 / 10_000)
    assert inverse_weights(np.array([100_000] + [1] * 99))[0] == 0.1
    assert inverse_weights(np.array([0, 0])) == (1.0, 1.0)


def test_class_weights_of_a_data_set():
    # The classes have 4, 2, 0 and 1 boxes; the mean of the nonzero counts is 7 / 3.
    source = source_of([[0, 0, 0], [1], [0, 1, 3]], 4)
    found = class_weights_of(LossWeights(class_weight="inverse", no_object=0.3), source)
    np.testing.assert_allclose(found.class_weight, [7 / 12, 7 / 6, 1, 7 / 3])
    assert found.no_object == 0.3
    none = LossWeights()
    assert class_weights_of(none, source) is none and none.class_weight == "none"
    given = LossWeights(class_weight=(1, 2, 0.5, 0))
    assert class_weights_of(given, source) is given
    assert rare_notes(None, none, source) == []
    sentences = rare_notes(repeats_of(source.examples, 1.0), found, source)
    assert sentences[0] == "with data.repeat_threshold, an epoch has 4 views of 3 images, at most 2 per image"
    assert sentences[1] == "loss.class_weight ranges from 0.583 (red) to 2.33 (3)"


@pytest.mark.parametrize("given", [(1.0, 2.0), (1.0,) * 5])
def test_rejects_a_wrong_number_of_class_weights(given):
    sentence = f"loss.class_weight has {len(given)} number.*data/a.json has 4 classes .labels 0 to 3.; set one number"
    with pytest.raises(InputError, match=sentence):
        class_weights_of(LossWeights(class_weight=given), source_of([[0]], 4))
