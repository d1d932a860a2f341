"""The differences that a resumed run reports or rejects, and its progress in steps."""

import copy
from types import SimpleNamespace

import pytest
from tiny_weights import TINY

from yolos_jax.config.reader import setting_differences as other_settings
from yolos_jax.config.recipes import detection_recipe
from yolos_jax.errors import InputError
from yolos_jax.tasks.detection import other_data
from yolos_jax.training.resume import refuse_differences
from yolos_jax.training.task import Differences, Identity

DATA = {"fingerprint": "f", "images": 8}
FACTS = {"config": detection_recipe().to_dict(), "data": DATA, "order": 1, "versions": {"a": "1"}}
NAMES = {1: "cat", 2: "dog", 3: "cow"}


def identity_of(names=NAMES, **changes):
    return Identity(**FACTS | changes, model=TINY, label_names=names)


def compared(accept=False, found=(), **changes):
    """Resumes at step 12 with changed settings, 5 steps per epoch and 50 steps in total; returns the notes."""
    facts = copy.deepcopy(FACTS)
    for key, value in changes.items():
        section, _, name = key.partition("__")
        facts["config"][section][name] = value
    now = identity_of(config=facts["config"])

    def differences(before):
        fixed = other_settings(before.config, now.config, never=True)
        return Differences([], fixed, other_settings(before.config, now.config) + list(found))

    task = SimpleNamespace(differences=differences, identity=lambda: now, steps_per_epoch=5, steps=50)
    return refuse_differences(identity_of().meta(12), task, accept)


def test_no_notes_for_the_same_run():
    assert compared() == [] and other_data(DATA, NAMES, identity_of()) == []


@pytest.mark.parametrize("changes", [{"train__batch_size": 16}, {"train__epochs": 10}])
def test_differences_explain_that_progress_is_counted_in_steps(changes):
    unit = (
        "; progress is counted in steps: the new recipe has 5 steps per epoch and 50 in total, and would resume at "
        "step 12 in epoch 2, with the learning rate scheduled for that step"
    )
    with pytest.raises(InputError, match="the run that wrote step 12 differs: ") as error:
        compared(**changes)
    assert unit in str(error.value) and "--accept_differences" in str(error.value)
    (note,) = compared(accept=True, **changes)
    assert note.startswith("accepted difference: train.") and note.endswith(f"{unit}.")
    with pytest.raises(InputError) as error:
        compared(optimizer__weight_decay=0.5)
    assert "progress" not in str(error.value)


def test_data_differences_are_rejected_or_accepted():
    with pytest.raises(InputError) as error:
        compared(found=["the names of 2 classes"], optimizer__weight_decay=0.5)
    assert "differs: optimizer.weight_decay 0.0001 vs. 0.5; the names of 2 classes." in str(error.value)
    assert compared(accept=True, found=["the names of 2 classes"]) == ["accepted difference: the names of 2 classes."]


def test_reports_changed_class_names():
    swapped = {1: "cat", 2: "cow", 3: "dog", 4: "hen"}  # an additional name is not a difference
    (found,) = other_data(DATA, swapped, identity_of())
    assert found == "the names of 2 classes ('dog' vs. 'cow', 'cow' vs. 'dog')"
    many, others = ({i: f"{letter}{i}" for i in range(9)} for letter in "ab")
    (found,) = other_data(DATA, others, identity_of(many))
    assert found.startswith("the names of 9 classes ('a0' vs. 'b0', ") and found.endswith("'a4' vs. 'b4', ...)")


def test_reports_changed_annotations_and_orientations():
    (found,) = other_data({"fingerprint": "g", "images": 9}, NAMES, identity_of())
    assert found == "the training annotations (8 images, fingerprint f, vs. 9 images, fingerprint g)"
    now = DATA | {"turned": "upright"}
    (found,) = other_data(now, NAMES, identity_of())  # older runs read all images as stored
    assert "fingerprint f, EXIF-rotated images read as stored, vs. 8 images" in found
    assert found.endswith("EXIF-rotated images read as upright)")
    assert other_data(now, NAMES, identity_of(data=now)) == []
