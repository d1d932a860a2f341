"""The settings of pre-training: a table of its own that shares the detector's mechanism and declarations."""

import pytest

from yolos_jax.config.kinds import Real, Whole
from yolos_jax.config.settings import (
    CLASSIFICATION,
    DETECTION,
    SETTINGS,
    TASKS,
    assign,
    complete,
    differences,
    get_classifier_config,
    get_config,
    markdown,
    task_of,
)
from yolos_jax.errors import InputError
from yolos_jax.model.classifier_config import CLASSIFIERS

OWN = TASKS[CLASSIFICATION]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_defaults_are_complete(name):
    config = get_classifier_config(name)
    assert complete(config) == config and task_of(config) == CLASSIFICATION and task_of(get_config()) == DETECTION
    assert complete({"task": CLASSIFICATION, "model": dict(config.model)}) == config
    with pytest.raises(InputError, match="there is no variant 'huge'; choose one of ti, s"):
        get_classifier_config("huge")


def test_neither_task_sees_the_others_settings():
    assert not [key for key in SETTINGS if key.startswith("augment.") or key == "task"]
    assert not OWN.keys() & {"matcher", "model.det_tokens", "loss.giou", "data.scales", "optimizer.freeze"}
    with pytest.raises(InputError, match="there is no config.model.det_tokens; --help lists all settings"):
        complete({"task": CLASSIFICATION, "model": {"det_tokens": 3}})
    with pytest.raises(InputError, match="there is no config.augment.mixup"):
        assign(get_config(), "augment.mixup", "0")
    with pytest.raises(InputError, match="there is no config.augment.mix_up; do you mean config.augment.mixup"):
        assign(get_classifier_config(), "augment.mix_up", "0")
    with pytest.raises(InputError, match="config.augment is 3; it must be a group of settings"):
        complete({"task": CLASSIFICATION, "augment": 3})
    with pytest.raises(InputError, match="there is no config.task"):
        complete({"task": "segmentation"})


@pytest.mark.parametrize("key", [key for key, s in OWN.items() if SETTINGS.get(key) != s and isinstance(s.kind, Real)])
def test_numbers_out_of_bounds_are_named(key):
    kind, section, name = OWN[key].kind, *key.split(".")
    assert isinstance(kind, Real | Whole) and kind.accept(OWN[key].default) == OWN[key].default
    for value in (kind.low - 1, kind.high * 2, float("nan"), "x", True):
        with pytest.raises(InputError, match=f"^{key} is .*; it must be .* of at least .* and at most "):
            complete({"task": CLASSIFICATION, section: {name: value}})


def test_what_may_change_when_a_run_goes_on():
    """As for a detector; what is random about views, mixing and depth may not."""
    free = {
        "init", "data.root", "data.train_split", "data.val_split", "data.on_bad_image", "data.workers", "data.ahead",
        "model.attention", "model.query_block", "model.remat", "train.accumulate", "train.max_steps",
        "train.log_every", "train.curves", "eval.batch_size", "eval.every_epochs", "eval.compilation_cache",
        "checkpoint.every_steps", "checkpoint.keep",
    }  # fmt: skip
    for key in OWN.keys() - {"task"}:
        section, _, name = key.rpartition(".")
        new = get_classifier_config().to_dict()
        (new[section] if section else new)[name] = "other"
        found = differences(get_classifier_config().to_dict(), new)
        assert found == [] if key in free else len(found) == 1 and found[0].startswith(f"{key} "), key


def test_the_page_lists_both_tables():
    page = markdown()
    own = page[page.index("# Settings of pre-training") :]
    assert all(f"| `{key}` |" in own or f"`{key}`" in own for key in OWN)
    assert "| `train.epochs` | `300` |" in own and "| `train.epochs` | `150` |" in page
