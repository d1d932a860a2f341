"""Detects objects in images, videos and camera streams, and writes an annotated copy and a JSON file for each.

yolos-predict image.jpg folder/ 'more/**/*.png' https://example.org/a.jpg film.mp4 --checkpoint runs/s --out out/

A folder is expanded to its images that Pillow can read (with --recursive, also those in subfolders), and a quoted
pattern to all matching files. camera:0 is the first camera, which is read until Ctrl-C. --format selects the output:
json (one file per image), coco (results.json and images.json), yolo (one label file per image) or csv (detections.csv).
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import itertools
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from yolos_jax.accelerators.precision import PRECISIONS
from yolos_jax.address import names_at
from yolos_jax.datasets.frames import open_page
from yolos_jax.datasets.headers import dark_files, header_of
from yolos_jax.errors import InputError, clear_errors, counted, make_folder
from yolos_jax.images.reading import (
    HEIF,
    HELP_WITH_HEIF,
    TooManyPixels,
    UnreadableImage,
    decode,
    decoding,
    image_endings,
    open_rgb,
)
from yolos_jax.inference import inputs, outputs, video
from yolos_jax.inference.fetching import fetch
from yolos_jax.inference.fonts import font_of, missing_note
from yolos_jax.inference.outputs import FORMATS, Destination, Frame, Writer
from yolos_jax.programs.command_line import Parser, say


def parse_flags() -> argparse.Namespace:
    """Parses and checks the command line."""
    parser = Parser(__doc__)
    parser.addresses = ("checkpoint", "out")
    text = "images, folders, quoted patterns, http(s) URLs, videos, camera:N, rtsp:// streams, or .txt/.csv lists"
    parser.add_argument("images", nargs="+", metavar="INPUT", help=text)
    parser.add_detector_flags()
    text = "output folder, or address such as gs://bucket/found"
    parser.add_argument("--out", required=True, help=text)
    parser.add_argument("--format", choices=FORMATS, default="json", help="format of the detections (default json)")
    parser.add_argument("--no-draw", action="store_true", help="do not write annotated copies")
    parser.add_argument("--recursive", action="store_true", help="also search subfolders")
    parser.add_font_flag()
    parser.add_argument("--threshold", type=float, default=0.5, help="minimum score to report (default 0.5)")
    parser.add_nms_flag()
    parser.add_argument("--batch-size", type=int, default=1, help="images per batch (default 1)")
    text = "float32 (default); tensorfloat32 and bfloat16 are faster on GPUs, see docs/accelerators.md"
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help=text)
    parser.add_argument(
        "--limit", type=int, default=0, help="process at most this number of images, and of frames per video"
    )
    text = "ignore the EXIF orientation, as data.upright=no does; boxes refer to the stored image"
    parser.add_argument("--as-stored", action="store_true", help=text)
    text = "scale each 16-bit image to its own maximum (default: as in training)"
    parser.add_argument("--stretch", action="store_true", help=text)
    text = "disable Pillow's decompression-bomb limit; only for images that you trust"
    parser.add_argument("--large-images", action="store_true", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace files from an earlier run")
    text = "cache of compiled programs: auto (the user's cache folder), off, or a folder"
    parser.add_argument("--compilation-cache", default="auto", metavar="WHERE", help=text)
    args = parser.parse()
    if args.batch_size < 1 or args.limit < 0 or not 0 <= args.threshold <= 1:
        raise InputError("--batch-size must be at least 1, --limit at least 0, and --threshold between 0 and 1.")
    if min(args.short_side or 1, args.max_side or 1) < 1:
        raise InputError("--short-side and --max-side must be at least 1.")
    return args


@dataclasses.dataclass
class Prediction:
    """The detector, the options, and the results so far."""

    args: argparse.Namespace
    detector: Any
    writer: Writer
    objects: int = 0
    images: int = 0
    frames: int = 0
    skipped: list[str] = dataclasses.field(default_factory=list)  # one sentence per input
    notes: list[str] = dataclasses.field(default_factory=list)  # one sentence per note
    films: bool = True  # whether drawn videos can be written

    @property
    def stretch(self) -> bool:
        return self.args.stretch or self.detector.stretch


def read_image(run: Prediction, destination: Destination) -> Image.Image | str:
    """The image as RGB, or the reason why it cannot be read."""
    source, upright, stretch = destination.input, not run.args.as_stored, run.stretch
    name = source.name
    try:
        if source.kind == "address":
            data = fetch(name)
            frames = header_of(data).frames
            if frames > 1:
                left = "of which only the first is used; download the file to process all"
                run.notes.append(f"the address {name} has {frames} frames or pages, {left}")
            with decoding(f"the image {name}"):
                image = decode(io.BytesIO(data), upright, stretch)
        elif source.page:
            image = open_page(name, source.page, upright, stretch)
        else:
            image = open_rgb(name, upright, stretch)
    except TooManyPixels as error:
        return f"{str(error).rstrip('.')}; use --large-images to read it."
    except UnreadableImage as error:
        lacking = HEIF - image_endings() if Path(name).suffix.lower() in HEIF else ()
        return f"{error} {HELP_WITH_HEIF}." if lacking else str(error)
    return image if upright else Image.fromarray(np.asarray(image))  # without EXIF, so it is not rotated later


def read_ahead(run: Prediction, wanted: Sequence[Destination]) -> Iterator[list[tuple[Destination, Image.Image | str]]]:
    """Batches of images, or reasons why they cannot be read; a batch is read while the previous one is processed."""
    size, read = run.args.batch_size, functools.partial(read_image, run)
    due: Iterator[tuple[Destination, Image.Image | str]] | None = None
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(wanted), size):
            batch = wanted[start : start + size]
            following = zip(batch, pool.map(read, batch))  # starts reading in the background
            if due is not None:
                yield list(due)
            due = following
        if due is not None:
            yield list(due)


def look_at_images(run: Prediction, wanted: Sequence[Destination]) -> None:
    """Runs the detector on images, and draws the results."""
    with tqdm(total=len(wanted), unit="image", desc="detecting") as bar:
        for batch in read_ahead(run, wanted):
            run.skipped += [image for _, image in batch if isinstance(image, str)]
            readable = [(destination, image) for destination, image in batch if not isinstance(image, str)]
            found = run.detector([image for _, image in readable], run.args.threshold)
            for (destination, image), one in zip(readable, found):
                run.writer.add(destination, one)
                if not run.args.no_draw:
                    one.draw(image, run.args.font).save(run.args.out / outputs.drawn(destination))
            run.objects += sum(map(len, found))
            run.images += len(readable)
            bar.update(len(batch))


def notes_on(source: inputs.Input, film: video.Film, upright: bool) -> list[str]:
    """Differences between a drawn video and its source, one sentence each."""
    notes = []
    if film.sound:
        notes.append(f"{source.name} has sound, but the drawn copy does not")
    if film.turn and not upright:
        notes.append(f"{source.name} is marked as rotated by {film.turn} degrees; the drawn copy is not rotated")
    if film.aspect != 1:
        kept = "the drawn copy has the same aspect ratio, and boxes are in stored pixels"
        notes.append(f"{source.name} has pixels that are {film.aspect} times as wide as they are high; {kept}")
    return notes


def begin_drawing(run: Prediction, destination: Destination, still: video.Still) -> video.DrawnVideo:
    """Opens the drawn copy of a video; `still` is its first frame."""
    upright = not run.args.as_stored
    turn, aspect, _ = still.film
    run.notes += notes_on(destination.input, still.film, upright)
    across = upright and turn % 180 != 0
    return video.DrawnVideo(run.args.out / outputs.drawn(destination), 1 / aspect if across else aspect)


def look_at_video(run: Prediction, destination: Destination) -> None:
    """Runs the detector on the frames of an animation, video or camera, and draws the results as a video."""
    args = run.args
    batch: list[video.Still] = []
    drawn: list[video.DrawnVideo] = []  # at most one, created at the first frame
    every = video.frames(destination.input, not args.as_stored, run.stretch)
    stills = itertools.islice(every, args.limit or None)
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(tqdm(None, f"detecting in {Path(destination.input.name).name}", unit="frame"))

        def look() -> None:
            due = batch.copy()
            batch.clear()  # so that nothing is written twice after an interrupt
            if due and not drawn and run.films and not args.no_draw:
                drawn.append(begin_drawing(run, destination, due[0]))
                stack.callback(drawn[0].close)
            found = run.detector([still.image for still in due], args.threshold)
            for still, one in zip(due, found):
                run.writer.add(destination, one, Frame(still.number, still.seconds))
                for copy in drawn:
                    copy.add(one.draw(still.image, args.font), still.seconds, still.lasts)
            run.objects += sum(map(len, found))
            run.frames += len(due)
            bar.update(len(due))

        try:
            for still in stills:
                batch.append(still)
                if len(batch) == args.batch_size:
                    look()
        except UnreadableImage as error:  # earlier frames are kept
            run.skipped.append(str(error))
        except KeyboardInterrupt:
            if not destination.input.endless:  # Ctrl-C is how an endless input ends
                raise
        look()


def print_report(run: Prediction, wanted: Sequence[Destination]) -> None:
    """Prints a summary, and raises `InputError` if inputs could not be read."""
    for reason in run.skipped:
        print(f"skipped: {reason}")
    for note in run.notes:
        print(f"note: {note}")
    files = dict.fromkeys(destination.input.name for destination in wanted if destination.input.kind == "image")
    for name in dark_files([] if run.stretch else list(files)):
        print(f"note: {name} has 16 bits but uses fewer, so it becomes almost black; use --stretch to brighten it")
    moving = any(destination.input.moves for destination in wanted)
    frames = f" and {counted(run.frames, 'frame')} of videos" if moving else ""
    seen = f"{counted(run.images, 'image')}{frames}"
    print(f"{counted(run.objects, 'object')} in {seen}, {len(run.skipped)} unreadable; written to {run.args.out}")
    if run.skipped:
        noun = "inputs" if moving else "images"
        what = f"{len(run.skipped)} of {len(wanted)} {noun}"
        raise InputError(f"{what} could not be read, the first: {run.skipped[0]}")


@contextlib.contextmanager
def pixel_limit(off: bool) -> Iterator[None]:
    """Keeps or disables Pillow's limit on the number of pixels; suppresses its warning above half of that limit."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = None if off else before
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


