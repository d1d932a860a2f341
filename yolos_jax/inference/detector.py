"""The `Detector` class, which detects objects in images."""

import functools
import numbers
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import numpy as np
from PIL import Image

from yolos_jax.accelerators.choice import decided, sentence
from yolos_jax.accelerators.precision import PRECISIONS, dtype_of, products_of
from yolos_jax.datasets.category_names import distinct
from yolos_jax.datasets.headers import left_out
from yolos_jax.errors import InputError
from yolos_jax.images.reading import ImageLike, decoding, file_bytes, read_rgb
from yolos_jax.images.sequence import pack, resize, rounded_tokens, to_patches
from yolos_jax.inference.compiled import AUTO, OFF, keep_compiled
from yolos_jax.inference.detections import Detections
from yolos_jax.inference.loading import check_whole, geometry_for, load_model, refuse_forked
from yolos_jax.inference.postprocess import postprocess
from yolos_jax.inference.suppression import check_nms, suppressed
from yolos_jax.model.config import Compute, YolosConfig
from yolos_jax.model.yolos import Outputs, abstract, apply, apply_on
from yolos_jax.training.checkpoint_files import Meta


class Queries(NamedTuple):
    """Outputs for each query (DET token) in a batch: `Outputs.logits` and `boxes`, and the results of `postprocess`."""

    logits: Any
    boxes: Any
    scores: Any
    labels: Any
    pixels: Any


def detect(
    graph: Any,
    params: dict,
    patches: jax.Array,
    grid: jax.Array,
    size: jax.Array,
    applied: Callable[..., Outputs] = apply,
    precision: str = "float32",
) -> Queries:
    """Computes `Queries` for a batch (see `Yolos.__call__`); `size` `[B, 2]` is (width, height) in pixels."""
    with jax.default_matmul_precision(products_of(precision)):  # otherwise, GPUs would use TF32
        out = applied(graph, params, patches, grid)
    return Queries(out.logits, out.boxes, *postprocess(out.logits, out.boxes, size))


def program(
    model: YolosConfig, asked: Compute, devices: Sequence[jax.Device], precision: str
) -> tuple[Any, dict, Compute]:
    """(`detect` of a network, jitted for these devices; the shapes of its parameters; the `Compute` it uses)."""
    compute = decided(asked, model, devices[0])
    graph, shapes = abstract(model, compute)
    made = functools.partial(detect, graph, applied=apply_on(devices), precision=precision)
    return jax.jit(made), shapes, compute


