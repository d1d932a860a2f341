"""Sizes, pixels and boxes of the evaluation transform against the reference's."""

import numpy as np
import pytest
from reference_pack import arrays, data_folder

from yolos_jax.data.coco import CocoSource
from yolos_jax.data.examples import normalized_boxes
from yolos_jax.model.yolos import normalize
from yolos_jax.sequence import default_max_side, resize, resized_size, to_patches


def test_every_size_of_the_pack():
    z = arrays("transforms.npz")
    for side in (512, 800):
        for (w, h), want in zip(z["evsize_in_wh"], z[f"evsize{side}_out_hw"]):
            assert resized_size(int(w), int(h), side, default_max_side(side)) == (want[1], want[0]), (w, h, side)
    for (w, h, side, most), want in zip(z["trsize_in"], z["trsize_out_hw"]):
        found = resized_size(int(w), int(h), int(side), None if most < 0 else int(most))
        assert found == (want[1], want[0]), (w, h, side, most)


def test_longest_sides_of_the_reference():
    assert [default_max_side(side) for side in (800, 608, 512)] == [1333, 1013, 853]


def test_pixels_and_targets_of_validation_pictures():
    z, root = arrays("transforms.npz"), data_folder("coco_tiny80")
    source = CocoSource(root, "val2017", 91)
    by_name = {example.file.rsplit("/")[-1]: example for example in source.examples}
    for k, name in enumerate(z["img_files"]):
        example = by_name[str(name)]
        raw = np.asarray(source.read(example))
        assert raw.shape[:2] == tuple(z[f"img{k}_raw_hw"])
        y, x = z[f"img{k}_raw_pos"].T
        np.testing.assert_array_equal(raw[y, x], z[f"img{k}_raw_val"], err_msg="another JPEG decoder")
        for side in (512, 800):
            key = f"img{k}_e{side}"
            size = resized_size(example.width, example.height, side, default_max_side(side))
            assert size == tuple(z[f"{key}_shape"][:0:-1]) == tuple(z[f"{key}_size"][::-1])
            image = resize(source.read(example), size)
            patches = np.asarray(normalize(to_patches(image)))
            rows, columns = size[1] // 16, size[0] // 16
            pixels = patches.reshape(rows, columns, 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(size[1], size[0], 3)
            y, x = z[f"{key}_pos"].T
            np.testing.assert_allclose(pixels[y, x], z[f"{key}_val"], atol=1e-6, rtol=0)
            np.testing.assert_allclose(pixels.mean((0, 1), np.float64), z[f"{key}_mean"], atol=1e-5)
            if f"{key}_full" in z.files:
                np.testing.assert_allclose(pixels.transpose(2, 0, 1), z[f"{key}_full"], atol=1e-6, rtol=0)
            np.testing.assert_array_equal(normalized_boxes(example, size), z[f"{key}_boxes"])
            np.testing.assert_array_equal(example.labels, z[f"{key}_labels"])
            area = example.area * (size[0] / example.width) * (size[1] / example.height)
            np.testing.assert_allclose(area, z[f"{key}_area"], rtol=1e-6)


EXTREME = [(1, 1), (3, 2000), (2000, 1), (9000, 1), (5000, 100), (5040, 61), (10, 3000), (16, 16)]


@pytest.mark.parametrize("size", EXTREME, ids=lambda s: f"{s[0]}x{s[1]}")
def test_extreme_pictures_keep_whole_patches_within_the_bound(size):
    width, height = resized_size(*size, 800, 1333)
    assert width % 16 == height % 16 == 0 and min(width, height) >= 16 and max(width, height) <= 1344
