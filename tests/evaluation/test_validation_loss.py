"""Compares the validation loss with the set loss of all images as one batch."""

import jax.numpy as jnp
import numpy as np
import pytest
from made_coco import coco_split, make_coco

from yolos_jax.data.detection_batches import pack_targets
from yolos_jax.evaluation.validation_loss import IMAGES, ValidationLoss
from yolos_jax.objective.losses import Targets, set_loss
from yolos_jax.objective.weights import LossWeights

WEIGHTS = LossWeights(ce=1.5, bbox=4.0, giou=3.0, no_object=0.2)


@pytest.mark.parametrize("images", [1, IMAGES, 2 * IMAGES + 3])
def test_matches_the_loss_of_one_batch(tmp_path, images):
    make_coco(tmp_path, [(64, 48)] * images)
    examples = coco_split(tmp_path, "train2017").examples
    random = np.random.default_rng(0)
    logits = random.normal(size=(images, 7, 11)).astype(np.float32)
    boxes = random.uniform(0.2, 0.4, size=(images, 7, 4)).astype(np.float32)
    loss = ValidationLoss(examples, "host", WEIGHTS)
    for order in (range(images), random.permutation(images)):
        summed = loss.begin()
        for index in order:
            summed.add(int(index), logits[index], boxes[index])
        packed = pack_targets([examples[i] for i in range(images)], images, int(examples.counts.max()))
        targets = Targets(**{name: jnp.asarray(x) for name, x in packed.items()})
        whole = set_loss(jnp.asarray(logits), jnp.asarray(boxes), targets, 1, "host", weights=WEIGHTS)[0]
        assert summed.total() == pytest.approx(float(whole.total), rel=1e-5)


def test_nan_without_images(tmp_path):
    make_coco(tmp_path, [(64, 48)])
    assert np.isnan(ValidationLoss(coco_split(tmp_path, "train2017").examples, "host", WEIGHTS).begin().total())
