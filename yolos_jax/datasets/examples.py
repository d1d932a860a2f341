"""Converts annotations to a `DataSet` and checks labels, sizes, EXIF orientations and boxes."""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from yolos_jax.data.examples import Example, ExampleTable
from yolos_jax.datasets.annotations import (
    Annotations,
    Complain,
    Content,
    OpenAnnotations,
    PackedImages,
    annotations_of,
    is_sized,
    orphans_of,
    stop,
)
from yolos_jax.datasets.box_checks import clip_to_image, count_clipped, to_coco, wrong_box, wrong_format
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.finding import Located, locate
from yolos_jax.datasets.headers import Header, dark_note, frames_note, header_of, read_headers
from yolos_jax.datasets.labels import Labels, labels_of
from yolos_jax.datasets.orientation import ExifDecision, decide, turn_sizes
from yolos_jax.datasets.settings import SplitOptions
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage, decoding
from yolos_jax.user_files import reading

Images = Sequence[dict[str, Any]]  # image entries of a COCO file


def read_split(open_annotations: OpenAnnotations, options: SplitOptions, complain: Complain = stop) -> DataSet:
    """Reads a split, keeping the order of its image list.

    As in the reference, crowds are omitted from the examples, boxes are clipped to the image and dropped if they become
    empty, and images without boxes are kept. As in pycocotools, annotations of unlisted images are ignored.

    Args:
      open_annotations: returns the annotations of the split, see `opening.find_split`.
      options: how to read them.
      complain: called with a message for each invalid entry, which is then skipped; by default, the first one raises
        `InputError`.

    Raises:
      InputError: there are no images, or the categories do not match the options.
    """
    with reading("the data set"):
        found = open_annotations(complain)
    if found.upright and options.upright == "auto":  # the layout's own tools rotate images upright
        options = dataclasses.replace(options, upright="yes")
    content, origin = found.content, found.origin
    images = content["images"][: options.max_images or None]
    labels, notes = labels_of(content["categories"], origin, options, complain)
    located = locate(found, images, options.keep_absent, complain)
    headers = _headers(found, images, located)
    sized, size_notes = _set_sizes(found, images, headers, located, options, complain)
    if not found.boxes:
        to_coco(content, options.boxes)
    exif = _decide(found, sized.usable, headers, sized.measured, options)
    if exif.upright:
        turn_sizes(sized.usable, headers)
    if found.boxes:  # after `turn_sizes`, because relative boxes refer to the images as they are read
        to_coco(content, found.boxes, keep_areas=True)
    boxes = _read_boxes(content, sized.usable, located.files, labels, origin, complain)
    refusal = wrong_format(boxes.xywh, boxes.sizes, origin, f"data.{options.which}_boxes")
    if refusal is not None:
        complain(refusal)
    dark = _dark_note(sized.usable, located.files, headers, origin, options) if found.packed is None else []
    several = frames_note([located.files[image_id] for image_id in headers], headers.values(), origin)
    reopened = functools.partial(_reopened, open_annotations, options, boxes.examples, sized.measured)
    return DataSet(
        examples=boxes.examples,
        label_names=labels.names,
        category_ids=labels.category_ids,
        num_classes=labels.num_classes,
        layout=found.layout,
        origin=origin,
        image_folder=found.image_folder,
        notes=(*found.notes, *notes, *located.notes, *size_notes, *_orphan_note(content, origin),
               *exif.notes(origin), *several, *dark),
        dropped=boxes.dropped,
        clipped=count_clipped(boxes.xywh, boxes.sizes),
        exif=exif,
        stretch=options.sixteen_bit == "stretch",
        content=reopened if found.reopens else lambda: content,
        packed=found.packed,
        renamed=located.renamed,
        own_metrics=found.own_metrics,
    )  # fmt: skip


def _headers(found: Annotations, images: Images, located: Located) -> dict[int, Header]:
    """Returns a dict from image id to header, for images whose files exist."""
    if found.headers is not None:
        return {i["id"]: found.headers[i["id"]] for i in images if i["id"] in found.headers}
    absent = set(located.absent)
    files = {image_id: file for image_id, file in located.files.items() if file not in absent}
    if found.packed is None:
        return dict(zip(files, read_headers(list(files.values()))))
    return dict(zip(files, read_headers(list(files), functools.partial(_packed_header, found.packed, files))))


def _packed_header(packed: PackedImages, files: Mapping[int, str], image_id: int) -> Header:
    try:
        with decoding(f"the image {files[image_id]}"):
            data = packed[image_id]
    except UnreadableImage as error:
        return Header(problem=str(error))
    return header_of(data, files[image_id])


class _Sized(NamedTuple):
    """Image entries that can be used."""

    usable: list[dict[str, Any]]  # entries with a file and a size
    measured: frozenset[int]  # ids of images whose sizes were read from their files