class Detector:
    """Detects objects in images of any size and format; created by `Detector.load`.

    It can be pickled for process pools that use the start method spawn; in a forked process, it raises `InputError`.
    """

    def __init__(
        self,
        params: dict,
        meta: Meta,
        short_side: int | None = None,
        max_side: int | None = None,
        batch_size: int = 1,
        nms: float | None = None,
        precision: str = "float32",
    ):
        """See `load`; `params` and `meta` are the results of `load_model`."""
        check_nms(nms)
        if precision not in PRECISIONS:
            raise InputError(f"precision is {precision!r:.80}; choose one of {', '.join(PRECISIONS)}.")
        self.precision = precision
        self.nms = nms
        check_whole("batch_size", batch_size)
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1.")
        self.config = meta.model
        self.label_names = distinct(meta.label_names)
        self.category_ids = meta.category_ids
        self.batch_size = batch_size
        self.geometry = geometry_for(meta, short_side, max_side)
        self.stretch = meta.extra.get("config", {}).get("data", {}).get("sixteen_bit") == "stretch"
        self._kept_compiled: str | Path = OFF
        self._place(params)

    def _place(self, params: dict) -> None:
        """Moves the parameters to the device and builds the program for it."""
        self._params = jax.device_put(params)
        (self._device,) = jax.tree.leaves(self._params)[0].devices()
        asked = Compute(max_side=self.geometry.model_max_side, compute_dtype=dtype_of(self.precision))
        found = program(self.config, asked, [self._device], self.precision)
        self._detect: Any = found[0]
        self.compute = found[2]

    def __getstate__(self) -> dict[str, Any]:
        """State for pickling and copying: parameters as NumPy arrays, without compiled programs."""
        refuse_forked()
        state = {name: value for name, value in self.__dict__.items() if name not in ("_detect", "_device", "compute")}
        return state | {"_params": jax.device_get(self._params)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _detect=None)  # a pool hangs if this fails, so errors are raised at the first call

    def _ready(self) -> None:
        """Raises `InputError` in a forked process; moves unpickled parameters to the device."""
        refuse_forked()
        if self._detect is None:
            keep_compiled(self._kept_compiled)
            self._place(self._params)

    @property
    def computing(self) -> str:
        """A one-sentence description of the precision and the attention implementation."""
        self._ready()
        return sentence(self.compute, self.precision, self._device)

    @property
    def names_by_id(self) -> dict[int, str]:
        """Category names, keyed by the ids in `Detections.labels`."""
        ids = self.category_ids
        return {label if ids is None else ids[label]: name for label, name in self.label_names.items()}

    @classmethod
    def load(
        cls,
        path: str | Path,
        short_side: int | None = None,
        max_side: int | None = None,
        batch_size: int = 1,
        compilation_cache: str | Path = AUTO,
        nms: float | None = None,
        precision: str = "float32",
    ) -> "Detector":
        """Loads a checkpoint folder of yolos-jax, a Hugging Face folder, or a model on the hub.

        Also turns on jax's persistent compilation cache for the whole process, unless a cache is already configured, so
        that the next process need not compile the model again.

        Args:
          path: the folder, or `org/name` or `org/name@revision` for a model on the hub.
          short_side: size in pixels to which an image's short side is resized; by default as in the checkpoint's
            training or image processor, else 800.
          max_side: maximum size of the long side in pixels; by default short_side * 1333 / 800.
          batch_size: maximum number of images per batch.
          compilation_cache: folder for compiled programs, see `compiled.keep_compiled`; "off" leaves jax unchanged.
          nms: IoU threshold in 0..1 for non-maximum suppression per class; by default no suppression.
          precision: float32, tensorfloat32 (matrix products on GPU tensor cores) or bfloat16 (in the transformer).

        Raises:
          InputError: there is no usable checkpoint, or an argument is invalid.
        """
        note = keep_compiled(compilation_cache)
        if note:
            warnings.warn(note, stacklevel=2)
        loaded = cls(*load_model(path), short_side, max_side, batch_size, nms, precision)
        loaded._kept_compiled = compilation_cache
        return loaded

    @property
    def params(self) -> dict:
        """The network's parameters on the device, as a nested dict."""
        self._ready()
        return self._params

    def forward(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Computes logits and boxes for images that are already resized.

        Args:
          images: RGB `[h, w, 3]` arrays of any sizes, as long as their sides are multiples of the patch size; uint8
            pixels, or floats that are already normalised.

        Returns:
          float32 `[n, Q, K + 1]` logits and `[n, Q, 4]` cxcywh boxes in 0..1; no image affects the results of another.

        Raises:
          InputError: a side is not a multiple of the patch size, or is longer than the model's limit.
        """
        images = [np.asarray(image) for image in images]
        images = [image if image.dtype == np.uint8 else image.astype(np.float32) for image in images]
        found = self._run(images, [(1, 1)] * len(images))
        return found.logits, found.boxes

    def _run(self, images: list[np.ndarray], sizes: list[tuple[int, int]]) -> Queries:
        """NumPy `Queries` for resized images with original (width, height) `sizes`; compiles once per bucket."""
        self._ready()
        config, shape = self.config, (len(images), self.config.det_tokens)
        out = Queries(
            logits=np.zeros((*shape, config.num_classes + 1), np.float32),
            boxes=np.zeros((*shape, 4), np.float32),
            scores=np.zeros(shape, np.float32),
            labels=np.zeros(shape, np.int32),
            pixels=np.zeros((*shape, 4), np.float32),
        )
        alike: dict[tuple, list[int]] = {}  # indices of the images for each program
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
                arrays = jax.device_put((*batch, size), self._device)
                found = jax.device_get(self._detect(self._params, *arrays))
                for whole, computed in zip(out, found):
                    whole[part] = computed[: len(part)]
        return out

    @overload
    def __call__(self, images: np.ndarray | jax.Array, threshold: float = 0.5) -> Any: ...

    @overload
    def __call__(self, images: ImageLike, threshold: float = 0.5) -> Detections: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, images: Iterable[ImageLike], threshold: float = 0.5) -> list[Detections]: ...

    def __call__(self, images: Any, threshold: Any = 0.5) -> Any:
        """Detects objects in images.

        Args:
          images: one image or an iterable of images. An image is a path, the bytes of an image file, an open binary
            file, a PIL image, or a uint8 array (`[h, w]`, RGB or RGBA `[h, w, 3 or 4]`); a uint8 array `[n, h, w, 3]`
            is a batch of n images. EXIF orientation is applied. If a file has several frames or pages, only the
            first is used, and a warning reports how many were ignored.
          threshold: minimum score of returned detections, 0..1.

        Returns:
          `Detections` for one image; for several images, a list in the same order.

        Raises:
          UnreadableImage: an image cannot be read (`yolos_jax.images.reading`).
          InputError: an image has an unsupported type, or the threshold is out of range.
        """
        if not isinstance(threshold, numbers.Real) or not 0 <= float(threshold) <= 1:
            value = threshold if isinstance(threshold, numbers.Real | str) else f"of type {type(threshold).__name__}"
            raise InputError(f"threshold is {value}; it must be a number between 0 and 1.")
        given, single = _one_or_many(images)
        names = ["the image"] if single else [f"image {i} (counted from 0)" for i in range(len(given))]
        prepared = self._prepare(given, names)
        sizes = [size for _, size in prepared]
        queries = self._run([pixels for pixels, _ in prepared], sizes)
        each = zip(queries.scores, queries.labels, queries.pixels, sizes)
        found = [self._detections(*one, threshold) for one in each]
        return found[0] if single else found

    def _prepare(self, images: list[Any], names: list[str]) -> list[tuple[np.ndarray, tuple[int, int]]]:
        """Decodes and resizes images in threads; returns the pixels and original (width, height) of each."""

        def prepare(image: ImageLike, name: str) -> tuple[np.ndarray, tuple[int, int]]:
            upright = read_rgb(image, name, self.stretch)
            return resize(upright, self.geometry.size(*upright.size)), upright.size

        # Two threads must not read the same open file, or PIL images backed by it: a file has a single position.
        images = [file_bytes(x, name) if hasattr(x, "read") else x for x, name in zip(images, names)]
        for note in left_out(images):
            warnings.warn(note, stacklevel=3)
        with ThreadPoolExecutor(4) as pool:
            futures: dict[int, Future] = {}
            for image, name in zip(images, names):
                if id(image) not in futures:
                    futures[id(image)] = pool.submit(prepare, image, name)
            return [futures[id(image)].result() for image in images]

    def _detections(
        self, scores: np.ndarray, labels: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: Any
    ) -> Detections:
        order = suppressed(scores, labels, boxes, self.nms)
        order = order[scores[order] >= threshold]
        labels = labels[order]
        names = [self.label_names.get(int(label), str(label)) for label in labels]
        if self.category_ids is not None:
            labels = np.array(self.category_ids, np.int64)[labels]
        return Detections(boxes[order], scores[order], labels, names, size)


def _one_or_many(images: Any) -> tuple[list[ImageLike], bool]:
    """The images as a list, and whether `images` is a single image.

    An array with four axes is a batch of images; any other iterable that is not an image contains images.
    """
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, Mapping)
    single = isinstance(images, kinds) or hasattr(images, "read")
    if not single and hasattr(images, "__array__"):
        with decoding("the array"):
            array = np.asarray(images)
        if array.ndim == 4 or (array.ndim == 1 and array.dtype.kind in "OU"):  # a batch; a column of paths
            return list(array), False
        single = True
    if single or not isinstance(images, Iterable):
        return [images], True  # `read_rgb` reports an unsupported type
    return list(images), False
