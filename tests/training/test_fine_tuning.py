"""Tests that the moving average of a short run on a few images scores as well as the parameters."""

import jax
import pytest
from micro_run import lines

from yolos_jax.config.recipes import detection_recipe
from yolos_jax.datasets import digits
from yolos_jax.tasks.detection import train


def few_images(root):
    """Writes 48 scenes of digits for the model to memorise, and returns their folder."""
    pytest.importorskip("sklearn", reason="the digits are part of scikit-learn")
    digits.write(root, train=48, val=8)
    return root


@pytest.mark.numbers
def test_average_matches_the_parameters_after_720_steps(tmp_path):
    config = detection_recipe("ti")
    config.init = "from_nothing"
    config.model.update(width=64, depth=2, heads=4, patch_size=8, max_side=8)
    config.model.update(det_tokens=10, num_classes=10, init_pe_size=(64, 64))
    root = str(few_images(tmp_path / "digits"))
    config.data.update(root=root, val_split="train2017", short_side=64, max_side=64, buckets=0, scales=(), workers=0)
    config.train.update(batch_size=8, images_per_replica=8, epochs=1, least_steps=720, ema=0.999, curves=False)
    config.optimizer.update(learning_rate=1e-3, schedule="step", warmup_steps=50, min_lr=1e-6)
    config.eval.update(batch_size=48, every_epochs=1, least_steps=720)
    assert train(config, tmp_path / "run", devices=jax.devices()[:1]).step == 720
    numbers = {key: value for line in lines(tmp_path / "run") for key, value in line.items()}
    averaged, raw = numbers["val/AP"], numbers["val_raw/AP"]
    assert raw > 0.5 and abs(averaged - raw) < 0.02
