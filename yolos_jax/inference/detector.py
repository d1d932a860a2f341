"""Detector: images in, boxes out."""

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from yolos_jax import checkpoints, weights
from yolos_jax.checkpoints import Meta
from yolos_jax.errors import InputError, check_path
from yolos_jax.images.reading import from_array, open_rgb, to_rgb
from yolos_jax.images.sequence import Geometry, pack, resize, rounded_tokens, to_patches
from yolos_jax.inference.postprocess import postprocess
from yolos_jax.model.config import Compute
from yolos_jax.model.yolos import abstract, apply

ImageLike = str | Path | Image.Image | np.ndarray


def load_model(path: str | Path) -> tuple[dict, Meta]:
    """Parameters and `Meta` from one of our checkpoint folders, a Hugging Face folder, or a model on the hub.

    A file of a published model's weights will do as well (see `weights.load_weights`).

    Raises:
      InputError: nothing usable there, or a ViT to start training from.
    """
    check_path(path)
    if checkpoints.steps(path):
        return checkpoints.load(path)
    local = Path(path).is_file() or (Path(path) / "config.json").is_file()
    if not local and weights.hub_model(path) is None:
        return checkpoints.load(path)
    found = weights.load_detector(path)
    return found.params, Meta(found.config, found.label_names or {}, 0, found.extra, found.category_ids, found.max_side)


def geometry_of(meta: Meta, short_side: int | None, max_side: int | None) -> Geometry:
    """How images are resized: as asked for, else as a checkpoint was trained or its image processor says."""
    if short_side is None:
        sizes = weights.sizes_of(meta.extra)
        short_side = sizes.short_side if sizes else weights.SHORT_SIDE
        max_side = sizes.max_side if sizes and max_side is None else max_side
    return Geometry.of(short_side, max_side or 0, meta.model.patch_size, meta.max_side)


