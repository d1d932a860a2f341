"""What stops a run."""

import numpy as np
import pytest

from yolos_jax.data.examples import Example
from yolos_jax.errors import InputError
from yolos_jax.objective.losses import LossTerms
from yolos_jax.training.loop import check_finite
from yolos_jax.training.step import StepReport

NOTHING = np.zeros((0, 4), np.float32)
IMAGES = [Example(i, f"{i}.jpg", 10, 10, NOTHING, NOTHING[:, 0], NOTHING[:, 0]) for i in (11, 22, 33)]


def report(finite, applied):
    return StepReport(LossTerms(*np.arange(6.0)), np.float32(1.5), np.array(finite), np.bool_(applied))


def test_a_good_step_says_nothing():
    check_finite(report([True] * 4, True), 7, IMAGES)


def test_only_the_images_with_broken_costs_are_named():
    """The fourth slot of the batch holds no image."""
    with pytest.raises(
        InputError, match=r"step 7: the matching costs of image id 22 are not finite .*Nothing was saved"
    ):
        check_finite(report([True, False, True, True], False), 7, IMAGES)


def test_a_broken_loss_names_the_whole_batch():
    with pytest.raises(InputError, match="loss, gradients or updated parameters of image id 11, 22, 33 are"):
        check_finite(report([True] * 4, False), 7, IMAGES)
