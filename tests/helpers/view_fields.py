"""The published augmentation pipelines, and named fields for the parameters of their views."""

from typing import NamedTuple

import numpy as np

from yolos_jax.data.augment import Crop, Flip, Pipeline, Resize, Views

SMALL = Pipeline(Resize(tuple(range(480, 801, 16)), 1333), before=(Flip(), Crop()))
TINY = Pipeline(Resize(tuple(range(256, 609, 16)), 1013), before=(Flip(), Crop()))


class Fields(NamedTuple):
    """The parameters of flip, crop and resize, for one image or several."""

    flip: np.ndarray  # bool
    first: np.ndarray  # (width, height) before the crop; zeros if there is no crop
    crop: np.ndarray  # (left, top, width, height); zeros if there is no crop
    size: np.ndarray  # final (width, height)

    @classmethod
    def of(cls, views: Views) -> "Fields":
        flip, crop, size = views.numbers
        np.testing.assert_array_equal(size, views.size)
        return cls(flip[..., 0] == 1, crop[..., :2], crop[..., 2:], size)

    def where(self, rows: np.ndarray) -> "Fields":
        return Fields(*(field[rows] for field in self))
