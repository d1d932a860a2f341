"""Random views: the distributions of their parameters, and their effect on pixels."""

import math

import numpy as np
import pytest
import scipy
from PIL import Image

from yolos_jax.tasks.classification.plan import ViewSeeds
from yolos_jax.tasks.classification.random_augment import NAMES, operate
from yolos_jax.tasks.classification.views import CentreView, RandomView, cropped_box, erased_box

DRAWS = 4000
PLAIN = RandomView(size=32, flip=0, operations=0, erase=0)


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def random_of(seed, epoch, image, copy):
    return np.random.default_rng(ViewSeeds(seed, epoch, [image], [copy]).of(0))


@pytest.fixture(scope="module")
def views():
    viewer = RandomView()
    return [viewer.draw(random_of(1, 0, i, 0)) for i in range(DRAWS)]


def test_view_depends_only_on_seed_epoch_image_and_copy():
    viewer, image = RandomView(size=32), noise(50, 40)

    def pixels(*key):
        return viewer.pixels(image, viewer.draw(random_of(*key)))

    np.testing.assert_array_equal(pixels(1, 2, 3, 0), pixels(1, 2, 3, 0))
    others = [pixels(1, 2, 3, 1), pixels(1, 2, 4, 0), pixels(1, 3, 3, 0), pixels(2, 2, 3, 0)]
    assert all((pixels(1, 2, 3, 0) != other).any() for other in others)


def test_operations_magnitudes_and_flips_have_the_distributions_of_deit(views):
    flips = sum(view.flip for view in views)
    assert scipy.stats.binomtest(flips, DRAWS, 0.5).pvalue > 1e-3
    # Two operations, each applied with a probability of 1/2.
    counts = np.bincount([len(view.operations) for view in views], minlength=3)
    assert scipy.stats.chisquare(counts, DRAWS * np.array([0.25, 0.5, 0.25])).pvalue > 1e-3
    done = [operation for view in views for operation in view.operations]
    which = np.bincount([one[0] for one in done], minlength=len(NAMES))
    assert len(which) == 15 and scipy.stats.chisquare(which).pvalue > 1e-3
    magnitudes = 10 * np.array([one[1] for one in done])
    assert (
        magnitudes.max() == 10
        and scipy.stats.binomtest(int((magnitudes == 10).sum()), len(done), scipy.stats.norm.sf(2)).pvalue > 1e-3
    )
    inside = magnitudes[magnitudes < 10]
    assert scipy.stats.kstest(inside, scipy.stats.truncnorm(-np.inf, 2, 9, 0.5).cdf).pvalue > 1e-3
    assert scipy.stats.binomtest(sum(one[2] for one in done), len(done), 0.5).pvalue > 1e-3


def test_crops_have_the_distribution_of_torchvision(views):
    """Crops of less than half of a square always fit, so their areas and log ratios are uniform."""
    tries = np.concatenate([view.crop for view in views])
    boxes = np.array([cropped_box(tries[i : i + 1], (1000, 1000), 0.08) for i in range(DRAWS)], float)
    areas, ratios = boxes[:, 2] * boxes[:, 3] / 1e6, np.log(boxes[:, 2] / boxes[:, 3])
    small = tries[:DRAWS, 0] < (0.5 - 0.08) / 0.92
    assert scipy.stats.kstest(areas[small], scipy.stats.uniform(0.08, 0.42).cdf).pvalue > 1e-3
    assert (
        scipy.stats.kstest(ratios[small], scipy.stats.uniform(-math.log(4 / 3), 2 * math.log(4 / 3)).cdf).pvalue > 1e-3
    )
    left = boxes[small, 0] / (1000 - boxes[small, 2])
    assert scipy.stats.kstest(left, scipy.stats.uniform(0, 1).cdf).pvalue > 1e-3
    for size in ((1, 1), (7, 3), (3000, 2), (2, 3000)):
        for view in views[:50]:
            x, y, w, h = cropped_box(view.crop, size, 0.08)
            assert 0 <= x <= x + w <= size[0] and 0 <= y <= y + h <= size[1] and w > 0 and h > 0
    whole = np.ones((10, 4))  # every attempt has the full area and ratio 4 / 3, so none fits
    assert cropped_box(whole, (300, 100), 0.08) == (83, 0, 133, 100)
    assert cropped_box(whole, (100, 100), 0.08) == (0, 0, 100, 100)


