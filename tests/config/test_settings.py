"""The settings of a recipe: keys, error messages, changes that a resumed run allows, and the documentation page."""

import inspect
import json
import subprocess
import sys

import numpy as np
import optax
import pytest
from micro_run import micro_config
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder
from reference_pack import ROOT

from yolos_jax.config.documentation import settings_page
from yolos_jax.config.reader import assign, read_recipe, setting_differences, to_json
from yolos_jax.config.recipes import DETECTION, DetectionConfig, detection_recipe
from yolos_jax.config.recipes import SETTINGS as TABLES
from yolos_jax.errors import InputError
from yolos_jax.model.config import VARIANTS

SETTINGS = TABLES[DETECTION]


def complete(recipe):
    return read_recipe(recipe, DetectionConfig)


@pytest.mark.parametrize(
    "key, text, sentence",
    [
        ("train.epochs", "9223372036854775808", "a whole number from 1 to 100000"),
        ("data.crop_range", "(1000000,1000000)", "a tuple of 2 whole numbers from 1 to 2048"),
        ("eval.batch_size", "1000000000", "to 1024"),
        ("model.depth", "1000000", "from 2 to 256"),
        ("model.det_tokens", str(2**63), "to 10000"),
        ("data.scales", "raw", "'raw'; it must be a tuple of 0 to 100 whole numbers"),
        ("data.scales", "(64,'a')", r"\"\(64,'a'\)\"; it must be a tuple"),
        ("data.flip", "1.5", "1.5; it must be a probability from 0 to 1"),
        ("matcher", "magic", "'magic'; choose one of host, device"),
        ("model.remat", "maybe", "'maybe'; it must be True or False"),
        ("data.root", "a\nb", r"'a\\nb'; it must be one line of UTF-8 text"),
        ("model.mid_pe_size", "Nothing", "or None"),
        ("optimizer.backbone_lr", "0", "from 1e-12 to 3e[+]38, or None"),
        ("optimizer.freeze", "(1, 2)", "a tuple of at most 100 single-line strings, such as"),
        ("train.log", "tensorboard,comet", "; choose any of tensorboard, wandb, mlflow, trackio"),
    ],
)
def test_messages_for_invalid_values(key, text, sentence):
    with pytest.raises(InputError, match=f"^{key} is .*{sentence}"):
        assign(detection_recipe("s"), key, text)


@pytest.mark.parametrize(
    "key, sentence",
    [
        ("train.learning_rate", "config.optimizer.learning_rate?"),
        ("train.epoch", "config.train.epochs?"),
        ("train.lr", "config.optimizer.learning_rate?"),
        ("data.batch_size", " config.train.batch_size or config.eval.batch_size?"),
        ("num_workers", "config.data.workers?"),
        ("modle.width", "config.model.width?"),
        ("batch_size", " config.train.batch_size or config.eval.batch_size?"),
        ("zzz", "there is no config.zzz; --help lists all settings."),
        ("a\nb", r"there is no config.a\nb; --help lists all settings."),
        ("loss", "config.loss is a group of settings: config.loss.ce, config.loss.bbox, config.loss.giou"),
    ],
)
def test_a_misspelt_key_gets_a_suggestion(key, sentence):
    with pytest.raises(InputError) as on_the_command_line:
        assign(detection_recipe(), key, "1")
    assert sentence in str(on_the_command_line.value)
    section, _, name = key.rpartition(".")
    with pytest.raises(InputError) as in_a_recipe:
        complete({section: {name: 1}} if section else {key: 1})
    assert sentence in str(in_a_recipe.value) or str(in_a_recipe.value).startswith(
        "config.loss is 1; it must be a group"
    )


def test_missing_keys_get_their_defaults():
    config = detection_recipe("s")
    del config.optimizer["clip_norm"]
    del config["loss"]
    found = complete(config)
    assert found == complete(detection_recipe("s")) and "loss" not in config
    assert complete({}) == complete({"model": {}}) == complete(detection_recipe("ti")) == DetectionConfig()


