"""Examples of a split whose annotations are as COCO has them, in whatever layout they lie on disk."""

import dataclasses
import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from yolos_jax.data.examples import Example, ExampleTable
from yolos_jax.datasets.annotated import Opener
from yolos_jax.datasets.annotations import Complain, stop, wrong_box
from yolos_jax.datasets.finding import Finder
from yolos_jax.datasets.labels import Labels, labels_of
from yolos_jax.datasets.layouts import coco_folder
from yolos_jax.datasets.meaning import Headers, Meaning, Meant
from yolos_jax.datasets.rules import DEFAULT, Rules, in_pixels
from yolos_jax.datasets.sizes import measure, sized
from yolos_jax.errors import InputError
from yolos_jax.images.headers import Header, header_of
from yolos_jax.images.headers import measured as measured_header
from yolos_jax.images.reading import UnreadableImage, decode, decoding, open_rgb


class CocoSource:
    """Examples of one split of a data set with annotations as COCO has them, in the order of its list of images.

    As in the reference, crowds are left out, boxes are clipped to the image and dropped if nothing is left, and
    images without boxes stay. `dropped` counts the boxes that went that way, `clipped` those that reach out.
    Annotations of images that are not listed are ignored, as pycocotools does; `notes` counts them.

    Args:
      root, split: the folder, and a name such as `train2017`: the annotations are
        `annotations/instances_{split}.json`, the images lie in `{split}/`.
      num_classes, categories, category_ids: see `Labels.of`.
      max_images: keep only the first so many images; 0 keeps all.
      annotations, image_folder: other places than those of `split`.
      complain: called with a sentence for each wrong entry, which is then left out; by default the first one stops
        with an `InputError`.
      rules: how annotations and images are read where the file does not say.
      opener: reads a split of another layout instead (see `yolos_jax.datasets.layouts.recognise`).
      keep_absent: keep images whose files are absent; they then cannot be read, and `notes` counts them.
      measured: take all sizes from the images' files instead of the annotations.

    Attributes:
      annotation_file: where the annotations are; the others are those of `DataSet`.

    Raises:
      InputError: a folder, file or image is missing, or an annotation is wrong.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        num_classes: int = 0,
        max_images: int = 0,
        categories: str = "raw",
        category_ids: Sequence[int] | None = None,
        annotations: str | Path = "",
        image_folder: str | Path = "",
        complain: Complain = stop,
        rules: Rules = DEFAULT,
        opener: Opener | None = None,
        keep_absent: bool = False,
        measured: bool = False,
    ):
        self.root, self.split = Path(root), split
        if not (annotations and image_folder) and not self.root.exists():
            raise InputError(f"the data folder {self.root} does not exist; set --config.data.root.")
        if opener is None:
            file = Path(annotations or self.root / "annotations" / f"instances_{split}.json")
            opener = partial(coco_folder.read, file, Path(image_folder or self.root / split))
        found = opener(complain)
        content, self._opener, self._keep_absent, self._measured = found.content, opener, keep_absent, measured
        self.layout, self.origin, self.image_folder = found.layout, found.origin, found.image_folder
        self.annotation_file, self._pixels, self._named = Path(self.origin), found.pixels, found.by_spelling
        self._folder, self._says_sizes = os.path.realpath(self.image_folder), found.says_sizes
        # A layout whose own tools turn images leaves nothing to decide.
        self.rules = dataclasses.replace(rules, upright="yes") if found.upright and rules.upright == "auto" else rules
        images = content["images"][: max_images or None]
        names = [image["file_name"] for image in content["images"]]
        self._finder = Finder(self.image_folder, names) if found.by_spelling else None
        self._absent: list[str] = []
        self._unknown: list[str] = []  # sentences about images that nothing says the size of
        asked = num_classes, categories, category_ids
        labels, notes = labels_of(content["categories"], self.origin, asked, rules, complain)
        self.num_classes, self.category_ids, self.label_names = labels.num_classes, labels.category_ids, labels.names
        files = {image["id"]: self._file(image, complain) for image in images}
        unknown = self._unknown.append if keep_absent else complain
        upright = self.rules.upright == "yes"
        sizes = measure(images, lambda image: self._header(files[image["id"]]), unknown, measured, upright)
        files |= {image["id"]: None for image in images if not sized(image)}
        if self._named:  # a person wrote the boxes down
            in_pixels(content, self.rules.boxes)
        headers_of = self._headers if self._pixels else None
        place = Path(self.origin), labels, lambda image: files[image["id"]], max_images, complain
        read = read_examples(content, *place, self.rules, headers_of)
        self.examples, self.dropped, self.clipped, self.turning, more = read
        self.notes: tuple[str, ...] = (*found.notes, *notes, *self._said(content, *sizes), *more)
        self._content = None if found.again else content

    def __getstate__(self) -> dict[str, Any]:
        """Workers have no use for what finds images and for the annotations."""
        return self.__dict__ | {"_content": None, "_finder": None, "_opener": None}

    def _file(self, image: dict[str, Any], complain: Complain) -> str | None:
        """Where an image lies, or None and a complaint."""
        name = image["file_name"]
        if self._finder is None:
            return name if self._pixels else os.path.join(self.image_folder, name)
        if self._finder.outside(name):
            complain(f"image id {image['id']} in {self.origin} lies outside {self.image_folder}.")
            return None
        path = self._finder.find(name)
        if path is None:
            path = os.path.join(self.image_folder, name)
            self._absent.append(path)
            if not self._keep_absent:
                near = self._finder.near(name)
                complain(f"image id {image['id']} is listed in {self.origin} but {path} is absent{near}.")
                return None
        return path

    def _header(self, file: str | None) -> Header | None:
        """The header of an image's file with its size; None if it has none to look at."""
        if file is None or (not self._pixels and not os.path.lexists(file)):
            return None
        return measured_header(self._pixels(file) if self._pixels else file, file)

    def _headers(self, images: Sequence[dict], files: Sequence[str]) -> list[Header]:
        """Of images that lie in no file of their own."""
        assert self._pixels is not None
        return [header_of(self._pixels(file)) for file in files]

    def _said(self, content: dict[str, list], unsized: int, other: int) -> list[str]:
        """What was taken otherwise than it is written: a note each."""
        notes = self._finder.note(self.origin) if self._finder else []
        if unsized and self._says_sizes:
            notes.append(f"{unsized} images of {self.origin} have no usable size there; it is taken from the images")
        if other:
            notes.append(f"{other} images of {self.origin} have another size there; it is taken from the images")
        if self._absent and self._keep_absent:
            absent = f"{len(self._absent)} images that {self.origin} lists are absent, such as {self._absent[0]}"
            notes.append(f"{absent}; they count as unreadable")
        if self._unknown:
            left = f"{len(self._unknown)} images of {self.origin} are left out: nothing says their sizes"
            notes.append(f"{left} ({self._unknown[0]})")
        return notes + orphan_note(content, self.origin)

    def place(self, file_name: str) -> str:
        """One spelling for every image, however its folder and name are written."""
        renamed = self._finder.renamed if self._finder else {}
        if file_name in renamed:
            file_name = os.path.relpath(renamed[file_name], self.image_folder)
        return os.path.normpath(os.path.join(self._folder, file_name))

    def packed(self, example: Example) -> bytes | None:
        """The content of an image that lies in no file of its own; None for those that do."""
        return self._pixels(example.file) if self._pixels else None

    def read(self, example: Example) -> Image.Image:
        upright, stretch = self.turning.upright, self.rules.sixteen_bit == "stretch"
        if self._pixels:
            with decoding(f"the image {example.file}"):
                stored = io.BytesIO(self._pixels(example.file))
                return check_size(decode(stored, upright, stretch), example)
        return check_size(open_rgb(example.file, upright, stretch), example)

    def listed(self) -> dict[str, list]:
        if self._content is not None:
            return self._content
        content = self._opener(lambda _: None).content
        sizes = dict(zip(self.examples.image_ids.tolist(), self.examples.sizes.tolist()))
        for image in content["images"]:  # those that were taken from the images
            if image["id"] in sizes and (self._measured or not sized(image)):
                image["width"], image["height"] = sizes[image["id"]]
        if self._named:
            in_pixels(content, self.rules.boxes)
        return content

    def ground_truth(self) -> dict[str, Any]:
        return self.listed()


