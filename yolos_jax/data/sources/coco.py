"""The COCO folder: an annotation file and a folder of images per split."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from yolos_jax.data.annotations import Complain, read_annotations, stop, wrong_box
from yolos_jax.data.examples import Example, ExampleTable
from yolos_jax.data.labels import Labels, labels_of
from yolos_jax.data.meaning import Headers, Meaning, Meant
from yolos_jax.data.rules import DEFAULT, Rules, in_pixels
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage, open_rgb


class CocoSource:
    """Examples of one split of a COCO folder, in the annotation file's order of images.

    As in the reference, crowds are left out, boxes are clipped to the image and dropped if nothing is left, and
    images without boxes stay. `dropped` counts the boxes that went that way, `clipped` those that reach out.

    Args:
      root, split: the folder, and a name such as `train2017`: the annotations are
        `annotations/instances_{split}.json`, the images lie in `{split}/`.
      num_classes, categories, category_ids: see `Labels.of`.
      max_images: keep only the first so many images; 0 keeps all.
      annotations, image_folder: other places than those of `split`.
      complain: called with a sentence for each wrong entry, which is then left out; by default the first one stops
        with an `InputError`.
      rules: how annotations and images are read where the file does not say.

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
    ):
        self.root, self.split, self.rules = Path(root), split, rules
        if not (annotations and image_folder) and not self.root.is_dir():
            raise InputError(f"the data folder {self.root} does not exist; set --config.data.root.")
        self.annotation_file = Path(annotations or self.root / "annotations" / f"instances_{split}.json")
        self.image_folder = Path(image_folder or self.root / split)
        if not self.image_folder.is_dir():
            raise InputError(f"the folder of images {self.image_folder} does not exist.")
        self.origin = str(self.annotation_file)
        content = read_annotations(self.annotation_file, complain)
        in_pixels(content, rules.boxes)
        asked = num_classes, categories, category_ids
        labels, self.notes = labels_of(content["categories"], self.origin, asked, rules, complain)
        self.num_classes, self.category_ids, self.label_names = labels.num_classes, labels.category_ids, labels.names
        present = {p.name for p in self.image_folder.iterdir()}
        find = partial(self._file, present=present, complain=complain)
        found = read_examples(content, self.annotation_file, labels, find, max_images, complain, rules)
        self.examples, self.dropped, self.clipped, self.turning, notes = found
        self.notes += notes

    def _file(self, image: dict[str, Any], present: set[str], complain: Complain) -> str | None:
        """Where an image lies, or None and a complaint."""
        path = self.image_folder / image["file_name"]
        if not path.resolve().is_relative_to(self.image_folder.resolve()):
            complain(f"image id {image['id']} in {self.origin} lies outside {self.image_folder}.")
            return None
        # A set of names spares a system call per image; nested file names are looked up.
        if image["file_name"] not in present and not path.is_file():
            complain(f"image id {image['id']} is listed in {self.origin} but {path} is absent.")
            return None
        return str(path)

    def place(self, file_name: str) -> str:
        """One spelling for every image, however its folder and name are written."""
        return os.path.normpath(os.path.join(os.path.realpath(self.image_folder), file_name))

    def read(self, example: Example) -> Image.Image:
        upright, stretch = self.turning.upright, self.rules.sixteen_bit == "stretch"
        return check_size(open_rgb(example.file, upright, stretch), example)

    def listed(self) -> dict[str, list]:
        return read_annotations(self.annotation_file, lambda _: None)

    def ground_truth(self) -> dict[str, Any]:
        content = json.loads(self.annotation_file.read_text(encoding="utf-8"))
        in_pixels(content, self.rules.boxes)
        return content


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
        if annotation["image_id"] in by_image:
            by_image[annotation["image_id"]].append(annotation)
        else:
            complain(f"{origin} annotates image id {annotation['image_id']}, which is not among its images.")
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
    raise UnreadableImage(f"{example.file} (image id {example.image_id}) {sizes}{perhaps}.")


def clipped_box(bbox: list[float], image: dict) -> np.ndarray:
    """xywh as annotated -> float32 xyxy inside the image; float32 before adding, as the reference's tensors do."""
    x, y, w, h = np.array(bbox, np.float32)
    limit = np.array([image["width"], image["height"]] * 2, np.float32)
    return np.clip(np.array([x, y, x + w, y + h], np.float32), 0, limit)
