"""The settings of recipes that train a detector or pre-train a classifier.

A recipe file starts from defaults, `config = detection_recipe("s")`, and changes some of them, as in
`config.train.epochs = 10`. The command line can do the same with `--config.train.epochs=10`. `reader.read_recipe`
completes and checks the recipe and converts it to the frozen dataclasses of this file, which do not import jax.
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
OWN = "no"  # `model.from_init` in a recipe that specifies its architecture
MORE_PRECISIONS = ("default", "high", "highest")  # jax's names for the precision of float32 matrix products


@dataclasses.dataclass(frozen=True)
class CommonConfig:
    """Settings that both tasks share."""

    seed: int = setting(
        0, "random seed for the initial weights, the order of images and augmentation", low=0, high=2**63 - 1
    )
    precision: str = setting(
        "float32", "precision of training: float32; tensorfloat32 (float32 matrix products use the tensor cores of "
        "GPUs); bfloat16 (for the activations and matrix products of the transformer; parameters, "
        "normalisation statistics and heads stay in float32)",
        choices=(*PRECISIONS, *MORE_PRECISIONS),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DetectorModel(DetectorComputeSettings, ArchitectureSettings):
    """The group `model` of a detector's recipe."""

    from_init: str = setting(
        OWN, "name of a variant: use the architecture of the weights in init, except for settings in the recipe, or "
        "the variant itself if init is random; no: the recipe specifies the architecture", choices=(OWN, *VARIANTS),
        resume=YES,
    )  # fmt: skip


# Settings that are read from the weights with `model.from_init`; the number of classes is read from the data.
ARCHITECTURE = tuple(each.name for each in dataclasses.fields(ArchitectureSettings) if each.name != "num_classes")


@dataclasses.dataclass(frozen=True)
class DetectionData(LoaderSettings, ViewSettings, AmountSettings, AnnotationSettings, SplitSettings):
    """The group `data` of a detector's recipe."""


@dataclasses.dataclass(frozen=True)
class DetectionTrain(RunSettings):
    """The group `train` of a detector's recipe."""

    images_per_replica: int = setting(
        1, "number of images in each group over which cross entropy is normalised", low=1, high=16_384
    )


@dataclasses.dataclass(frozen=True)
class DetectionConfig(CommonConfig):
    """A recipe of `yolos-train`."""

    init: str = setting(
        "reference", "initial weights: a checkpoint folder, a Hugging Face folder or hub id, or a .safetensors or .pth "
        "file (of YOLOS, or of a ViT such as DeiT); or a random initialisation: reference (as in the reference "
        "implementation, meant to be combined with DeiT's weights) or from_nothing (for training without pre-training);"
        " empty: must be set", path=True, address=True, resume=YES, host=True,
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
    """The group `model` of a classifier's recipe."""

    num_classes: int = redeclared(ClassifierSettings, "num_classes", 0)
    drop_path: float = setting(
        0.1, "stochastic depth: drop probability in the last block; it increases linearly from 0 in the first", low=0,
        high=0.99, noun="a probability",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ClassificationData(LoaderSettings, AmountSettings, SplitSettings):
    """The group `data` of a classifier's recipe."""

    root: str = setting(
        "data/imagenet", "folder with class folders for each split, such as train/CLASS/image.jpg, or with a TFDS data "
        "set in array_record format, such as imagenet2012", path=True, resume=YES, host=True,
    )  # fmt: skip
    train_split: str = redeclared(SplitSettings, "train_split", "train")
    val_split: str = redeclared(SplitSettings, "val_split", "val")
    crop_share: float = setting(
        0.875, "evaluation: ratio of model.image_size to the short side to which images are resized before the centre "
        "crop", low=0.1, high=1,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ClassificationTrain(RunSettings):
    """The group `train` of a classifier's recipe."""

    batch_size: int = redeclared(RunSettings, "batch_size", 1024)
    epochs: int = redeclared(RunSettings, "epochs", 300)


@dataclasses.dataclass(frozen=True)
class ClassificationAugment(MixingSettings, ClassViewSettings):
    """The group `augment` of a classifier's recipe."""

    repeats: int = setting(
        1, "repeated augmentation: number of views of each image in a batch (3 in DeiT's code); an epoch has the same "
        "number of steps but uses fewer images", low=1, high=64,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ClassificationLoss:
    """The group `loss` of a classifier's recipe."""

    smoothing: float = setting(0.1, "label smoothing", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class ClassificationOptimizer(ScheduleSettings):
    """The group `optimizer` of a classifier's recipe."""

    learning_rate: float = redeclared(ScheduleSettings, "learning_rate", 1e-3)
    min_lr: float = redeclared(ScheduleSettings, "min_lr", 1e-5)
    schedule: str = redeclared(ScheduleSettings, "schedule", "step")
    warmup_epochs: float = redeclared(ScheduleSettings, "warmup_epochs", 5.0)
    weight_decay: float = redeclared(ScheduleSettings, "weight_decay", 0.05)
    clip_norm: float = redeclared(ScheduleSettings, "clip_norm", 0.0)
    rate_batch: int = setting(
        1024, "batch size for which optimizer.learning_rate is specified; for other batch sizes, it is scaled "
        "linearly; 0: no scaling", low=0, high=1_000_000,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(CommonConfig):
    """A recipe of `yolos-pretrain`."""

    task: str = setting(CLASSIFICATION, "the task of the recipe", choices=(CLASSIFICATION,))
    init: str = setting(
        "reference", "initial weights: a random initialisation, reference (as in DeiT's code) or from_nothing (with "
        "the same scale for all parameters); or a checkpoint folder of a classifier with the same architecture",
        path=True, address=True,
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
"""A recipe: a ConfigDict from a recipe file, nested dicts as in a checkpoint, or a config from `reader`."""
CONFIGS: dict[str, type[DetectionConfig] | type[PretrainingConfig]] = {
    DETECTION: DetectionConfig, CLASSIFICATION: PretrainingConfig,
}  # fmt: skip


def declared(kind: type) -> dict[str, Declared]:
    """The settings of a config class by dotted key: top-level settings first, then the groups."""
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
    """The task of a recipe, which is detection unless its `task` is classification."""
    if isinstance(config, PretrainingConfig):
        return CLASSIFICATION
    given = config.get("task") if isinstance(config, Mapping | ConfigDict) else None
    return CLASSIFICATION if given == CLASSIFICATION else DETECTION


def require(config: Recipe, task: str) -> None:
    """Raises `InputError` unless a recipe has the given task."""
    if task_of(config) != task:
        what, program = ("classifier", "yolos-pretrain") if task == DETECTION else ("detector", "yolos-train")
        raise InputError(f"the recipe trains a {what}; use it with {program}.")


def detection_recipe(name: str = "ti", from_init: bool = False) -> ConfigDict:
    """The reference implementation's recipe for a variant of the model.

    Args:
      name: name of the variant, a key of `VARIANTS`.
      from_init: use the architecture of the weights in `init`, which must then be set. Architecture settings that are
        added to the recipe must match the weights. If `init` is random, the model is the variant itself.

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
    """A recipe with all defaults of a task and the architecture of a variant."""
    config = ConfigDict()
    values = {key: found.default for key, found in SETTINGS[task].items()}
    values |= {f"model.{name}": value for name, value in dataclasses.asdict(model).items()}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        found = SETTINGS[task][key]
        if found.optional:  # ConfigDict checks types, so a value that may be None needs a field with the other type
            value = FieldReference(value, float if found.type is float else tuple)
        if found.items and found.setting.choices:  # a string or a tuple
            value = FieldReference(value, object)
        (config[section] if section else config)[name] = value
    return config