def orphans_of(content: dict[str, list]) -> dict[int, int]:
    """How many annotations are of each image id that is not listed."""
    known = {image["id"] for image in content["images"]}
    return Counter(a["image_id"] for a in content["annotations"] if a["image_id"] not in known)


def orphan_note(content: dict[str, list], origin: str) -> list[str]:
    """A note of how many annotations are ignored, if any are."""
    orphans = orphans_of(content)
    if not orphans:
        return []
    of = f"of images that are not listed, such as image id {next(iter(orphans))}"
    return [f"{sum(orphans.values())} annotations of {origin} are {of}; they are ignored"]


def read_examples(
    content: dict[str, list],
    origin: Path,
    labels: Labels,
    find: Callable[[dict[str, Any]], str | None],
    max_images: int = 0,
    complain: Complain = stop,
    rules: Rules = DEFAULT,
    headers_of: Headers | None = None,
) -> Meant:
    """What training sees of annotations in COCO's format; `InputError` if nothing is left.

    Args:
      content, origin: lists of images, annotations and categories, and where they come from, for messages.
      find: where an image lies; None leaves it out.
      max_images, complain, rules: see `CocoSource`.
      headers_of: see `Meaning`.
    """
    names = {c["id"]: c["name"] for c in content["categories"]}
    meaning = Meaning(origin, rules, names, headers_of)
    dropped = {"crowd": 0, "empty": 0}
    by_image: dict[int, list] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] in by_image:  # others are ignored, see `orphans_of`
            by_image[annotation["image_id"]].append(annotation)
    examples = []
    placed = ((image, find(image)) for image in content["images"][: max_images or None])
    for image, file in meaning.images([(image, file) for image, file in placed if file is not None], by_image):
        boxes, numbers, areas = [], [], []
        for annotation in by_image[image["id"]]:
            sentence = wrong_box(annotation, origin, names) or labels.wrong(annotation, origin)
            if sentence is not None:
                complain(sentence)
                continue
            box, area = clipped_box(annotation["bbox"], image), annotation.get("area")
            width, height = box[2:] - box[:2]
            meaning.add(annotation, image)
            if annotation.get("iscrowd"):
                dropped["crowd"] += 1
            elif width <= 0 or height <= 0:
                dropped["empty"] += 1
            else:
                boxes.append(box)
                numbers.append(labels.of_category[annotation["category_id"]])
                areas.append(width * height if area is None else area)
        targets = np.array(boxes, np.float32).reshape(-1, 4), np.array(numbers, np.int32), np.array(areas, np.float32)
        examples.append(Example(image["id"], file, image["width"], image["height"], *targets))
    if not examples:
        none = "none of the images it lists can be used" if content["images"] else "it lists no images"
        raise InputError(f"nothing to read in {origin}: {none}.")
    return meaning.judged(ExampleTable(examples), dropped, complain)


def check_size(image: Image.Image, example: Example) -> Image.Image:
    """The image itself; `UnreadableImage` if it is not of the annotated size."""
    if image.size == (example.width, example.height):
        return image
    sizes = f"is {image.width}x{image.height} pixels but its annotation says {example.width}x{example.height}"
    turned = image.size[::-1] == (example.width, example.height)
    perhaps = " (perhaps annotated as turned by its EXIF tag: see data.upright)" if turned else ""
    perhaps += "; data.sizes=images takes sizes from the images" if not turned else ""
    raise UnreadableImage(f"{example.file} (image id {example.image_id}) {sizes}{perhaps}.")


def clipped_box(bbox: list[float], image: dict) -> np.ndarray:
    """xywh as annotated -> float32 xyxy inside the image; float32 before adding, as the reference's tensors do."""
    x, y, w, h = np.array(bbox, np.float32)
    limit = np.array([image["width"], image["height"]] * 2, np.float32)
    return np.clip(np.array([x, y, x + w, y + h], np.float32), 0, limit)
