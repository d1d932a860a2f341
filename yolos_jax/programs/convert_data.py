"""Converts a data set in any supported layout to a plain COCO folder, or to the TFDS data set coco/2017.

yolos-convert-data data/mine --out data/mine_coco
yolos-convert-data data/coco --to tfds --out data/tfds

docs/data.md lists the layouts: Roboflow, Ultralytics YOLO, Pascal VOC, imagefolder, Hugging Face datasets, variants of
COCO, and TFDS. The original data set is not changed.

--to coco writes OUT/annotations/instances_SPLIT.json and OUT/SPLIT/ for every split. Splits with common names, such as
valid, are renamed to train, val or test. Images are linked, or copied if they are not separate files.

--to tfds writes OUT/coco/2017/1.1.0 (array_record) from the training and validation splits, with the same feature
names, types and record order as TFDS. It does not need TensorFlow, and copies image files byte for byte. To train or
evaluate on the result, set --config.data.root=OUT.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from yolos_jax.datasets.settings import BOXES
from yolos_jax.errors import InputError, check_empty, check_spelling, clear_errors, counted, make_folder
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.programs.command_line import Parser


@clear_errors()
def main() -> None:
    """Converts the data set, and prints a summary of the result."""
    parser = Parser(__doc__)
    parser.add_argument("data", type=Path, help="data set: a folder or a data.yaml")
    parser.add_argument(
        "--out", required=True, type=Path, help="output folder; with --to coco, it must be empty or not exist"
    )
    parser.add_argument("--to", default="coco", choices=("coco", "tfds"), help="output format (default coco)")
    parser.add_argument("--splits", nargs="+", default=(), help="splits to convert, as named in the data set")
    parser.add_argument("--copy", action="store_true", help="copy the images instead of linking them")
    text = "box format of custom annotation files, as in data.train_boxes (default xywh)"
    parser.add_argument("--boxes", default="xywh", choices=BOXES, help=text)
    args = parser.parse()
    try:
        if args.to == "tfds":
            check_spelling(args.out)
        write_tfds(args) if args.to == "tfds" else write_coco(args)
    except (InputError, UnreadableImage) as error:
        raise InputError(str(error).replace("data.train_boxes=", "--boxes ")) from error


def write_coco(args: argparse.Namespace) -> None:
    """Writes a COCO folder."""
    from yolos_jax.datasets.examples import read_split
    from yolos_jax.datasets.opening import recognise
    from yolos_jax.datasets.settings import SplitOptions
    from yolos_jax.datasets.writing import names_of, write_split

    check_empty(args.out)
    layout, splits, notes = recognise(args.data)
    absent = [split for split in args.splits if split not in splits]
    if absent:
        raise InputError(f"{args.data} ({layout}) has no split {absent[0]}; it has {', '.join(splits)}.")
    chosen = list(args.splits or (split for split in splits if "/" not in split))
    print(f"{args.data} is {layout}: {', '.join(splits)}")
    make_folder(args.out)
    options = SplitOptions(categories="contiguous", boxes=args.boxes)
    for split, name in names_of(chosen).items():
        done = write_split(read_split(splits[split], options), name, args.out, args.copy)
        notes += done.notes
        print(f"{split}: {done.images} images, {done.boxes} boxes, as {done.split}")
    print_notes(notes)
    print(f"written: {args.out}")


def print_notes(notes: Iterable[str]) -> None:
    """Prints each note once, without its suggestion to change a recipe's settings."""
    for note in dict.fromkeys(note.split("; set data.")[0] for note in notes):
        print(f"note: {note}")


def write_tfds(args: argparse.Namespace) -> None:
    """Writes a TFDS data set."""
    from yolos_jax.datasets.opening import recognise
    from yolos_jax.datasets.tfds.build import build_records

    _, _, notes = recognise(args.data)
    folder, found = build_records(args.data, args.out, args.splits, args.boxes)
    for one in found:
        cut = f", {one.clipped} of them clipped to the image" if one.clipped else ""
        print(f"{one.split}: {one.images} images, {one.objects} objects{cut}, in {counted(one.shards, 'shard')}")
    print_notes([*notes, *(note for one in found for note in one.notes)])
    print(f"written: {folder}")
    for left in sorted(folder.parent.glob("incomplete.*")):
        print(f"note: {left} belongs to another build; remove it unless that build is still running")


if __name__ == "__main__":
    main()
