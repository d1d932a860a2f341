"""Writes the model cards of exported folders, which describe the weights and list their metrics."""

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from yolos_jax.errors import InputError
from yolos_jax.model.classifier_config import ClassifierConfig
from yolos_jax.model.config import YolosConfig
from yolos_jax.weights.hub import hub_address, hub_name
from yolos_jax.weights.huggingface_config import PLACEHOLDER
from yolos_jax.weights.image_processor import Sizes
from yolos_jax.weights.published import TITLES, variant_name
from yolos_jax.weights.tensor_files import read_json_object

EXAMPLE = "example.jpg"
# Images that a card shows, with their captions.
PICTURES = {
    "detections.jpg": f"Detections in {EXAMPLE}",
    "validation.jpg": "Validation images with their annotations (left) and detections (right)",
    "curves.png": "Training curves",
    EXAMPLE: "Example image",
}


class Presentation(NamedTuple):
    """License and images of a model card, and settings of its example code."""

    repository: str = ""  # `USER/NAME` on the hub; "" for a local folder, in which the code is run
    license: str = ""  # license identifier on the hub, such as `apache-2.0`
    pictures: Mapping[str, bytes] = {}  # image files next to the card, keyed by names in `PICTURES`
    threshold: float = 0.5  # minimum score of a detection in the card's code


PLAIN = Presentation()  # for a folder without images


class Provenance(NamedTuple):
    """Origin and metrics of weights."""

    origin: str = ""  # `org/name@commit` on the hub or the file that they were converted from; "" if they were trained
    step: int = 0  # training steps
    metrics: Mapping[str, float] = {}  # values keyed by metric name, such as AP (0..1); empty if none were recorded
    images: int | None = None  # number of evaluated images; None if not recorded
    data: str = ""  # name of the evaluated data, such as `val2017`; "" if not recorded


def recorded_provenance(folder: str | Path, step: int, extra: Mapping[str, Any], names: Sequence[str]) -> Provenance:
    """Returns the provenance of a checkpoint, with metrics from yolos-eval, or else from its training run.

    `extra` is its `Meta.extra`, and `names` are the names of the metrics, the main one first. Raises `InputError` if
    the folder has an `eval-STEP/metrics.json` that lacks one of them.
    """
    origin = str(extra.get("converted_from", ""))
    report = Path(folder) / f"eval-{step}" / "metrics.json"
    if report.is_file():
        values = read_json_object(report)
        for name in names:
            if not _is_number(values.get(name)):
                raise InputError(f"{report} has no valid value for {name}; evaluate again, or remove the file.")
        images = values.get("images")
        metrics = {name: values[name] for name in names}
        return Provenance(origin, step, metrics, images if type(images) is int else None, str(values.get("data", "")))
    evaluations = [found for found in extra.get("evaluations", []) if found.get("step") == step]
    last = evaluations[-1] if evaluations else {}
    metrics = {name: last[name] for name in names if _is_number(last.get(name))}
    if not metrics and _is_number(extra.get(names[0])):
        metrics = {names[0]: extra[names[0]]}  # recorded for the best checkpoint of a run
    return Provenance(origin, step, metrics, None, _evaluated_on(extra) if metrics else "")


def _evaluated_on(extra: Mapping[str, Any]) -> str:
    """Returns the name of the data that a run evaluated on, according to its recipe."""
    data = extra.get("config", {}).get("data", {})
    name = Path(data.get("val_annotations") or "").name or data.get("val_split", "")
    most = data.get("max_images")
    return f"{name}, at most {most} images" if name and most else name


