"""Pre-training settings have a separate table, but are declared and checked like detection settings."""

import json

import pytest

from yolos_jax.config.documentation import settings_page
from yolos_jax.config.reader import assign, read_any, setting_differences, to_json
from yolos_jax.config.recipes import CLASSIFICATION, DETECTION, detection_recipe, pretraining_recipe, task_of
from yolos_jax.config.recipes import SETTINGS as TABLES
from yolos_jax.errors import InputError
from yolos_jax.model.classifier_config import CLASSIFIERS

SETTINGS, OWN = TABLES[DETECTION], TABLES[CLASSIFICATION]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_defaults_are_complete(name):
    config = pretraining_recipe(name)
    assert task_of(config) == CLASSIFICATION and task_of(detection_recipe()) == DETECTION
    assert to_json(read_any(config)) == json.loads(json.dumps(config.to_dict()))
    assert read_any({"task": CLASSIFICATION, "model": dict(config.model)}) == read_any(config)
    with pytest.raises(InputError, match="there is no variant 'huge'; choose one of ti, s"):
        pretraining_recipe("huge")


def test_settings_of_the_other_task_are_rejected():
    assert not [key for key in SETTINGS if key.startswith("augment.") or key == "task"]
    assert not OWN.keys() & {"matcher", "model.det_tokens", "loss.giou", "data.scales", "optimizer.freeze"}
    with pytest.raises(InputError, match="no config.model.det_tokens; --help"):
        read_any({"task": CLASSIFICATION, "model": {"det_tokens": 3}})
    with pytest.raises(InputError, match="there is no config.augment.mixup"):
        assign(detection_recipe(), "augment.mixup", "0")
    with pytest.raises(InputError, match="no config.augment.mix_up; .* config.augment.mixup"):
        assign(pretraining_recipe(), "augment.mix_up", "0")
    with pytest.raises(InputError, match="config.augment is 3; it must be a group of settings"):
        read_any({"task": CLASSIFICATION, "augment": 3})
    with pytest.raises(InputError, match="there is no config.task"):
        read_any({"task": "segmentation"})


NUMBERS = [key for key, found in OWN.items() if SETTINGS.get(key) != found and found.type in (int, float)]


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_out_of_bounds_are_rejected(key):
    section, name = key.split(".")
    how = OWN[key].setting
    assert OWN[key].check(OWN[key].default) == OWN[key].default
    for value in (how.low - 1, how.high * 2, float("nan"), "x", True):
        with pytest.raises(InputError, match=f"^{key} is .*; it must be .* from .* to "):
            read_any({"task": CLASSIFICATION, section: {name: value}})


def test_settings_that_may_change_when_a_run_resumes():
    """The same settings may change as for a detector; none of them affects augmentation, mixing or stochastic depth."""
    free = {
        "init", "data.root", "data.train_split", "data.val_split", "data.on_bad_image", "data.workers", "data.ahead",
        "model.attention", "model.query_block", "model.remat", "train.accumulate", "train.max_steps",
        "train.log_every", "train.log", "train.curves", "eval.batch_size", "eval.every_epochs",
        "eval.compilation_cache", "eval.font", "eval.precision", "eval.backend", "model.unroll", "eval.least_steps",
        "train.patience", "checkpoint.every_steps", "checkpoint.keep",
    }  # fmt: skip
    for key in OWN.keys() - {"task"}:
        section, _, name = key.rpartition(".")
        new = pretraining_recipe().to_dict()
        (new[section] if section else new)[name] = "other"
        found = setting_differences(pretraining_recipe().to_dict(), new)
        assert found == [] if key in free else len(found) == 1 and found[0].startswith(f"{key} "), key


def test_settings_page_lists_both_tables():
    page = settings_page()
    own = page[page.index("# Pre-training settings") :]
    assert all(f"| `{key}` |" in own or f"`{key}`" in own for key in OWN)
    assert "| `train.epochs` | `300` |" in own and "| `train.epochs` | `150` |" in page
