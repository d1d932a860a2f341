"""The state of the page: detectors, recently analysed images, and the clicked token."""

import csv
import dataclasses
import functools
import io
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage, decoding, read_rgb
from yolos_jax.inference.detections import Detections
from yolos_jax.inference.detector import Detector
from yolos_jax.inference.fonts import font_of
from yolos_jax.inference.inputs import VIDEO_ENDINGS, Input
from yolos_jax.inference.video import stills
from yolos_jax.tools.analysis.attention_maps import Seen, look_at
from yolos_jax.user_files import MOST_IMAGE, read_bytes, read_text

MOST_PIXELS = 40_000_000  # maximum number of pixels of an image; even a small file can contain more
KEPT, KEPT_BYTES = 32, 2**30  # maximum number of cached results over all visitors, and their maximum size in bytes
FRAMES, MOST_FRAMES = 12, 20_000  # minimum number of frames shown of a long video; maximum length of a video in frames
THUMBNAIL, SHOWN = 128, 48  # maximum sides of thumbnails in pixels; maximum number of thumbnails
LOADED = 2  # maximum number of detectors kept in memory
GONE = "this image is no longer cached, because others have been analysed since; choose it again."


class Picture(NamedTuple):
    """An image file, or a frame of a video file; frames are numbered from 0."""

    path: Path
    frame: int | None = None

    @property
    def name(self) -> str:
        """The name shown to visitors."""
        return self.path.name if self.frame is None else f"{self.path.name}, frame {self.frame}"

    @property
    def stem(self) -> str:
        """The base name of the files offered for download."""
        return self.path.stem if self.frame is None else f"{self.path.stem}-frame{self.frame}"


class AttentionViewer:
    """Loads detectors by name and caches their results; thread-safe.

    Args:
      checkpoints: yolos-jax checkpoints, Hugging Face folders or hub ids; the first one is selected initially.
      short_side, max_side: see `Detector.load`.
      tokens: a CSV file with statistics of the first checkpoint's tokens, one row per token, with its number in the
        column `token`; "" for none.
      font: a font file for class names; by default DejaVu Sans.
    """

    def __init__(
        self,
        checkpoints: Sequence[str],
        short_side: int | None = None,
        max_side: int | None = None,
        tokens: str = "",
        font: str = "",
    ):
        if not checkpoints:
            raise InputError("the page needs at least one checkpoint.")
        font_of(10, font)  # raises an error if it is not a font
        self.font = font
        self.names = list(dict.fromkeys(map(str, checkpoints)))
        self._load = functools.lru_cache(LOADED)(lambda name: Detector.load(name, short_side, max_side))
        self._lock = threading.RLock()
        self._kept: OrderedDict[str, tuple[str, Seen]] = OrderedDict()
        self._statistics = read_statistics(tokens) if tokens else {}

    def detector(self, name: str) -> Detector:
        """The detector called `name`; raises `InputError` if the name is unknown or the checkpoint unusable."""
        if name not in self.names:
            raise InputError(f"there is no checkpoint {name!r:.80} on this page.")
        with self._lock:
            return self._load(name)

    def look(self, name: str, picture: str | Path | Picture) -> str:
        """Runs the detector on an image or frame and caches every token's attention in every block; returns its key.

        Raises:
          UnreadableImage: the file is not an image, is corrupted, or has more than `MOST_PIXELS` pixels.
          InputError: see `detector`.
        """
        image = read_picture(picture)
        with self._lock:
            detector = self.detector(name)
            seen = look_at(detector, image, tuple(range(detector.config.depth)))
            return self.keep(name, dataclasses.replace(seen, attention=seen.attention.astype(np.float16)))

    def keep(self, name: str, seen: Seen) -> str:
        """Caches the result of a checkpoint and returns its key; drops the oldest results if the cache is full."""
        with self._lock:
            key = secrets.token_hex(8)
            self._kept[key] = name, seen
            while len(self._kept) > KEPT or (
                len(self._kept) > 1 and sum(kept.attention.nbytes for _, kept in self._kept.values()) > KEPT_BYTES
            ):
                self._kept.popitem(last=False)
            return key

    def seen(self, key: str | None) -> Seen:
        """The result cached by `look`; raises `InputError` if it is no longer cached."""
        with self._lock:
            if key is None or key not in self._kept:
                raise InputError(GONE if key else "choose an image first.")
            self._kept.move_to_end(key)
            return self._kept[key][1]

    def statistics(self, key: str, token: int) -> dict[str, str]:
        """A token's statistics by column name; empty if there are none for its checkpoint."""
        with self._lock:
            mine = key in self._kept and self._kept[key][0] == self.names[0]
        return self._statistics.get(token, {}) if mine else {}


