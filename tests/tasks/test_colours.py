"""Compares colour operations with plain numpy, colorsys and scipy."""

import colorsys

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from yolos_jax.data.examples import Example
from yolos_jax.tasks.augmentation.colour import Blur, Factor, Greyscale, Hue

BRIGHTNESS, CONTRAST, SATURATION = Factor(0.4, "brightness"), Factor(0.2, "contrast"), Factor(0.5, "saturation")
OPERATIONS = [BRIGHTNESS, CONTRAST, SATURATION, Hue(0.05), Greyscale(0.2), Blur(0.3, 2.0)]
SIZES = np.tile([[64, 48]], (20_000, 1))
LEVEL = 1  # tolerance, of 255 levels: Pillow computes with integers or truncates


@pytest.fixture(scope="module")
def image():
    """Random colours; some rows have low saturation."""
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    values[:10] = values[:10] // 8 + values[:10, :, :1] // 2
    return values


def drawn(operation, seed=0):
    numbers, sizes = operation.draw(SIZES, np.random.default_rng(seed))
    assert numbers.dtype == np.int32 and len(numbers) == len(SIZES)
    np.testing.assert_array_equal(sizes, SIZES)
    return numbers


def applied(operation, image, *numbers):
    return np.asarray(operation.pixels(Image.fromarray(image), np.int32(numbers))).astype(float)


def luma(image):
    """ITU-R 601 luma of each pixel, rounded to an integer."""
    return np.floor(image.astype(float) @ [0.299, 0.587, 0.114] + 0.5)


FACTORS = [0, 300, 800, 1000, 1250, 1900]


@pytest.mark.parametrize("factor", FACTORS)
def test_brightness(image, factor):
    want = np.clip(image * (factor / 1000), 0, 255)
    np.testing.assert_allclose(applied(Factor(0.9, "brightness"), image, factor), want, atol=LEVEL)


@pytest.mark.parametrize("factor", FACTORS)
def test_contrast(image, factor):
    mean = np.floor(luma(image).mean() + 0.5)
    want = np.clip(mean + (image - mean) * (factor / 1000), 0, 255)
    np.testing.assert_allclose(applied(Factor(0.9, "contrast"), image, factor), want, atol=LEVEL)


@pytest.mark.parametrize("factor", FACTORS)
def test_saturation(image, factor):
    grey = luma(image)[..., None]
    want = np.clip(grey + (image - grey) * (factor / 1000), 0, 255)
    np.testing.assert_allclose(applied(Factor(0.9, "saturation"), image, factor), want, atol=LEVEL)


def test_greyscale(image):
    grey = applied(Greyscale(1.0), image, 1)
    np.testing.assert_allclose(grey, np.repeat(luma(image)[..., None], 3, axis=2), atol=LEVEL)
    np.testing.assert_array_equal(applied(Greyscale(1.0), image, 0), image)


@pytest.mark.parametrize("turn", [-13, -1, 1, 5, 64, 128])
def test_hue_matches_colorsys(image, turn):
    """As in Pillow, hue, saturation and value are truncated to 8 bits, and the hue is rotated in steps of 1 / 256.

    Pillow truncates float32 values, so an exact integer may become the next smaller integer; the test accepts both.
    """
    found = applied(Hue(0.5), image, turn)
    for place in np.ndindex(image.shape[:2]):
        hsv = 255 * np.array(colorsys.rgb_to_hsv(*(image[place] / 255)))
        off = []
        for least in (hsv + 1e-4, hsv - 1e-4):
            hue, saturation, _ = np.floor(np.maximum(least, 0)) / 255
            turned = (round(255 * hue) + turn) % 256
            want = 255 * np.array(colorsys.hsv_to_rgb(turned / 255, saturation, round(hsv[2]) / 255))
            off.append(np.abs(found[place] - want).max())
        assert min(off) <= LEVEL, (place, image[place])


def test_hue_rotation():
    """A third of the circle turns red into green, to within 1 / 256 of the circle (6 levels). Grey has no hue."""
    colours = np.uint8([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [77, 77, 77]]])
    want = colours[:, [1, 2, 0, 3]]
    np.testing.assert_allclose(applied(Hue(0.5), colours, 85), want, atol=6)
    np.testing.assert_array_equal(applied(Hue(0.5), colours, 0), colours)


@pytest.mark.parametrize("deviation", [50, 100, 200])
def test_blur_is_close_to_a_gaussian(image, deviation):
    """Compares pixels that are not near the border, because Pillow uses three box blurs, each with border effects.

    On a step of 255 levels, the difference is at most 2%.
    """
    step = np.zeros((60, 60, 3), np.uint8)
    step[:, 30:] = 255
    sigma = deviation / 100
    for sharp, bound in ((step, 0.02 * 255 + LEVEL), (image, 0.02 * 255 + LEVEL)):
        want = gaussian_filter(sharp.astype(float), (sigma, sigma, 0), mode="nearest", truncate=8)
        off = np.abs(applied(Blur(1.0, 2.0), sharp, deviation) - want)[12:-12, 12:-12]
        assert off.max() <= bound, off.max()
    np.testing.assert_array_equal(applied(Blur(1.0, 2.0), image, 0), image)


@pytest.mark.parametrize(
    "operation, spread",
    [(BRIGHTNESS, 400), (CONTRAST, 200), (SATURATION, 500)],
)
def test_factors_are_uniform_around_one(operation, spread):
    factor = drawn(operation)[:, 0]
    assert (factor.min(), factor.max()) == (1000 - spread, 1000 + spread)
    assert abs(factor.mean() - 1000) < 0.02 * spread
    assert factor.std() == pytest.approx(2 * spread / 12**0.5, rel=0.02)


def test_hue_rotations_are_uniform():
    turn, count = np.unique(drawn(Hue(0.05))[:, 0], return_counts=True)
    assert turn.tolist() == list(range(-13, 14))
    assert np.abs(count - len(SIZES) / 27).max() < 5 * (len(SIZES) / 27) ** 0.5


def test_probabilities_of_greyscale_and_blur():
    assert drawn(Greyscale(0.2)).mean() == pytest.approx(0.2, abs=0.01)
    deviation = drawn(Blur(0.3, 2.0))[:, 0]
    assert (deviation > 0).mean() == pytest.approx(0.3, abs=0.01)
    blurred = deviation[deviation > 0]
    assert (blurred.min(), blurred.max()) == (1, 200) and blurred.mean() == pytest.approx(100.5, abs=3)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_rows_do_not_depend_on_later_rows_and_boxes_do_not_change(operation):
    some, _ = operation.draw(SIZES[:7], np.random.default_rng(3))
    np.testing.assert_array_equal(some, drawn(operation, 3)[:7])
    assert len(np.unique(drawn(operation, 3))) > 1
    example = Example(0, "", 64, 48, np.float32([[1, 2, 30, 40]]), np.int32([0]), np.float32([5]))
    assert operation.boxes(example, some[0]) is example
