"""Images with an EXIF rotation: eval.py and predict.py agree, for files and for TFDS records."""

import json
import shutil

import numpy as np
import pytest
from compiled_once import compiled_once
from made_coco import box, make_coco
from made_tfds import CATEGORIES
from micro_run import micro_config
from PIL import Image
from tiny_weights import random_params

from yolos_jax.config.reader import read_recipe, to_json
from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.datasets.headers import ORIENTATION
from yolos_jax.datasets.tfds.build import build_records
from yolos_jax.tasks import recipe
from yolos_jax.tasks.base import run_facts
from yolos_jax.tasks.detection import data_facts
from yolos_jax.training import checkpoint_files
from yolos_jax.weights import checkpoints

STORED = [(64, 48)] * 8  # as stored; orientations 5 to 8 make them 48 wide and 64 high
AS_STORED = "--config.data.upright=no", "--config.data.sizes=images"
TALL, BOTH = [24, 30, 20, 30], [20, 4, 10, 10]  # the first box fits only in upright images


@pytest.fixture(scope="module", autouse=True)
def programs():
    with compiled_once():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(COCO folder, TFDS directory, checkpoint, recipe)."""
    folder = tmp_path_factory.mktemp("turned")
    boxes = [box(i + 10 * k, i, corners) for i in range(1, 9) for k, corners in enumerate((TALL, BOTH))]
    coco = make_coco(folder / "coco", STORED, "train2017", boxes, CATEGORIES)
    for number, path in enumerate(sorted((coco / "train2017").iterdir())):
        exif = Image.Exif()
        exif[ORIENTATION] = 5 + number % 4
        with Image.open(path) as image:
            image.load()
        image.save(path, exif=exif, quality=95)
    file = coco / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["width"], image["height"] = 48, 64
    file.write_text(json.dumps(content))
    shutil.copytree(coco / "train2017", coco / "val2017")
    shutil.copyfile(file, file.with_name("instances_val2017.json"))
    config = read_recipe(micro_config(coco, **{"model.num_classes": 0}), DetectionConfig)
    source = recipe.source_of(config, "train")
    model = recipe.model_of(config, source.num_classes)
    facts = run_facts(config, data_facts(source), 2)
    assert facts["data"]["turned"] == "upright"
    meta = checkpoint_files.Meta(model, source.label_names, 1, facts, None, config.model.max_side)
    checkpoints.save(folder / "run", 1, random_params(model), meta)
    (folder / "recipe.py").write_text(
        f"import sys\nsys.path.append({str(folder.parent)!r})\n"
        "from yolos_jax.config.recipes import detection_recipe as of\n"
        "def get_config():\n    config = of('ti')\n"
        f"    config.update_from_flattened_dict({dict(flat(to_json(config)))!r})\n    return config\n"
    )
    return coco, build_records(coco, folder / "tfds")[0], folder / "run", folder / "recipe.py"


def flat(config, before=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def found(results):
    """The boxes, scores and category ids of each image, best first."""
    out = {}
    for one in sorted(results, key=lambda r: -r["score"]):
        out.setdefault(one["image_id"], []).append([*one["bbox"], one["score"], one["category_id"]])
    return {image: np.array(rows) for image, rows in out.items()}


def evaluated(call, made, root, out, *flags):
    flags = [f"--config.data.root={root}", *flags]
    code, text, error = call("eval", "--config", made[3], "--checkpoint", made[2], "--out", out, *flags)
    assert code == 0, error
    return found(json.loads((out / "results.json").read_text())), text


def predicted(call, made, out, *flags):
    shared = "--threshold", 0, "--format", "coco", "--no-draw", "--out", out
    code, _, error = call("predict", made[0] / "train2017", "--checkpoint", made[2], *shared, *flags)
    assert code == 0, error
    return found(json.loads((out / "results.json").read_text()))


def same(one, other):
    assert one.keys() == other.keys() and len(one) == 8
    for image, rows in one.items():
        np.testing.assert_allclose(rows[:, :4], other[image][:, :4], rtol=0, atol=2e-3)
        np.testing.assert_allclose(rows[:, 4], other[image][:, 4], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(rows[:, 5], other[image][:, 5])


def test_evaluation_and_prediction_agree(made, call, tmp_path):
    coco, records, *_ = made
    upright, text = evaluated(call, made, coco, tmp_path / "e1")
    assert "8 images in" in text and "rotated upright" in text
    same(upright, predicted(call, made, tmp_path / "p1"))
    annotations = f"--config.data.val_annotations={coco / 'annotations' / 'instances_train2017.json'}"
    for name, flags in (("e2", [annotations]), ("e3", [])):
        of_records, text = evaluated(call, made, records, tmp_path / name, *flags)
        assert "rotated upright" in text
        same(upright, of_records)
    stored, text = evaluated(call, made, coco, tmp_path / "e4", *AS_STORED)
    assert "read as stored" in text
    same(stored, predicted(call, made, tmp_path / "p2", "--as-stored"))
    assert max(np.abs(stored[image] - upright[image]).max() for image in upright) > 1
