"""The model card of an exported folder: what the weights are and which numbers were measured with them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yolos_jax.errors import InputError
from yolos_jax.model.config import VARIANTS, YolosConfig
from yolos_jax.weights.files import read_json
from yolos_jax.weights.processor import Sizes
from yolos_jax.weights.published import with_classes

_TEXT = """
# {title}

[YOLOS](https://arxiv.org/abs/2106.00666), an object detector that is a plain Vision Transformer, written by
yolos-jax{origin}.

| setting | value |
|---|---|
| variant | {variant} |
| width, depth, heads | {config.width}, {config.depth}, {config.heads} |
| detection tokens | {config.det_tokens} |
| outputs | {config.num_classes} labels ({named} with a name) and "no object", which is the last |
| position embeddings | {grid[0]} x {grid[1]} patches of {config.patch_size} pixels, {mid} |
| LayerNorm epsilon | {config.layer_norm_eps:g} |
| images | short side {sizes.short_side}, long side at most {sizes.max_side} pixels; ImageNet's mean and std |

## Measured

{measured}

## Use

```python
from transformers import YolosForObjectDetection, YolosImageProcessor

processor = YolosImageProcessor.from_pretrained("FOLDER")
model = YolosForObjectDetection.from_pretrained("FOLDER")
```

```python
from yolos_jax import Detector

for found in Detector.load("FOLDER")(["image.jpg"], threshold=0.5):
    print(found.names, found.scores, found.boxes)
```
"""


_TITLES = {"ti": "YOLOS-Ti", "s": "YOLOS-S", "s_dwr": "YOLOS-S (dWr)", "b": "YOLOS-B"}


class Facts(NamedTuple):
    """What is known of a model's weights."""

    origin: str = ""  # the hub's `org/name@commit` or the file that they were converted from; "" for trained ones
    step: int = 0  # training steps done
    metrics: Mapping[str, float] = {}  # by name, such as COCO's numbers, 0..1; empty if none were recorded
    images: int | None = None  # on how many images; None if that was not recorded
    data: str = ""  # what those images are, such as `val2017`; "" if that was not recorded


def recorded_facts(folder: str | Path, step: int, extra: Mapping[str, Any], names: Sequence[str] = ()) -> Facts:
    """The facts of a checkpoint at a step, with its `Meta.extra`: eval.py's numbers, else those that its run recorded.

    Args:
      names: of the numbers; COCO's by default.

    Raises:
      InputError: there is an `eval-STEP/metrics.json` in the folder that holds no numbers.
    """
    if not names:
        from yolos_jax.evaluation.coco_metrics import NAMES as names  # brings pycocotools along

    origin = str(extra.get("converted_from", ""))
    report = Path(folder) / f"eval-{step}" / "metrics.json"
    if report.is_file():
        values = read_json(report)
        bad = [name for name in names if not _is_number(values.get(name))]
        if bad:
            raise InputError(f"{report} has no number for {bad[0]}; evaluate again, or put the file aside.")
        images = values["images"] if type(values.get("images")) is int else None
        return Facts(origin, step, {name: values[name] for name in names}, images, str(values.get("data", "")))
    evaluations = [e for e in extra.get("evaluations", []) if e.get("step") == step] or [{}]
    metrics = {name: evaluations[-1][name] for name in names if _is_number(evaluations[-1].get(name))}
    if not metrics and _is_number(extra.get(names[0])):
        metrics = {names[0]: extra[names[0]]}  # of the best checkpoint of a run
    return Facts(origin, step, metrics, None, _evaluated_on(extra) if metrics else "")


def _evaluated_on(extra: Mapping[str, Any]) -> str:
    """What a run evaluated on, by its recipe."""
    data = extra.get("config", {}).get("data", {})
    name = Path(data.get("val_annotations") or "").name or data.get("val_split", "")
    most = data.get("max_images")
    return f"{name}, at most {most} images" if name and most else name


def model_card(config: YolosConfig, id2label: Mapping[str, str], sizes: Sizes, facts: Facts) -> str:
    """The README.md: YAML for the hub, then text."""
    from huggingface_hub import EvalResult, ModelCardData

    from yolos_jax.weights.hub import hub_name
    from yolos_jax.weights.huggingface import NO_NAME

    same = (name for name, known in VARIANTS.items() if not known.differences(with_classes(config, known.num_classes)))
    variant = next(same, "")
    title = _TITLES.get(variant, "YOLOS")
    results = [
        EvalResult("object-detection", "custom", facts.data or "not recorded", name, round(value, 6), metric_name=name)
        for name, value in facts.metrics.items()
        if value >= 0  # -1: there was nothing to find
    ]
    base, tags = hub_name(facts.origin), ["yolos", "object-detection", "vision", "yolos-jax"]
    header = ModelCardData(
        model_name=title, library_name="transformers", pipeline_tag=tags[1], tags=tags, base_model=base,
        eval_results=results or None,
    )  # fmt: skip
    origin = f", converted from {base or Path(facts.origin).name}" if facts.origin else ""
    origin += f", after {facts.step} steps of training" if facts.step else ""
    named = sum(name != NO_NAME and name != f"LABEL_{i}" for i, name in id2label.items())
    mid = "also added after every block but the last" if config.mid_grid else "added before the first block only"
    text = _TEXT.format(
        title=title, origin=origin, variant=variant or "none of the paper's", config=config, named=named,
        grid=config.init_grid, mid=mid, sizes=sizes, measured=measured(facts, "COCO's numbers, by pycocotools"),
    )  # fmt: skip
    return f"---\n{header.to_yaml()}\n---\n{text}"


def measured(facts: Facts, what: str) -> str:
    """A sentence on where the numbers, which are `what`, are from, and a table of them."""
    if not facts.metrics:
        return "No evaluation was recorded with these weights."
    where = "" if facts.images is None else f" on {facts.images} images"
    where += f" of {facts.data}" if facts.data else ""
    nothing = "; -1 where there was nothing to find" if min(facts.metrics.values()) < 0 else ""
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in facts.metrics.items())
    return f"{what}{where}{nothing}.\n\n| number | value |\n|---|---|\n{rows}"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