def detect(
    graph: Any, params: dict, patches: jax.Array, grid: jax.Array, size: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Logits, boxes (cxcywh in 0..1), scores, labels and boxes in pixels of images of (width, height) `size`."""
    with jax.default_matmul_precision("float32"):  # GPUs would use TF32
        out = apply(graph, params, patches, grid)
    return out.logits, out.boxes, *postprocess(out.logits, out.boxes, size)


@dataclasses.dataclass(frozen=True)
class Detections:
    """What was found in one image, best first.

    Attributes:
      boxes: float32 `[n, 4]`, absolute xyxy in the original image's pixels; as
        in the reference they may reach a little beyond its edges.
      scores: float32 `[n]`, probability of the label, 0..1.
      labels: `[n]`, category ids.
      names: the labels' names (the id as text where the checkpoint has no name).
      size: (width, height) of the image, upright.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: list[str]
    size: tuple[int, int]


class Detector:
    """A detector ready for images of any size and kind; made by `Detector.load`."""

    def __init__(self, params: dict, meta: Meta, short_side: int, max_side: int = 0, batch_size: int = 1):
        """See `load`; `params` and `meta` as `load_model` returns them."""
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1.")
        self.config = meta.model
        self.label_names, self.category_ids, self.batch_size = meta.label_names, meta.category_ids, batch_size
        self.geometry = Geometry.of(short_side, max_side, self.config.patch_size, meta.max_side)
        self._params = jax.device_put(params)
        self._detect = jax.jit(functools.partial(detect, abstract(self.config, Compute(max_side=meta.max_side))[0]))

    @classmethod
    def load(
        cls, path: str | Path, short_side: int | None = None, max_side: int | None = None, batch_size: int = 1
    ) -> "Detector":
        """Loads one of our checkpoint folders, a Hugging Face folder, or a model on the hub.

        Args:
          path: the folder, or the hub's `org/name` (`org/name@revision`).
          short_side: pixels that an image's short side is resized to; by
            default what the checkpoint was trained with or its image processor
            says, else 800.
          max_side: most pixels of the long side; by default in proportion (1333 for 800).
          batch_size: most images at a time.

        Raises:
          InputError: nothing usable there.
        """
        params, meta = load_model(path)
        geometry = geometry_of(meta, short_side, max_side)
        return cls(params, meta, geometry.short_side, geometry.max_side, batch_size)

    def forward(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Logits and boxes of images that are already sized.

        Args:
          images: RGB `[h, w, 3]` arrays, any mix of sizes, sides multiples of
            the patch size: uint8 pixels, or floats that are already normalised.

        Returns:
          float32 `[n, Q, K + 1]` logits and `[n, Q, 4]` cxcywh boxes in 0..1.
          An image's do not depend on the others.
        """
        images = [np.asarray(image) for image in images]
        images = [image if image.dtype == np.uint8 else image.astype(np.float32) for image in images]
        logits, boxes = self._run(images, [(1, 1)] * len(images))[:2]
        return logits, boxes

    def _run(self, images: list[np.ndarray], sizes: list[tuple[int, int]]) -> list[np.ndarray]:
        """Logits, boxes, scores, labels and boxes in pixels, `[n, Q, ...]` each.

        Images of a bucket share batches, all of `batch_size` slots: one
        compilation per bucket.
        """
        config, queries = self.config, self.config.det_tokens
        shapes = ((config.num_classes + 1,), (4,), (), (), (4,))
        out = [np.zeros((len(images), queries, *shape), np.float32) for shape in shapes]
        out[3] = out[3].astype(np.int32)
        alike: dict[tuple, list[int]] = {}
        for i, image in enumerate(images):
            rows, columns = to_patches(image, config.patch_size).shape[:2]
            alike.setdefault((rounded_tokens(rows * columns), image.dtype), []).append(i)
        for (tokens, _), members in alike.items():
            for start in range(0, len(members), self.batch_size):
                part = members[start : start + self.batch_size]
                most = self.geometry.model_max_side
                batch = pack([images[i] for i in part], tokens, self.batch_size, config.patch_size, most)
                size = np.ones((self.batch_size, 2), np.float32)
                size[: len(part)] = [sizes[i] for i in part]
                for array, found in zip(out, jax.device_get(self._detect(self._params, *batch, size))):
                    array[part] = found[: len(part)]
        return out

    def __call__(self, images: Sequence[ImageLike], threshold: float = 0.5) -> list[Detections]:
        """Detects.

        Args:
          images: file paths, PIL images, or uint8 arrays (`[h, w]`, RGB or
            RGBA `[h, w, 3 or 4]`). Images are turned as their EXIF tag says.
          threshold: lowest score to report, 0..1.

        Returns:
          One `Detections` for each image, in order.

        Raises:
          UnreadableImage: an image cannot be read (`yolos_jax.images.reading`).
        """
        if isinstance(images, str | Path | Image.Image | np.ndarray):
            raise InputError("a detector takes a list of images; put a single one into a list.")
        with ThreadPoolExecutor(4) as pool:
            prepared = list(pool.map(self._prepare, images))
        sizes = [size for _, size in prepared]
        found = self._run([pixels for pixels, _ in prepared], sizes)[2:]
        scores, labels, boxes = found
        return [self._detections(*one, threshold) for one in zip(scores, labels, boxes, sizes)]

    def _prepare(self, image: ImageLike) -> tuple[np.ndarray, tuple[int, int]]:
        if isinstance(image, str | Path):
            image = open_rgb(image, upright=True)
        elif isinstance(image, Image.Image):
            image = to_rgb(image, upright=True)
        else:
            image = from_array(np.asarray(image))
        return resize(image, self.geometry.size(*image.size)), image.size

    def _detections(
        self, scores: np.ndarray, labels: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float
    ) -> Detections:
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= threshold]
        labels = labels[order]
        names = [self.label_names.get(int(label), str(label)) for label in labels]
        if self.category_ids is not None:
            labels = np.array(self.category_ids, np.int64)[labels]
        return Detections(boxes[order], scores[order], labels, names, size)