def _set_sizes(
    found: Annotations,
    images: Images,
    headers: Mapping[int, Header],
    located: Located,
    options: SplitOptions,
    complain: Complain,
) -> tuple[_Sized, list[str]]:
    """Sets missing sizes in place from the image files, or all sizes if `data.sizes` is "images"."""
    unknown: list[str] = []  # messages about images of unknown size
    measured = set()
    absent = 0
    other = 0
    for image in images:
        header, sized = headers.get(image["id"]), is_sized(image)
        if header is None or (sized and options.sizes != "images"):
            continue
        if header.problem:
            if not sized:  # otherwise the problem is reported when the image is read
                unknown.append(f"image id {image['id']} has no size in its annotations, and {header.problem}")
            continue
        size = header.upright_size if options.upright == "yes" else header.size
        absent += not sized
        other += sized and size != (image["width"], image["height"])
        image["width"], image["height"] = size
        measured.add(image["id"])
    if not options.keep_absent:
        for sentence in unknown:
            complain(sentence)
    usable = [image for image in images if image["id"] in located.files and is_sized(image)]
    origin, notes = found.origin, []
    if absent and found.has_sizes:
        notes.append(f"{absent} images have no valid size in {origin}; their sizes are read from the image files")
    if other:
        notes.append(f"the sizes of {other} images differ from those in {origin}; those in the image files are used")
    if located.absent:
        lists = f"{len(located.absent)} images listed in {origin} do not exist (for example {located.absent[0]})"
        notes.append(f"{lists}; they are treated as unreadable")
    if unknown and options.keep_absent:
        left = f"{len(unknown)} images in {origin} are skipped because their sizes are unknown"
        notes.append(f"{left} ({unknown[0]})")
    return _Sized(usable, frozenset(measured)), notes


def _decide(
    found: Annotations, images: Images, headers: Mapping[int, Header], measured: Collection[int], options: SplitOptions
) -> ExifDecision:
    """Decides how images with an EXIF rotation are read. Relative boxes fit either orientation, so they are ignored."""
    turned = {i["id"] for i in images if i["id"] in headers and headers[i["id"]].orientation > 1}
    names = {c["id"]: c["name"] for c in found.content["categories"]}
    usable: dict[int, list] = {}
    if turned and not found.boxes.endswith("_shares"):
        for image_id, annotations in annotations_of(turned, found.content).items():
            usable[image_id] = [a for a in annotations if not wrong_box(a, found.origin, names)]
    return decide(options.upright, images, headers, usable, measured, options.settled.exif)


class _Boxes(NamedTuple):
    """The boxes of a split."""

    examples: ExampleTable
    dropped: dict[str, int]
    xywh: np.ndarray  # float64 [n, 4], annotated boxes without crowds
    sizes: np.ndarray  # float64 [n, 2], (width, height) of the image of each box


def _read_boxes(
    content: Content, images: Images, files: Mapping[int, str], labels: Labels, origin: str, complain: Complain
) -> _Boxes:
    """Returns the training examples and their boxes; raises `InputError` if there are no images."""
    names = {c["id"]: c["name"] for c in content["categories"]}
    by_image = annotations_of((image["id"] for image in images), content)
    examples = []
    annotated = []
    dropped = {"crowd": 0, "empty": 0}
    for image in images:
        boxes = []
        numbers = []
        areas = []
        for annotation in by_image[image["id"]]:
            sentence = wrong_box(annotation, origin, names) or labels.wrong(annotation, origin)
            if sentence is not None:
                complain(sentence)
                continue
            if annotation.get("iscrowd"):
                dropped["crowd"] += 1
                continue
            annotated.append((*annotation["bbox"], image["width"], image["height"]))
            box, area = clip_to_image(annotation["bbox"], image), annotation.get("area")
            width, height = box[2:] - box[:2]
            if width <= 0 or height <= 0:
                dropped["empty"] += 1
                continue
            boxes.append(box)
            numbers.append(labels.of_category[annotation["category_id"]])
            areas.append(width * height if area is None else area)
        targets = np.array(boxes, np.float32).reshape(-1, 4), np.array(numbers, np.int32), np.array(areas, np.float32)
        examples.append(Example(image["id"], files[image["id"]], image["width"], image["height"], *targets))
    if not examples:
        none = "has no usable images" if content["images"] else "lists no images"
        raise InputError(f"{origin} {none}.")
    table = np.array(annotated, np.float64).reshape(-1, 6)
    return _Boxes(ExampleTable(examples), dropped, table[:, :4], table[:, 4:])


def _dark_note(
    images: Images, files: Mapping[int, str], headers: Mapping[int, Header], origin: str, options: SplitOptions
) -> list[str]:
    if options.sixteen_bit != "full":
        return []
    sixteen = [i["id"] for i in images if i["id"] in headers and headers[i["id"]].sixteen]
    return dark_note([files[image_id] for image_id in sixteen], origin)


def _orphan_note(content: Content, origin: str) -> list[str]:
    """Returns a note with the number of annotations that are ignored, if there are any."""
    orphans = orphans_of(content)
    if not orphans:
        return []
    first, *_ = orphans
    of = f"refer to unlisted images (for example image id {first})"
    return [f"{sum(orphans.values())} annotations in {origin} {of}; they are ignored"]


def _reopened(
    open_annotations: OpenAnnotations, options: SplitOptions, examples: ExampleTable, measured: Collection[int]
) -> Content:
    """Reads the annotations again in COCO format, and sets the sizes that were read from the image files."""
    found = open_annotations(lambda _: None)
    sizes = dict(zip(examples.image_ids.tolist(), examples.sizes.tolist()))
    for image in found.content["images"]:
        if image["id"] in measured and image["id"] in sizes:
            image["width"], image["height"] = sizes[image["id"]]
    if found.boxes:
        to_coco(found.content, found.boxes, keep_areas=True)
    else:
        to_coco(found.content, options.boxes)
    return found.content