def test_mid_pe_size_can_be_unset_and_set_again():
    config = detection_recipe("s")
    assign(config, "model.mid_pe_size", "None")
    assert complete(config).model.mid_pe_size is None
    config.model.mid_pe_size = (64, 96)
    assert complete(config).model.mid_pe_size == (64, 96)
    with pytest.raises(InputError, match=r"model.mid_pe_size is \(64,\)"):
        assign(config, "model.mid_pe_size", "(64,)")


@pytest.mark.parametrize(
    "text, value",
    [
        ("det_tokens,blocks.[0-5]", ("det_tokens", "blocks.[0-5]")),
        ("( det_tokens , pos_embed.det )", ("det_tokens", "pos_embed.det")),
        ("['a', 'b.*']", ("a", "b.*")),
        ("[ab]*_head", ("[ab]*_head",)),
        ("", ()),
        ("()", ()),
        ("({[]: 1})", ("{[]: 1}",)),
    ],
)
def test_patterns_on_the_command_line(text, value):
    config = detection_recipe()
    assign(config, "optimizer.freeze", text)
    assert complete(config).optimizer.freeze == value


def test_tuples_of_choices():
    config = detection_recipe()
    assert complete(config).train.log == ("tensorboard",)
    for text, value in (("wandb", ("wandb",)), ("mlflow,wandb", ("mlflow", "wandb")), ("", ()), ("()", ())):
        assign(config, "train.log", text)
        assert complete(config).train.log == value == complete({"train": {"log": text}}).train.log
    with pytest.raises(InputError, match="^train.log is 'comet'; choose any of tensorboard, wandb, mlflow, trackio"):
        complete({"train": {"log": "comet"}})


def test_backbone_lr_can_be_unset():
    config = detection_recipe()
    config.optimizer.backbone_lr = 1e-5
    assert complete(config).optimizer.backbone_lr == 1e-5
    assign(config, "optimizer.backbone_lr", "none")
    assert complete(config).optimizer.backbone_lr is None


def test_unreadable_values():
    config = detection_recipe()
    config.optimizer.ratio = placeholder(float, required=True)
    with pytest.raises(InputError, match=r"config.optimizer cannot be read \(RequiredValueError: "):
        complete(config)
    for odd in (10**5000, [config], np.zeros((90, 90))):  # the first has too many digits to print
        with pytest.raises(InputError, match=r"^seed is .{1,120}; it must be a whole number"):
            complete({"seed": odd})
    for nothing in (None, 3, [1]):
        with pytest.raises(InputError, match="the config cannot be read"):
            complete(nothing)


def test_complete_does_not_change_its_argument_and_returns_plain_types():
    config = ConfigDict({"seed": np.int64(3), "data": {"flip": np.float32(0.5), "scales": [64, np.int32(80)]}})
    found = complete(config)
    assert found.data.scales == (64, 80) and type(found.seed) is int and type(found.data.flip) is float
    assert config.to_dict() == {"seed": 3, "data": {"flip": 0.5, "scales": [64, 80]}}


@pytest.mark.parametrize("name", VARIANTS)
def test_defaults_are_complete(name):
    config = detection_recipe(name)
    assert to_json(complete(config)) == json.loads(json.dumps(config.to_dict()))
    assert VARIANTS[name].to_dict().items() <= config.model.to_dict().items()


# Settings that may change when a run resumes, and settings that may differ between hosts, as in version 0.1.
FREE = {
    "init", "matcher", "eval.batch_size", "eval.every_epochs", "eval.compilation_cache", "eval.font",
    "eval.precision", "eval.backend",
    "checkpoint.every_steps", "checkpoint.keep", "data.root", "data.train_split", "data.val_split",
    "data.train_annotations",
    "data.val_annotations", "data.train_images", "data.val_images", "data.workers", "data.ahead", "data.on_bad_image",
    "data.names", "data.val_boxes", "data.short_side", "train.max_steps", "train.log_every", "train.accumulate",
    "train.curves", "train.log", "train.patience", "eval.least_steps", "model.max_side", "model.attention",
    "model.query_block", "model.remat", "model.unroll", "model.from_init",
}  # fmt: skip
OF_A_HOST = {
    "init", "data.root", "data.train_annotations", "data.val_annotations", "data.train_images", "data.val_images",
    "data.workers", "data.ahead", "eval.compilation_cache", "eval.font", "train.log",
}  # fmt: skip


