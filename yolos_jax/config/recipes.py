"""The settings of a recipe in one tree: a detector's, and those of the classifier that it starts from.

A recipe file states its differences: `config = detection_recipe("s")`, and then `config.train.epochs = 10`. On the
command line the same is `--config.train.epochs=10`. `reader.read` makes the frozen dataclasses of this file of it,
complete and checked. Nothing here starts jax.
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
OWN = "no"  # `model.from_init` of a recipe that states its architecture
MORE_PRECISIONS = ("default", "high", "highest")  # jax's own words for products of float32


@dataclasses.dataclass(frozen=True)
class CommonConfig:
    """What every recipe has."""

    seed: int = setting(
        0, "seed of the starting weights, the order of images and their augmentation", low=0, high=2**63 - 1
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
        OWN, "leave the architecture to the weights of init: those settings of it that the recipe does not state are "
        "theirs, and this variant's where init is random; no: the recipe states them", choices=(OWN, *VARIANTS),
        resume=YES,
    )  # fmt: skip


# What `model.from_init` leaves to the weights; the number of classes is the data's.
ARCHITECTURE = tuple(each.name for each in dataclasses.fields(ArchitectureSettings) if each.name != "num_classes")


@dataclasses.dataclass(frozen=True)
class DetectionData(LoaderSettings, ViewSettings, AmountSettings, AnnotationSettings, SplitSettings):
    """`data.` of a detector."""


@dataclasses.dataclass(frozen=True)
class DetectionTrain(RunSettings):
    """`train.` of a detector."""

    images_per_replica: int = setting(
        1, "cross entropy is normalised in groups of this number of images", low=1, high=16_384
    )


@dataclasses.dataclass(frozen=True)
class DetectionConfig(CommonConfig):
    """A recipe of `yolos-train`."""

    init: str = setting(
        "reference", "starting weights: a checkpoint folder, a Hugging Face folder or hub id, .safetensors or .pth (of "
        "YOLOS, or of a ViT such as DeiT); or random ones: reference (the reference's, meant to be followed by DeiT's) "
        "or from_nothing (ours, which learn without pre-training); empty: to be given", path=True, address=True,
        resume=YES,
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
        0.1, "stochastic depth: how often the last block's branches are left out; the first one's never are", low=0,
        high=0.99, noun="a probability",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ClassificationData(LoaderSettings, AmountSettings, SplitSettings):
    """`data.` of a classifier."""

    root: str = setting(
        "data/imagenet", "a folder of class folders for each split, as train/CLASS/image.jpg, or a TFDS data set such "
        "as imagenet2012 in array_record", path=True, resume=YES, host=True,
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
        1, "repeated augmentation: views of an image in a batch (3 in DeiT's code); an epoch then has as many steps, "
        "of fewer images", low=1, high=64,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ClassificationLoss:
    """`loss.` of a classifier."""

    smoothing: float = setting(0.1, "share of each label that is spread over all classes", low=0, high=1)


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
        1024, "batch size that optimizer.learning_rate is meant for: it is scaled linearly for another one; 0 takes it "
        "as it is", low=0, high=1_000_000,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(CommonConfig):
    """A recipe of `yolos-pretrain`."""

    task: str = setting(CLASSIFICATION, "what the recipe trains", choices=(CLASSIFICATION,))
    init: str = setting(
        "reference", "starting weights: random ones, reference (DeiT's) or from_nothing (on one scale); or a "
        "checkpoint folder of a classifier of the same sizes", path=True, address=True,
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
"""What a user gives: what a recipe file returns, nested dicts such as a checkpoint's, or what `reader` made of them."""
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
        group = getattr(defaults, field.name)  # its values are the defaults
        for inner in dataclasses.fields(group):
            key = f"{field.name}.{inner.name}"
            found = Declared.of(key, inner, inner.metadata[KEY])
            grouped[key] = dataclasses.replace(found, default=getattr(group, inner.name))
    return loose | grouped


SETTINGS: dict[str, dict[str, Declared]] = {task: declared(kind) for task, kind in CONFIGS.items()}


def task_of(config: Recipe) -> str:
    """What a recipe trains; anything but a classifier's recipe is a detector's."""
    if isinstance(config, PretrainingConfig):
        return CLASSIFICATION
    given = config.get("task") if isinstance(config, Mapping | ConfigDict) else None
    return CLASSIFICATION if given == CLASSIFICATION else DETECTION


def require(config: Recipe, task: str) -> None:
    """`InputError` if a recipe trains something else."""
    if task_of(config) != task:
        what, program = ("classifier", "yolos-pretrain") if task == DETECTION else ("detector", "yolos-train")
        raise InputError(f"the recipe trains a {what}; give it to {program}.")


def detection_recipe(name: str = "ti", from_init: bool = False) -> ConfigDict:
    """The settings for a variant of the model, as the reference trains it.

    Args:
      name: of the variant, a key of `VARIANTS`.
      from_init: leave the architecture to the weights of `init`, which must then be given; what the recipe states of
        it must be theirs. The variant is built where `init` is random.

    Returns:
      A recipe for `yolos_jax.train`, to change and to pass on.

    Raises:
      InputError: there is no such variant.
    """
    config = _recipe(DETECTION, part(variant(name), ArchitectureSettings))
    if from_init:
        for key in ARCHITECTURE:
            del config.model[key]
        config.model.from_init, config.init = name, ""
    return config


def pretraining_recipe(name: str = "ti") -> ConfigDict:
    """The settings for pre-training the classifier that the variant `name` starts from, as DeiT's recipe does."""
    model = part(classifier_variant(name), ClassifierSettings)
    return _recipe(CLASSIFICATION, dataclasses.replace(model, num_classes=0))


def _recipe(task: str, model: Any) -> ConfigDict:
    """All defaults of a task, and a variant's architecture."""
    config = ConfigDict()
    values = {key: found.default for key, found in SETTINGS[task].items()}
    values |= {f"model.{name}": value for name, value in dataclasses.asdict(model).items()}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        found = SETTINGS[task][key]
        if found.optional:  # ConfigDict keeps types; None needs a field that knows which other one it has
            value = FieldReference(value, float if found.type is float else tuple)
        if found.items and found.setting.choices:  # a word, or a tuple
            value = FieldReference(value, object)
        (config[section] if section else config)[name] = value
    return config
