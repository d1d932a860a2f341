"""Tests sizes, pixels and boxes of transforms against the reference, and the targets and patches of a batch."""

import functools

import numpy as np
import pytest
from made_coco import box, coco_split, make_coco
from PIL import Image
from reference_pack import arrays, data_folder

from yolos_jax.data.augment import Crop, Flip, Pipeline, Resize, Views, normalized_boxes
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.examples import Example
from yolos_jax.data.plan import EvaluationPlan
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.images.sequence import (
    Geometry,
    default_max_side,
    resize,
    resized_size,
    resized_sizes,
    to_patches,
)
from yolos_jax.model.yolos import normalize

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # ImageNet statistics


def test_pixels_and_targets_of_validation_images():
    z, source = arrays("transforms.npz"), val_source()
    by_name = {example.file.rsplit("/")[-1]: example for example in source.examples}
    for k, name in enumerate(z["img_files"]):
        example = by_name[str(name)]
        raw = np.asarray(source.read(example))
        assert raw.shape[:2] == tuple(z[f"img{k}_raw_hw"])
        y, x = z[f"img{k}_raw_pos"].T
        np.testing.assert_array_equal(raw[y, x], z[f"img{k}_raw_val"], err_msg="different JPEG decoder")
        for side in (512, 800):
            key = f"img{k}_e{side}"
            size = resized_size(example.width, example.height, side, default_max_side(side))
            assert size == tuple(z[f"{key}_shape"][:0:-1]) == tuple(z[f"{key}_size"][::-1])
            pipeline = Pipeline.of(Geometry.of(side, 0, 16, 84))
            view = pipeline.views([[example.width, example.height]], 0, 0).of(0)
            image = pipeline.pixels(source.read(example), view)
            np.testing.assert_array_equal(image, resize(source.read(example), size))
            patches = np.asarray(normalize(to_patches(image)))
            rows, columns = size[1] // 16, size[0] // 16
            pixels = patches.reshape(rows, columns, 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(size[1], size[0], 3)
            y, x = z[f"{key}_pos"].T
            np.testing.assert_allclose(pixels[y, x], z[f"{key}_val"], atol=1e-6, rtol=0)
            np.testing.assert_allclose(pixels.mean((0, 1), np.float64), z[f"{key}_mean"], atol=1e-5)
            if f"{key}_full" in z.files:
                np.testing.assert_allclose(pixels.transpose(2, 0, 1), z[f"{key}_full"], atol=1e-6, rtol=0)
            viewed = pipeline.boxes(example, view)
            np.testing.assert_array_equal(normalized_boxes(viewed), z[f"{key}_boxes"])
            np.testing.assert_array_equal(viewed.labels, z[f"{key}_labels"])
            np.testing.assert_allclose(viewed.area, z[f"{key}_area"], rtol=1e-6)


def given_view(z, n: int, width: int, height: int) -> tuple[Pipeline, Views]:
    """A view with the parameters of reference transform `n`, and a pipeline with the same operations."""

    def resized(size, key):
        side, most = (int(v) for v in z[f"t{n}_{key}"])
        return size if side < 0 else tuple(resized_sizes([size], side, None if most < 0 else most)[0].tolist())

    first = resized((width, height), "resize_first")
    top, left, crop_height, crop_width = (int(v) for v in z[f"t{n}_crop"])
    operations = [(Flip(), [int(z[f"t{n}_flip"] > 0)])]
    if top < 0:
        operations.append((Resize((16,), 16, name="first"), first))
        after = first
    else:
        operations.append((Crop(), [*first, left, top, crop_width, crop_height]))
        after = crop_width, crop_height
    last = resized(after, "resize_last")
    pipeline = Pipeline(Resize((16,), 16), before=tuple(operation for operation, _ in operations))
    return pipeline, Views(tuple(np.array(numbers, np.int32) for _, numbers in [*operations, (None, last)]), last)


def given_input(z, n: int) -> tuple[Image.Image, Example]:
    """The input image and targets of reference transform `n`."""
    name = str(z["t_source"][n])
    if name == "syn":
        image = Image.fromarray(z["syn_image"])
    else:
        source = val_source()
        image = source.read(next(e for e in source.examples if e.file.endswith(name)))
    boxes, labels, area = (z[f"t{n}_in_{key}"] for key in ("boxes", "labels", "area"))
    return image, Example(0, name, *image.size, boxes, labels.astype(np.int32), area)


@functools.cache
def val_source() -> DataSet:
    return coco_split(data_folder("coco_tiny80"), "val2017", 91)


@pytest.mark.parametrize("n", range(17))
def test_training_transforms_match_the_reference(n):
    z = arrays("transforms.npz")
    assert int(z["t_count"]) == 17
    image, example = given_input(z, n)
    pipeline, view = given_view(z, n, *image.size)
    pixels, viewed = pipeline.pixels(image, view), pipeline.boxes(example, view)
    normalized = bool(z[f"t{n}_normalize"])
    assert pixels.shape[:2] == (viewed.height, viewed.width) == tuple(z[f"t{n}_shape"]) == tuple(z[f"t{n}_size"])
    boxes = normalized_boxes(viewed) if normalized else viewed.boxes
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes, z[f"t{n}_boxes"])
    np.testing.assert_array_equal(viewed.labels, z[f"t{n}_labels"])
    np.testing.assert_allclose(viewed.area, z[f"t{n}_area"], rtol=1e-5, atol=0)
    if f"t{n}_image" in z.files:
        want = z[f"t{n}_image"]
        found = pixels
        want = want.transpose(1, 2, 0) if normalized else want
    else:
        y, x = z[f"t{n}_pos"].T
        want, found = z[f"t{n}_val"], pixels[y, x]
    if normalized:
        want = want * STD * 255 + MEAN * 255
        assert np.abs(want - want.round()).max() < 1e-3
        want = want.round()
    np.testing.assert_array_equal(found, want)
    if f"t{n}_mean" in z.files:
        mean = ((pixels / 255.0 - MEAN) / STD).mean((0, 1))
        np.testing.assert_allclose(mean, z[f"t{n}_mean"], atol=1e-5)


def test_reference_transforms_cover_every_step():
    """Ensures that the tests above apply every step at least once."""
    z = arrays("transforms.npz")
    for key in ("flip", "resize_first", "crop", "resize_last"):
        used = {bool(np.max(z[f"t{n}_{key}"]) > 0) for n in range(17)}
        assert used == {True, False}, key
    assert any(len(z[f"t{n}_boxes"]) < len(z[f"t{n}_in_boxes"]) for n in range(17))


def test_targets_are_relative_to_the_resized_image(tmp_path):
    root = make_coco(tmp_path, [(64, 48)], annotations=[box(1, 1, [16, 12, 32, 6])])
    source = coco_split(root, "train2017")
    plan = EvaluationPlan(source.examples.sizes, Pipeline.of(Geometry.of(48, 96, 16, 84)), 2, 1, multiple=2)
    loaded = detection_work(source, plan, 16, 84)(0)
    np.testing.assert_array_equal(loaded.batch.boxes[:, 0], [[0.5, 15 / 48, 0.5, 6 / 48], [0, 0, 0, 0]])
    assert loaded.indices.tolist() == [0, -1] and loaded.batch.patches.shape == (2, 12, 768) and loaded.real == 12
    with Image.open(root / "train2017" / "1.jpg") as image:
        want = to_patches(np.asarray(image)).reshape(12, 768)
    np.testing.assert_array_equal(loaded.batch.patches[0], want)
