"""Tests reading and writing preprocessor_config.json, category ids, and the model card."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_weights import TINY, huggingface_folder, random_params

from yolos_jax import Detector
from yolos_jax.errors import InputError
from yolos_jax.evaluation.coco_metrics import NAMES
from yolos_jax.images.sequence import pack, resize, resized_size
from yolos_jax.inference.loading import load_model
from yolos_jax.model.config import Compute
from yolos_jax.model.yolos import abstract, apply
from yolos_jax.programs.convert import provenance_of
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights import checkpoints, export_huggingface, recorded_provenance, sizes_of
from yolos_jax.weights.image_processor import MEAN, STD, Sizes, read_processor, write_processor
from yolos_jax.weights.model_card import Provenance

# As published with hustvl/yolos-tiny; older files (2022) set shortest and longest sides separately.
PUBLISHED = {
    "do_normalize": True,
    "do_resize": True,
    "image_processor_type": "YolosImageProcessor",
    "format": "coco_detection",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "size": {"shortest_edge": 512, "longest_edge": 1333},
}


def card_of(path):
    """Returns the text of a folder's model card, and its header as parsed by huggingface_hub."""
    from huggingface_hub import ModelCard

    card = ModelCard.load(path / "README.md")
    return card.text, card.data


def with_processor(path, values):
    made = huggingface_folder(path)
    text = values if isinstance(values, str) else json.dumps(values)
    (made / "preprocessor_config.json").write_text(text)
    return made


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, (512, 1333)),
        ({"size": 800, "max_size": 1333}, (800, 1333)),
        ({"size": 640}, (640, 1333)),
        ({"size": {"longest_edge": 864, "shortest_edge": 816}, "do_pad": True, "pad_size": None}, (816, 864)),
        ({"size": None}, (800, 1333)),
        ({"resample": 2, "do_rescale": True, "rescale_factor": 0.00392156862745098}, (512, 1333)),
        ({"rescale_factor": 0.0039216}, (512, 1333)),
    ],
)
def test_supported_sizes(changes, sizes):
    values = {key: value for key, value in (PUBLISHED | changes).items() if value is not None}
    assert read_processor(values, "x") == sizes


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"do_normalize": False}, "do_normalize is False"),
        ({"do_resize": False}, "do_resize is False"),
        ({"do_rescale": 0}, "do_rescale is 0"),
        (
            {"image_mean": [0.5, 0.5, 0.5]},
            r"image_mean is \[0\.5, 0\.5, 0\.5\], but the model normalises with \[0\.485",
        ),
        ({"image_std": 0.5}, "image_std is 0.5"),
        ({"image_std": [0.229, 0.224, "x"]}, "image_std is"),
        ({"image_mean": [0.485, 0.456, True]}, "image_mean is"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor is 0.0078"),
        ({"rescale_factor": None}, "rescale_factor is None"),
        ({"resample": 3}, r"resample is 3, but .* 2 \(bilinear\)"),
        ({"size": [30, 30]}, r"size is \[30, 30\], but aspect ratios are kept"),
        ({"size": {"height": 512, "width": 512}}, "size is {'height': 512, 'width': 512}"),
        ({"size": {"shortest_edge": 800}}, "size is {'shortest_edge': 800}"),
        ({"size": {"shortest_edge": "800", "longest_edge": 1333}}, "shortest_edge is '800'; it must be a whole number"),
        ({"size": {"shortest_edge": 0, "longest_edge": 1333}}, "shortest_edge is 0; it must be a whole number between"),
        ({"size": {"shortest_edge": 800, "longest_edge": 10**12}}, "longest_edge is 1000000000000; it must be"),
        ({"size": {"shortest_edge": 800.5, "longest_edge": 1333}}, "shortest_edge is 800.5"),
        ({"size": True}, "size is True"),
        ({"size": 800, "max_size": float("nan")}, "longest_edge is nan"),
    ],
)
def test_rejects_unsupported_settings(tmp_path, changes, sentence):
    made = with_processor(tmp_path / "hf", PUBLISHED | changes)
    with pytest.raises(InputError, match=f"preprocessor_config.json of {made} .*{sentence}.*fix or remove"):
        Detector.load(made)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"size": ' + "9" * 5000 + "}"])
def test_rejects_damaged_files(tmp_path, text):
    with pytest.raises(InputError, match=r"preprocessor_config\.json (cannot be read as JSON|.* a JSON object)"):
        Detector.load(with_processor(tmp_path / "hf", text))