@pytest.mark.parametrize("key", SETTINGS)
def test_settings_that_may_change(key):
    section, _, name = key.rpartition(".")
    old, new = detection_recipe().to_dict(), detection_recipe().to_dict()
    (new[section] if section else new)[name] = "other"
    found = setting_differences(old, new)
    assert not found if key in FREE else len(found) == 1 and found[0].startswith(f"{key} ")
    assert bool(setting_differences(old, new, hosts=True)) == (key not in OF_A_HOST)
    del (old[section] if section else old)[name]  # a checkpoint from before the key existed
    assert setting_differences(old, new) == found and not setting_differences(old, detection_recipe().to_dict())


def test_settings_that_can_never_change():
    """With these changes, the optimizer state would have different arrays."""
    old, new = detection_recipe().to_dict(), detection_recipe().to_dict()
    new["optimizer"] |= {"name": "lion", "freeze": ("norm",), "learning_rate": 1.0, "layer_decay": 0.5}
    new["data"]["short_side"] = 3
    found = setting_differences(old, new, never=True)
    assert found == ["optimizer.freeze [] vs. ['norm']", "optimizer.name adamw vs. lion"]
    assert not set(found) - set(setting_differences(old, new)) and len(setting_differences(old, new)) == 4


def test_differences_name_both_values():
    assert setting_differences({"seed": 0}, {"seed": 1}) == ["seed 0 vs. 1"]
    assert setting_differences({"data": {"scales": [64]}}, {"data": {"scales": (64,)}}) == []
    plain = {"data": {"scales": [], "short_side": 64}}
    assert setting_differences(plain, {"data": {"scales": [], "short_side": 80}}) == ["data.short_side 64 vs. 80"]
    assert setting_differences({"later": {"key": 3}}, {}) == ["later.key 3 vs. None"]


def test_optimizers_accept_the_same_arguments():
    for name in SETTINGS["optimizer.name"].setting.choices:
        assert {"learning_rate", "weight_decay", "mask"} <= inspect.signature(getattr(optax, name)).parameters.keys()


def test_settings_page_is_up_to_date():
    """The page is the output of `python -m yolos_jax.config.documentation`, which does not import jax."""
    page = "import sys; from yolos_jax.config.documentation import settings_page; print(settings_page(), end='')"
    check = f"{page}; assert 'jax' not in sys.modules"
    printed = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    assert printed == (ROOT / "docs" / "settings.md").read_text() == settings_page()
    assert all(f"\n| `{key}` | " in printed for key in SETTINGS)


def test_recorded_settings_compare_equal(tmp_path):
    config = complete(micro_config(tmp_path))
    assert not setting_differences(to_json(config), config)


def test_booleans_have_four_spellings():
    config = detection_recipe()
    for text, value in {"1": True, "0": False, "true": True, "False": False}.items():
        assign(config, "train.curves", text)
        assert complete(config).train.curves is value


def test_settings_have_a_meaning_and_unique_aliases():
    for table in TABLES.values():
        for key, found in table.items():
            assert len(found.setting.meaning) > 5 and found.check(found.default) == found.default, key
            others = [name for name, other in table.items() if set(found.setting.also) & set(other.setting.also)]
            assert not found.setting.also or others == [key], key


def test_class_weight_accepts_a_string_or_numbers():
    """Tests `loss.class_weight` in a recipe, on the command line and in a checkpoint."""
    config = detection_recipe()
    assert complete(config).loss.class_weight == "none"
    for text, value in (("inverse", "inverse"), ("1,2.5", (1, 2.5)), ("(0.5, 2)", (0.5, 2)), ("[3]", (3,))):
        assign(config, "loss.class_weight", text)
        assert complete(config).loss.class_weight == value
        config.loss.class_weight = value
        again = complete(json.loads(json.dumps(to_json(complete(config)))))
        assert again.loss.class_weight == value and not setting_differences(to_json(complete(config)), again)
    wanted = "choose one of none, inverse, or a tuple of numbers from 0 to 1000000, such as"
    for wrong in ("rare", "1,a", "-1,2", "nan", ""):
        with pytest.raises(InputError, match=f"^loss.class_weight is .*; {wanted}"):
            assign(config, "loss.class_weight", wrong)
