"""Prepares a COCO folder as the TFDS data set coco/2017 (array_record), without TensorFlow.

python -m yolos_jax.programs.prepare_tfds --coco data/coco --out data/tfds

Reads annotations/instances_SPLIT.json and the images in SPLIT/, for the splits train2017 and val2017 (those that are
there), and writes OUT/coco/2017/1.1.0 with TFDS's own feature names, types and order of records. Then
--config.data.root=data/tfds trains and evaluates from it. The bytes of the images stay as they are. test2017 has no
annotations and is left out.
"""

from pathlib import Path

from yolos_jax.errors import clear_errors
from yolos_jax.programs.command_line import Parser


@clear_errors()
def main() -> None:
    """Writes the data set and prints what is in it."""
    parser = Parser(__doc__)
    parser.add_argument("--coco", required=True, type=Path, help="COCO folder to read")
    parser.add_argument("--out", required=True, type=Path, help="folder to write coco/2017/1.1.0 in")
    parser.add_argument("--splits", nargs="+", default=(), help="splits to write, instead of train2017 and val2017")
    args = parser.parse()

    from yolos_jax.datasets.tfds.build import build

    folder, found = build(args.coco, args.out, args.splits)
    for one in found:
        cut = f", {one.clipped} of them clipped to their image" if one.clipped else ""
        print(f"{one.split}: {one.images} images, {one.objects} objects{cut}, in {one.shards} shard(s)")
    print(f"written: {folder}")
    for left in sorted(folder.parent.glob("incomplete.*")):
        print(f"note: {left} is another build's that runs or was cut short; remove it if none runs")


if __name__ == "__main__":
    main()