def test_erased_boxes_have_the_distribution_of_timm(views):
    erased = [view.box for view in views if view.box[2]]
    assert scipy.stats.binomtest(len(erased), DRAWS, 0.25).pvalue > 1e-3
    tries = np.random.default_rng(0).random((DRAWS, 1, 4))
    boxes = np.array([erased_box(one, 1000) for one in tries], float)
    small = tries[:, 0, 0] < 0.25  # areas that fit with any ratio
    areas, ratios = boxes[small, 2] * boxes[small, 3] / 1e6, np.log(boxes[small, 3] / boxes[small, 2])
    assert scipy.stats.kstest(areas, scipy.stats.uniform(0.02, (1 / 3 - 0.02) / 4).cdf).pvalue > 1e-3
    assert scipy.stats.kstest(ratios, scipy.stats.uniform(math.log(0.3), -2 * math.log(0.3)).cdf).pvalue > 1e-3


def test_only_erased_boxes_become_noise():
    viewer, image = RandomView(size=64, flip=0, operations=0, erase=1), Image.new("RGB", (64, 64), (10, 20, 30))
    view = viewer.draw(random_of(0, 0, 0, 0))
    pixels, (left, top, width, height) = viewer.pixels(image, view), view.box
    inside = np.zeros((64, 64), bool)
    inside[top : top + height, left : left + width] = True
    assert (pixels[~inside] == (10, 20, 30)).all() and width * height > 50
    values = (pixels[inside] / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    assert abs(values.mean()) < 0.15 and abs(values.std() - 1) < 0.15


def test_cropped_pixels_match_pillow():
    image, view = noise(90, 70), PLAIN.draw(random_of(0, 0, 5, 0))
    x, y, w, h = cropped_box(view.crop, image.size, 0.08)
    want = image.crop((x, y, x + w, y + h)).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(PLAIN.pixels(image, view), want)
    flipped = RandomView(size=32, flip=1, operations=0, erase=0)
    np.testing.assert_array_equal(flipped.pixels(image, view._replace(flip=True)), np.asarray(want)[:, ::-1])


@pytest.mark.parametrize(
    "size, resized, corner", [((500, 375), (341, 256), (58, 16)), ((375, 500), (256, 341), (16, 58))]
)
def test_centre_crop_for_evaluation(size, resized, corner):
    image = noise(*size)
    want = image.resize(resized, Image.Resampling.BICUBIC)
    want = np.asarray(want)[corner[1] : corner[1] + 224, corner[0] : corner[0] + 224]
    viewer = CentreView()
    np.testing.assert_array_equal(viewer.pixels(image, viewer.draw(np.random.default_rng())), want)
    for odd in ((1, 1), (9000, 1), (1, 9000)):
        assert CentreView(32).pixels(noise(*odd), viewer.draw(np.random.default_rng())).shape == (32, 32, 3)


def test_operations_match_their_formulas():
    """Tests only operations with a simple formula; `tests/parity` compares all of them with timm."""
    image = noise(20, 10)
    pixels = np.asarray(image).astype(int)

    def of(name, strength, negative=False):
        return np.asarray(operate(image, NAMES.index(name), strength, negative)).astype(int)

    np.testing.assert_array_equal(of("invert", 0.3), 255 - pixels)
    np.testing.assert_array_equal(of("posterize", 0.5), pixels // 64 * 64)  # two bits are kept
    np.testing.assert_array_equal(of("solarize", 0.5), np.where(pixels < 128, pixels, 255 - pixels))
    np.testing.assert_array_equal(of("solarize_add", 0.5), np.where(pixels < 128, pixels + 55, pixels))
    np.testing.assert_array_equal(of("translate_x", 1 / 9)[:, :-1], pixels[:, 1:])  # 0.45 / 9 of 20 pixels
    np.testing.assert_allclose(of("translate_y", 2 / 9, True)[1:], pixels[:-1], atol=1)  # 2 / 9 is not exact
    assert (of("translate_x", 1 / 9)[:, -1] == (124, 116, 104)).all()
    np.testing.assert_allclose(of("brightness", 0.5, True), pixels * 0.55, atol=1)
    assert np.abs(of("rotate", 0) - pixels).max() == np.abs(of("shear_x", 0) - pixels).max() == 0