def read_picture(picture: str | Path | Picture) -> Image.Image:
    """Reads a file as an upright RGB image; the message of `UnreadableImage` omits the file's folder."""
    path, frame = picture if isinstance(picture, Picture) else (picture, None)
    if frame is not None:
        return next(still.image for still in stills(Input("video", str(path))) if still.number == frame)
    content = read_bytes(path, most=MOST_IMAGE)
    name = f"the image {Path(path).name:.80}"
    with decoding(name), Image.open(io.BytesIO(content)) as image:
        if image.width * image.height > MOST_PIXELS:
            most = f"{MOST_PIXELS / 1e6:.0f} million"
            raise UnreadableImage(f"it has {image.width}x{image.height} pixels; at most {most} are accepted.")
    return read_rgb(content, name)


def is_video(path: Path) -> bool:
    """Whether a file has the extension of a video."""
    return path.suffix.lower() in VIDEO_ENDINGS


def frames_of(path: Path, side: int) -> list[tuple[Picture, Image.Image]]:
    """Reads evenly spaced frames of a video, starting with the first, with thumbnails of at most `side` pixels.

    Returns all frames of a short video, otherwise at least `FRAMES` and fewer than twice that number.

    Raises:
      UnreadableImage: the video cannot be read, or exceeds `MOST_FRAMES` frames or `MOST_PIXELS` pixels per frame.
      InputError: the optional packages for `video` are not installed.
    """
    kept: list[tuple[Picture, Image.Image]] = []
    step = 1
    for still in stills(Input("video", str(path))):
        if still.number == MOST_FRAMES or still.image.width * still.image.height > MOST_PIXELS:
            most = f"{MOST_FRAMES} frames of {MOST_PIXELS / 1e6:.0f} million pixels"
            raise UnreadableImage(f"the video {path.name:.80} is too long or too large; at most {most} are accepted.")
        if still.number % step:
            continue
        still.image.thumbnail((side, side))
        kept.append((Picture(path, still.number), still.image))
        if len(kept) == 2 * FRAMES:
            kept = kept[::2]
            step *= 2
    return kept


class Thumbnails(NamedTuple):
    """Thumbnails of the first images and video frames of some files, at most `SHOWN`."""

    pictures: list[tuple[Picture, Image.Image]]  # the images and frames, each with its thumbnail
    unreadable: int  # number of files that cannot be read
    beyond: int  # number of files beyond the limit


def thumbnails(paths: Sequence[Path]) -> Thumbnails:
    """Creates thumbnails of the first readable files."""
    found: list[tuple[Picture, Image.Image]] = []
    unreadable = 0
    for number, path in enumerate(paths):
        if len(found) >= SHOWN:
            return Thumbnails(found[:SHOWN], unreadable, len(paths) - number)
        try:
            found += small_copies(path)
        except (UnreadableImage, OSError):
            unreadable += 1
    return Thumbnails(found[:SHOWN], unreadable, 0)


def small_copies(path: Path) -> list[tuple[Picture, Image.Image]]:
    """Reads an image, or frames of a video, with thumbnails; raises the errors of `read_picture` and `frames_of`."""
    if is_video(path):
        return frames_of(path, THUMBNAIL)
    image = read_picture(path)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return [(Picture(path), image)]


def token_at(seen: Seen, x: float, y: float, threshold: float) -> int | None:
    """The token of the clicked box: the smallest box with at least this score that contains the point.

    Args:
      x, y: the clicked point, in pixels of the image.
    """
    tokens = seen.over(threshold)
    boxes = seen.boxes[tokens]
    inside = ((boxes[:, :2] <= (x, y)) & ((x, y) <= boxes[:, 2:])).all(1)
    if not inside.any():
        return None
    areas = np.where(inside, (boxes[:, 2:] - boxes[:, :2]).prod(1), np.inf)
    return int(tokens[areas.argmin()])


def choices(seen: Seen) -> list[tuple[str, int]]:
    """Dropdown entries (text, token) of all tokens, best first."""
    return [(f"#{i} {seen.names[i]} {seen.scores[i]:.2f}", int(i)) for i in seen.over(0.0)]


def found_over(seen: Seen, threshold: float) -> Detections:
    """The detections with at least this score."""
    tokens = seen.over(threshold)
    names = [seen.names[i] for i in tokens]
    return Detections(seen.boxes[tokens], seen.scores[tokens], seen.labels[tokens], names, seen.image.size)


def read_statistics(path: str | Path) -> dict[int, dict[str, str]]:
    """Reads the rows of a CSV file, by the number in the column `token`; raises `InputError` without this column."""
    text = read_text(path, "the table of tokens")
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        return {int(row["token"]): {k: _rounded(v) for k, v in row.items() if k != "token"} for row in rows}
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is not a table of tokens: it needs a column `token` with token numbers.") from error


def _rounded(text: str) -> str:
    """Rounds a number to at most three decimals; returns any other text unchanged."""
    try:
        return f"{float(text):.3f}".rstrip("0").rstrip(".")
    except ValueError:
        return text