def test_detector_uses_sizes(tmp_path):
    made = with_processor(tmp_path / "hf", PUBLISHED | {"size": {"shortest_edge": 64, "longest_edge": 120}})
    assert Detector.load(made).geometry[:2] == (64, 120)
    assert Detector.load(made, short_side=48).geometry[:2] == (48, 79)
    assert Detector.load(made, max_side=90).geometry[:2] == (64, 90)
    params, meta = load_model(made)
    checkpoints.save(tmp_path / "ours", 0, params, meta)
    assert Detector.load(tmp_path / "ours").geometry[:2] == (64, 120)
    # sides above the default limit for resized position embeddings are allowed
    large = with_processor(tmp_path / "large", PUBLISHED | {"size": {"shortest_edge": 800, "longest_edge": 1600}})
    assert load_model(large)[1].max_side == 200  # patches of 8 pixels
    assert Detector.load(large).geometry.model_max_side == 200
    image = np.random.default_rng(0).integers(0, 256, (8, 1600, 3), np.uint8)
    graph = abstract(TINY, Compute(max_side=200))[0]
    want = apply(graph, random_params(TINY), *pack([image], 200, 1, 8))
    np.testing.assert_allclose(Detector.load(large).forward([image])[1], want.boxes, atol=1e-5)
    none = Detector.load(huggingface_folder(tmp_path / "none"), max_side=400, short_side=300)
    assert none.config == TINY and none.geometry.model_max_side == 84


def test_sizes_of_checkpoint():
    assert sizes_of({}) is None and sizes_of({"config": {}}) is None
    assert sizes_of({"config": {"data": {"short_side": 512, "max_side": 0}}}) == (512, 853)
    assert sizes_of({"config": {"data": {"short_side": 512, "max_side": 900}}}) == (512, 900)
    assert sizes_of({"processor": {"short_side": 512, "max_side": 1333}}) == (512, 1333)


def test_category_ids_round_trip(tmp_path):
    params, ids = random_params(TINY), (18, 1, 90, 0)
    export_huggingface(params, TINY, {0: "dog"}, tmp_path / "hf", ids)
    found = load_model(tmp_path / "hf")[1]
    assert found.category_ids == ids and found.label_names == {0: "dog"}
    detector = Detector.load(tmp_path / "hf", short_side=64, max_side=96)
    (seen,) = detector([np.zeros((50, 60, 3), np.uint8)], threshold=0.0)
    assert set(seen.labels) <= set(ids)
    values = json.loads((tmp_path / "hf" / "config.json").read_text())
    for bad in ([18, 1, 90], [1, 1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, 4.0], "1234", [1, 2, 3, 2**70], {"0": 1}):
        (tmp_path / "hf" / "config.json").write_text(json.dumps(values | {"category_ids": bad}))
        with pytest.raises(InputError, match="invalid category_ids; they must be 4 distinct whole numbers"):
            load_model(tmp_path / "hf")


def test_card_contains_metrics(tmp_path):
    numbers = {name: i / 16 for i, name in enumerate(NAMES)} | {"APl": -1.0}
    (tmp_path / "run" / "eval-70").mkdir(parents=True)
    report = tmp_path / "run" / "eval-70" / "metrics.json"
    report.write_text(json.dumps(numbers | {"checkpoint": "/home/me/run", "step": 70, "images": 5000, "skipped": []}))
    provenance = recorded_provenance(tmp_path / "run", 70, {"config": {"data": {"val_split": "val2017"}}}, NAMES)
    assert provenance.metrics == numbers and provenance.images == 5000
    export_huggingface(
        random_params(TINY), TINY, {0: "dog", 1: "N/A"}, tmp_path / "hf", sizes=Sizes(64, 96), provenance=provenance
    )
    text, data = card_of(tmp_path / "hf")
    assert (
        "| AP50 | 0.0625 |" in text
        and "| APl | -1.0000 |" in text
        and "with pycocotools on 5000 images; -1 means" in text
    )
    assert "after 70 steps of training" in text and "/home/me" not in text
    assert "short side 64, long side at most 96 pixels" in text and "4 labels (1 with a name)" in text
    assert data.library_name == "transformers" and data.pipeline_tag == "object-detection"
    told = {result.metric_type: result.metric_value for result in data.eval_results}
    assert told == {name: value for name, value in numbers.items() if value >= 0}
    for bad in ("{}", json.dumps(numbers | {"AP": "0.5"}), json.dumps(numbers | {"AP": True}), "no"):
        report.write_text(bad)
        with pytest.raises(InputError, match=r"metrics\.json (has no valid value for AP|cannot be read)"):
            recorded_provenance(tmp_path / "run", 70, {}, NAMES)