@clear_errors()
def main() -> None:
    """Runs the program."""
    args = parse_flags()
    with pixel_limit(args.large_images):
        predict(args)


def predict(args: argparse.Namespace) -> None:
    """Finds the inputs, checks the output folder, and runs the detector."""
    found = inputs.find(args.images, args.recursive)
    every = inputs.with_frames(found.inputs[: args.limit or None], args.limit)
    wanted, renamed = outputs.destinations(every)
    there = names_at(args.out)
    outputs.check_free(args.out, wanted, FORMATS[args.format], not args.no_draw, args.overwrite, there)
    if any(destination.input.moves and destination.input.kind != "animation" for destination in wanted):
        video.need_av()
    font_of(10, args.font)  # rejects an invalid font before anything is loaded

    from yolos_jax.tasks.mirror import working_copy

    with working_copy(args.out, whole=False) as folder:
        args.out = make_folder(folder)
        detect(args, wanted, (*found.notes, *renamed))


def detect(args: argparse.Namespace, wanted: Sequence[Destination], notes: Sequence[str]) -> None:
    """Runs the detector on all inputs, and writes the results to the folder `args.out`."""
    from yolos_jax.inference.compiled import OFF, keep_compiled
    from yolos_jax.inference.detector import Detector

    say(keep_compiled(args.compilation_cache))
    for note in notes:
        print(f"note: {note}")
    sizes = args.short_side, args.max_side, args.batch_size
    detector = Detector.load(args.checkpoint, *sizes, OFF, args.nms, args.precision)
    print(detector.computing)
    writer = FORMATS[args.format](args.out, detector.names_by_id)
    run = Prediction(args, detector, writer, films=video.has_av())
    animations = sum(destination.input.kind == "animation" for destination in wanted)
    if animations and not run.films and not args.no_draw:
        run.notes.append(
            f"no drawn copy of {counted(animations, 'animation')}; to draw animations, pip install 'yolos-jax[video]'"
        )
    if not args.no_draw:
        say(missing_note(detector.names_by_id.values(), args.font, "--font"))
    with contextlib.closing(writer):
        look_at_images(run, [destination for destination in wanted if not destination.input.moves])
        for destination in wanted:
            if destination.input.moves:
                look_at_video(run, destination)
    print_report(run, wanted)


if __name__ == "__main__":
    main()