def detector_card(
    config: YolosConfig, id2label: Mapping[str, str], sizes: Sizes, provenance: Provenance, presentation: Presentation
) -> str:
    """Returns a detector's README.md: YAML for the hub, followed by text. `id2label` is from its `config.json`."""
    variant = variant_name(config)
    title = f"YOLOS-{TITLES[variant]}" if variant else "YOLOS"
    variant = variant or "custom"
    base_model = hub_name(provenance.origin)
    origin = ""
    if provenance.origin:
        origin += f", converted from {base_model or Path(provenance.origin).name}"
    if provenance.step:
        origin += f" after {provenance.step} steps of training"
    text = _template("detector_card.md").format(
        title=title, origin=origin, variant=variant, config=config, grid=config.init_grid,
        named=sum(name not in (PLACEHOLDER, f"LABEL_{i}") for i, name in id2label.items()), sizes=sizes,
        mid="also added after every block except the last" if config.mid_grid else "only added before the first block",
        measured=_measured(provenance, "COCO metrics computed with pycocotools"), **_shown(presentation),
    )  # fmt: skip
    return _header(title, "object-detection", ["yolos"], provenance, presentation) + text


def classifier_card(config: ClassifierConfig, provenance: Provenance, presentation: Presentation) -> str:
    """Like `detector_card`, but for an image classifier."""
    title = "ViT"
    kind = "a plain ViT"
    timm = "VisionTransformer"
    if config.distilled:
        title = "DeiT"
        kind = "DeiT with a distillation token"
        timm = "VisionTransformerDistilled"
    measured = _measured(provenance, "Top-1 and top-5 accuracy")
    text = _template("classifier_card.md").format(
        title=title, kind=kind, timm=timm, config=config, step=provenance.step, measured=measured,
        **_shown(presentation),
    )  # fmt: skip
    return _header(title, "image-classification", [], provenance, presentation) + text


def _header(title: str, task: str, tags: Sequence[str], provenance: Provenance, presentation: Presentation) -> str:
    """Returns the YAML that the hub reads: the task, license, base model and metrics."""
    from huggingface_hub import EvalResult, ModelCardData

    data = provenance.data or "not recorded"
    results = [
        EvalResult(task, "custom", data, name, round(value, 6), metric_name=name)
        for name, value in provenance.metrics.items()
        if value >= 0  # -1 means undefined (no ground truth)
    ]
    widget = None
    if EXAMPLE in presentation.pictures and presentation.repository:
        address = f"{hub_address(presentation.repository)}/resolve/main/{EXAMPLE}"
        widget = [{"src": address, "example_title": "Example"}]
    header = ModelCardData(
        model_name=title, library_name="transformers", pipeline_tag=task, license=presentation.license or None,
        tags=[*tags, task, "vision", "yolos-jax"], base_model=hub_name(provenance.origin),
        eval_results=results or None, widget=widget,
    )  # fmt: skip
    return f"---\n{header.to_yaml()}\n---\n\n"


def _shown(presentation: Presentation) -> dict[str, Any]:
    """Returns the template fields for the code and images of a card."""
    repository, pictures = presentation.repository, presentation.pictures
    place = "" if repository else "Run the code in this folder. "
    hub, image = "", '"image.jpg"  # replace this with the path of your image'
    if EXAMPLE in pictures:
        image = f'"{EXAMPLE}"'
        if repository:
            hub = "from huggingface_hub import hf_hub_download\n"
            image = f'hf_hub_download("{repository}", "{EXAMPLE}")'
    links = {name: f"![{caption}]({name})\n\n" if name in pictures else "" for name, caption in PICTURES.items()}
    shown = {name.partition(".")[0]: link for name, link in links.items()}
    return shown | {
        "place": place, "hub": hub, "image": image, "model": repository or ".", "threshold": presentation.threshold,
    }  # fmt: skip


def _template(name: str) -> str:
    return resources.files("yolos_jax.weights").joinpath(name).read_text(encoding="utf-8")


def _measured(provenance: Provenance, what: str) -> str:
    """Returns a description of the metrics, which starts with `what`, and a table of their values."""
    if not provenance.metrics:
        return "No evaluation was recorded for these weights."
    where = "" if provenance.images is None else f" on {provenance.images} images"
    where += f" ({provenance.data})" if provenance.data else ""
    nothing = "; -1 means undefined (no ground truth)" if min(provenance.metrics.values()) < 0 else ""
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in provenance.metrics.items())
    return f"{what}{where}{nothing}.\n\n| metric | value |\n|---|---|\n{rows}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
