"""The settings of a recipe in one tree, for a detector and for the classifier that it starts from.

A recipe file contains its differences: `config = detection_recipe("s")`, and then `config.train.epochs = 10`. The
command line has the equivalent `--config.train.epochs=10`. `reader.read_recipe` turns the recipe into the frozen
dataclasses of this file, complete and checked. Nothing here starts jax.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from yolos_jax.accelerators.precision import PRECISIONS
from yolos_jax.config.values import Declared
from yolos_jax.data.settings import ClassViewSettings, LoaderSettings, MixingSettings, ViewSettings
from yolos_jax.datasets.settings import AmountSettings, AnnotationSettings, SplitSettings
from yolos_jax.errors import InputError
from yolos_jax.evaluation.settings import EvaluationSettings
from yolos_jax.model.classifier_config import ClassifierSettings, classifier_variant
from yolos_jax.model.config import VARIANTS, ArchitectureSettings, ComputeSettings, DetectorComputeSettings, variant
from yolos_jax.objective.weights import LossWeights
from yolos_jax.setting import KEY, YES, part, redeclared, setting
from yolos_jax.training.settings import CheckpointSettings, OptimizerSettings, RunSettings, ScheduleSettings

DETECTION, CLASSIFICATION = "detection", "classification"
OWN = "no"  # `model.from_init` in a recipe that states its architecture
MORE_PRECISIONS = ("default", "high", "highest")  # jax's names for float32 matrix products


@dataclasses.dataclass(frozen=True)
class CommonConfig:
    """Settings of every recipe."""

    seed: int = setting(
        0, "seed of the initial weights, the order of images and their augmentation", low=0, high=2**63 - 1
    )
    precision: str = setting(
        "float32", "precision of training: float32; tensorfloat32 (products of float32 on the tensor cores of GPUs); "
        "bfloat16 (activations and products of the transformer; parameters, statistics and heads are float32)",
        choices=(*PRECISIONS, *MORE_PRECISIONS),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DetectorModel(DetectorComputeSettings, ArchitectureSettings):
    """`model.` of a detector."""

    from_init: str = setting(
        OWN, "take the architecture from the weights in init, except for settings that the recipe states; a variant's "
        "name is used if init is random; no: the recipe states the architecture", choices=(OWN, *VARIANTS),
        resume=YES,
    )  # fmt: skip


# Settings that `model.from_init` takes from the weights; the number of classes comes from the data.
ARCHITECTURE = tuple(each.name for each in dataclasses.fields(ArchitectureSettings) if each.name != "num_classes")


@dataclasses.dataclass(frozen=True)
class DetectionData(LoaderSettings, ViewSettings, AmountSettings, AnnotationSettings, SplitSettings):
    """`data.` of a detector."""


@dataclasses.dataclass(frozen=True)
class DetectionTrain(RunSettings):
    """`train.` of a detector."""

    images_per_replica: int = setting(
        1, "group size, in images, for the normalisation of cross entropy", low=1, high=16_384
    )


@dataclasses.dataclass(frozen=True)
class DetectionConfig(CommonConfig):
    """A recipe of `yolos-train`."""

    init: str = setting(
        "reference", "initial weights: a checkpoint folder, a Hugging Face folder or hub id, .safetensors or .pth (of "
        "YOLOS, or of a ViT such as DeiT); or a random scheme: reference (the reference's, which expects DeiT's "
        "weights) or from_nothing (ours, which learns without pre-training); empty: must be set", path=True,
        address=True, resume=YES,
        host=True,
        also=("weights", "pretrained", "checkpoint"),
    )  # fmt: skip
    matcher: str = setting(
        "host", "where Hungarian matching runs: host (scipy in a callback) or device (inside the compiled program)",
        choices=("host", "device"), resume=YES,
    )  # fmt: skip
    model: DetectorModel = DetectorModel()
    data: DetectionData = DetectionData()
    train: DetectionTrain = DetectionTrain()
    loss: LossWeights = LossWeights()
    optimizer: OptimizerSettings = OptimizerSettings()
    eval: EvaluationSettings = EvaluationSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()


@dataclasses.dataclass(frozen=True)
class ClassifierModel(ComputeSettings, ClassifierSettings):
    """`model.` of a classifier."""

    num_classes: int = redeclared(ClassifierSettings, "num_classes", 0)
    drop_path: float = setting(
        0.1, "stochastic depth: drop probability of the last block's branches; rises linearly from 0", low=0,
        high=0.99, noun="a probability",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ClassificationData(LoaderSettings, AmountSettings, SplitSettings):
    """`data.` of a classifier."""

    root: str = setting(
        "data/imagenet", "class folders for each split, such as train/CLASS/image.jpg, or a TFDS data set such as "
        "imagenet2012 in array_record", path=True, resume=YES, host=True,
    )  # fmt: skip
    train_split: str = redeclared(SplitSettings, "train_split", "train")
    val_split: str = redeclared(SplitSettings, "val_split", "val")
    crop_share: float = setting(
        0.875, "evaluation: model.image_size over the short side that images are resized to before the centre is cut "
        "out", low=0.1, high=1,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ClassificationTrain(RunSettings):
    """`train.` of a classifier."""

    batch_size: int = redeclared(RunSettings, "batch_size", 1024)
    epochs: int = redeclared(RunSettings, "epochs", 300)


@dataclasses.dataclass(frozen=True)
class ClassificationAugment(MixingSettings, ClassViewSettings):
    """`augment.` of a classifier."""

    repeats: int = setting(
        1, "repeated augmentation: views of each image per batch (3 in DeiT's code); an epoch keeps its number of "
        "steps, with fewer images", low=1, high=64,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ClassificationLoss:
    """`loss.` of a classifier."""

    smoothing: float = setting(0.1, "label smoothing", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class ClassificationOptimizer(ScheduleSettings):
    """`optimizer.` of a classifier."""

    learning_rate: float = redeclared(ScheduleSettings, "learning_rate", 1e-3)
    min_lr: float = redeclared(ScheduleSettings, "min_lr", 1e-5)
    schedule: str = redeclared(ScheduleSettings, "schedule", "step")
    warmup_epochs: float = redeclared(ScheduleSettings, "warmup_epochs", 5.0)
    weight_decay: float = redeclared(ScheduleSettings, "weight_decay", 0.05)
    clip_norm: float = redeclared(ScheduleSettings, "clip_norm", 0.0)
    rate_batch: int = setting(
        1024, "batch size of optimizer.learning_rate, which is scaled linearly for other batch sizes; 0 for no "
        "scaling", low=0, high=1_000_000,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(CommonConfig):
    """A recipe of `yolos-pretrain`."""

    task: str = setting(CLASSIFICATION, "the task of the recipe", choices=(CLASSIFICATION,))
    init: str = setting(
        "reference", "initial weights: a random scheme, reference (DeiT's) or from_nothing (one common scale); or a "
        "checkpoint folder of a classifier with the same sizes", path=True, address=True,
        resume=YES, host=True,
    )  # fmt: skip
    model: ClassifierModel = ClassifierModel()
    data: ClassificationData = ClassificationData()
    train: ClassificationTrain = ClassificationTrain()
    augment: ClassificationAugment = ClassificationAugment()
    loss: ClassificationLoss = ClassificationLoss()
    optimizer: ClassificationOptimizer = ClassificationOptimizer()
    eval: EvaluationSettings = EvaluationSettings(batch_size=256)
    checkpoint: CheckpointSettings = CheckpointSettings()


Config = DetectionConfig | PretrainingConfig
Recipe: TypeAlias = ConfigDict | Mapping[str, Any] | Config
"""A user's recipe: a ConfigDict from a recipe file, nested dicts such as a checkpoint's, or a config from `reader`."""
CONFIGS: dict[str, type[DetectionConfig] | type[PretrainingConfig]] = {
    DETECTION: DetectionConfig, CLASSIFICATION: PretrainingConfig,
}  # fmt: skip


def declared(kind: type) -> dict[str, Declared]:
    """The settings of a config class by dotted key: those at its top, then its groups."""
    loose, grouped = {}, {}
    defaults = kind()
    for field in dataclasses.fields(kind):
        if KEY in field.metadata:
            loose[field.name] = Declared.of(field.name, field, field.metadata[KEY])
            continue
        group = getattr(defaults, field.name)  # contains the defaults
        for inner in dataclasses.fields(group):
            key = f"{field.name}.{inner.name}"
            found = Declared.of(key, inner, inner.metadata[KEY])
            grouped[key] = dataclasses.replace(found, default=getattr(group, inner.name))
    return loose | grouped


SETTINGS: dict[str, dict[str, Declared]] = {task: declared(kind) for task, kind in CONFIGS.items()}


def task_of(config: Recipe) -> str:
    """The task of a recipe; anything but a classifier's recipe is a detector's."""
    if isinstance(config, PretrainingConfig):
        return CLASSIFICATION
    given = config.get("task") if isinstance(config, Mapping | ConfigDict) else None
    return CLASSIFICATION if given == CLASSIFICATION else DETECTION


def require(config: Recipe, task: str) -> None:
    """Raises `InputError` if a recipe has another task."""
    if task_of(config) != task:
        what, program = ("classifier", "yolos-pretrain") if task == DETECTION else ("detector", "yolos-train")
        raise InputError(f"the recipe trains a {what}; use it with {program}.")


def detection_recipe(name: str = "ti", from_init: bool = False) -> ConfigDict:
    """The reference's recipe for a variant of the model.

    Args:
      name: name of the variant, a key of `VARIANTS`.
      from_init: take the architecture from the weights in `init`, which must then be set; settings of the architecture
        in the recipe must match them. If `init` is random, the variant is built.

    Returns:
      A mutable recipe for `yolos_jax.train`.

    Raises:
      InputError: the variant does not exist.
    """
    config = _recipe(DETECTION, part(variant(name), ArchitectureSettings))
    if from_init:
        for key in ARCHITECTURE:
            del config.model[key]
        config.model.from_init, config.init = name, ""
    return config


def pretraining_recipe(name: str = "ti") -> ConfigDict:
    """DeiT's recipe for pre-training the classifier that the variant `name` starts from."""
    model = part(classifier_variant(name), ClassifierSettings)
    return _recipe(CLASSIFICATION, dataclasses.replace(model, num_classes=0))


def _recipe(task: str, model: Any) -> ConfigDict:
    """All defaults of a task, with a variant's architecture."""
    config = ConfigDict()
    values = {key: found.default for key, found in SETTINGS[task].items()}
    values |= {f"model.{name}": value for name, value in dataclasses.asdict(model).items()}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        found = SETTINGS[task][key]
        if found.optional:  # ConfigDict keeps types, so None needs a field with its other type
            value = FieldReference(value, float if found.type is float else tuple)
        if found.items and found.setting.choices:  # a word, or a tuple
            value = FieldReference(value, object)
        (config[section] if section else config)[name] = value
    return config