def test_card_without_metrics_file(tmp_path):
    evaluations = [{"step": 5, "AP": 0.1, "AP50": 0.2}, {"step": 10, "AP": 0.25, "AP50": 0.5}]
    extra = {"evaluations": evaluations, "config": {"data": {"val_split": "val2017"}}}
    assert recorded_provenance("x", 10, extra, NAMES) == Provenance("", 10, {"AP": 0.25, "AP50": 0.5}, None, "val2017")
    assert recorded_provenance("x", 7, extra, NAMES).metrics == {}
    mine = {"val_split": "val2017", "val_annotations": "/home/me/mine.json", "max_images": 16}
    assert recorded_provenance("x", 5, extra | {"config": {"data": mine}}, NAMES).data == "mine.json, at most 16 images"
    assert recorded_provenance("x", 7, extra | {"AP": 0.125}, NAMES).metrics == {"AP": 0.125}
    lines = ['{"step": 7, "total": 2.0}', '{"step": 7, "val/AP": 0.5, "val/AP50": 0.75, "val/top1": 0.25}', "7", "{"]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))  # the checkpoint was saved before its evaluation
    meta = Meta(TINY, {}, 7, {"evaluations": evaluations})
    assert provenance_of(str(tmp_path), meta, NAMES) == Provenance("", 7, {"AP": 0.5, "AP50": 0.75})
    assert provenance_of(str(tmp_path), meta, ("top1", "top5")).metrics == {"top1": 0.25}
    export_huggingface(
        random_params(TINY), TINY, None, tmp_path / "a", provenance=recorded_provenance("x", 10, extra, NAMES)
    )
    assert "with pycocotools (val2017)." in card_of(tmp_path / "a")[0]

    provenance = recorded_provenance("x", 0, {"converted_from": "hustvl/yolos-small@aaaaaaaaaaaa"}, NAMES)
    export_huggingface(random_params(TINY), TINY, None, tmp_path / "b", provenance=provenance)
    text, data = card_of(tmp_path / "b")
    assert "No evaluation was recorded for these weights." in text and data.eval_results is None
    assert data.base_model == "hustvl/yolos-small" and "converted from hustvl/yolos-small" in text
    provenance = recorded_provenance("x", 0, {"converted_from": "/home/me/secret place/yolos_ti.pth"}, NAMES)
    export_huggingface(random_params(TINY), TINY, None, tmp_path / "c", provenance=provenance)
    text, data = card_of(tmp_path / "c")
    assert "converted from yolos_ti.pth" in text and "/home/me" not in text and data.base_model is None


@pytest.mark.parity
@pytest.mark.parametrize("sizes", [Sizes(512, 1333), Sizes(800, 1333), Sizes(96, 160)])
def test_matches_the_transformers_image_processor(tmp_path, sizes):
    """The image processor of transformers returns the same sizes and pixels, except for padding."""
    pytest.importorskip("torch", reason="PyTorch is not installed (parity extra)")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (parity extra)")
    export_huggingface(random_params(TINY), TINY, None, tmp_path / "hf", sizes=sizes)
    for loader in (transformers.YolosImageProcessor, transformers.AutoImageProcessor):
        processor = loader.from_pretrained(tmp_path / "hf")
        assert (processor.size["shortest_edge"], processor.size["longest_edge"]) == sizes
    for width, height in ((120, 90), (90, 120), (64, 64)):
        image = Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))
        theirs = processor(images=image, return_tensors="np")["pixel_values"][0]
        size = resized_size(width, height, *sizes)
        assert theirs.shape[:0:-1] == size
        ours = (resize(image, size) / 255 - np.array(MEAN)) / np.array(STD)
        np.testing.assert_allclose(theirs.transpose(1, 2, 0), ours, atol=1e-5)
    # if the long side is limited, transformers rounds once less than the reference, so a side may be longer
    panorama = processor(images=Image.new("RGB", (300, 100)), return_tensors="np")["pixel_values"][0]
    assert 0 <= panorama.shape[2] - resized_size(300, 100, *sizes)[0] <= 16
    assert write_processor(sizes)["size"] == {"shortest_edge": sizes[0], "longest_edge": sizes[1]}
