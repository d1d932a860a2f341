"""Opens a split of a data set after recognising its layout. Does not import jax."""

from functools import partial
from pathlib import Path
from typing import Any

from yolos_jax.datasets.annotations import Annotations, Complain, OpenAnnotations, stop
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.examples import read_split
from yolos_jax.datasets.layouts import (
    coco_folder,
    crowdhuman,
    dota,
    hf_datasets,
    imagefolder,
    roboflow,
    tfds,
    ultralytics,
    unsupported,
    visdrone,
    voc,
    wider_face,
)
from yolos_jax.datasets.settings import Settled, SplitOptions
from yolos_jax.datasets.splits import choose
from yolos_jax.errors import InputError
from yolos_jax.user_files import reading

# The first layout that finds splits is used.
LAYOUTS: tuple[Any, ...] = (
    hf_datasets, tfds, roboflow, coco_folder, ultralytics, voc, imagefolder, visdrone, wider_face, dota, crowdhuman,
)  # fmt: skip


def open_split(
    data: Any, which: str, num_classes: int = 0, settled: Settled | None = None, complain: Complain = stop
) -> DataSet:
    """Opens the data set for "train" or "val", in the layout of `data.root`.

    Args:
      which: "train" or "val".
      data: the settings of `SplitSettings`, `AmountSettings` and `AnnotationSettings`.
      num_classes: number of classes of the model; 0 derives it from the categories.
      settled: properties that a checkpoint or the training split has already determined.
      complain: see `read_split`.

    Raises:
      MissingSplit: the split does not exist.
      InputError: the split cannot be read.
    """
    split = getattr(data, f"{which}_split")
    annotations, images = getattr(data, f"{which}_annotations"), getattr(data, f"{which}_images")
    options = SplitOptions(
        which=which,
        num_classes=num_classes,
        max_images=data.max_images,
        categories=data.categories,
        boxes=getattr(data, f"{which}_boxes"),
        names=data.names,
        upright=data.upright,
        sixteen_bit=data.sixteen_bit,
        sizes=data.sizes,
        keep_absent=data.on_bad_image == "skip",
        settled=settled or Settled(),
    )
    return read_split(find_split(Path(data.root), split, annotations, images), options, complain)


def find_split(root: Path, wanted: str, annotations: str = "", images: str = "") -> OpenAnnotations:
    """Returns a function that opens a split of the data set in `root`.

    Args:
      wanted: the name of the split, or another common name for it; see `splits.choose`.
      annotations, images: a COCO annotation file and an image folder that replace those of the data set; either may be
        empty.

    Raises:
      InputError: see `recognise`.
      MissingSplit: the data set does not have the split.
    """
    if not (annotations and images) and not root.exists():
        raise InputError(f"the data folder {root} does not exist; set --config.data.root.")
    records = tfds.directory_of(root) if annotations and not images else None
    if records:
        split, _ = choose(wanted, tfds.splits(records), f"{root} ({tfds.NAME})")
        return partial(tfds.read, records, split, Path(annotations))
    if annotations or images:
        return _named_files(root, wanted, annotations, images)
    name, splits, notes = recognise(root)
    split, more = choose(wanted, splits, f"{root} ({name})")
    return partial(_open_noted, splits[split], [*notes, *more])


def recognise(root: Path) -> tuple[str, dict[str, OpenAnnotations], list[str]]:
    """Returns the name of a folder's layout, a dict from split names to functions that open the splits, and notes.

    Raises:
      InputError: the folder does not exist or its layout is not supported. For an unsupported layout, the message
        suggests a conversion.
    """
    if not root.exists():
        raise InputError(f"the data folder {root} does not exist; set --config.data.root.")
    found, refused = [], []
    for layout in LAYOUTS:
        try:
            with reading(f"the data folder {root}"):
                splits = layout.splits(root)
        except InputError as error:
            refused.append(error)
            continue
        found += [(layout.NAME, splits)] if splits else []
    if refused and not found:
        raise refused[0]
    if not found:
        raise InputError(unsupported.explain(root, [layout.NAME for layout in LAYOUTS]))
    (name, splits), *others = found
    also = ", ".join(other for other, _ in others)
    notes = [f"{root} is read as {name}, but could also be read as {also}"] if also else []
    notes += [f"{root} is read as {name}; {str(error).rstrip('.')}" for error in refused]
    return name, splits, notes


def _named_files(root: Path, wanted: str, annotations: str, images: str) -> OpenAnnotations:
    """Returns a function that opens a COCO annotation file and an image folder; at least one of them must be given."""
    folder = Path(images or coco_folder.image_folder(root, wanted))
    if annotations:
        return partial(coco_folder.read, Path(annotations), folder)
    files = dict(coco_folder.files(root))
    if files:
        return partial(coco_folder.read, files[choose(wanted, files, str(root))[0]], folder)
    return partial(coco_folder.read, root / "annotations" / f"{coco_folder.INSTANCES}{wanted}.json", folder)


def _open_noted(open_annotations: OpenAnnotations, notes: list[str], complain: Complain) -> Annotations:
    found = open_annotations(complain)
    found.notes[:0] = notes
    return found
