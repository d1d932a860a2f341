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

MOST_PIXELS = 40_000_000  # limit of an image; a small file can contain very many
KEPT, KEPT_BYTES = 32, 2**30  # maximum images with cached attention, of all visitors together, and maximum bytes
FRAMES, MOST_FRAMES = 12, 20_000  # minimum frames of a video to show, and maximum frames that it may have
THUMBNAIL, SHOWN = 128, 48  # pixels of an image to choose from; maximum number of such images
LOADED = 2  # detectors kept in memory
GONE = "this image is no longer cached, since others were analysed in the meantime; choose it again."


class Picture(NamedTuple):
    """An image file, or a frame of a video file, counted from 0."""

    path: Path
    frame: int | None = None

    @property
    def name(self) -> str:
        """Its name for visitors."""
        return self.path.name if self.frame is None else f"{self.path.name}, frame {self.frame}"

    @property
    def stem(self) -> str:
        """The base name of files about it."""
        return self.path.stem if self.frame is None else f"{self.path.stem}-frame{self.frame}"


class AttentionViewer:
    """Detectors by name, and their cached results; safe to call from several threads.

    Args:
      checkpoints: folders of ours, Hugging Face folders or hub ids, the first one is selected initially.
      short_side, max_side: see `Detector.load`.
      tokens: a CSV file with statistics of the first checkpoint's tokens, one row each, with a column `token` for
        the number; "" for none.
      font: a font file for the classes' names; by default DejaVu Sans.
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
        font_of(10, font)  # raises if it is not a font
        self.font = font
        self.names = list(dict.fromkeys(map(str, checkpoints)))
        self._load = functools.lru_cache(LOADED)(lambda name: Detector.load(name, short_side, max_side))
        self._lock = threading.RLock()
        self._kept: OrderedDict[str, tuple[str, Seen]] = OrderedDict()
        self._statistics = read_statistics(tokens) if tokens else {}

    def detector(self, name: str) -> Detector:
        """The detector of one of `names`; `InputError` for any other, or if nothing usable is there."""
        if name not in self.names:
            raise InputError(f"there is no checkpoint {name!r:.80} on this page.")
        with self._lock:
            return self._load(name)

    def look(self, name: str, picture: str | Path | Picture) -> str:
        """Runs the detector on an image or frame and caches every token's attention in every block; returns its key.

        Raises:
          UnreadableImage: it is not an image, is corrupted, or has more than `MOST_PIXELS`.
          InputError: see `detector`.
        """
        image = read_picture(picture)
        with self._lock:
            detector = self.detector(name)
            seen = look_at(detector, image, tuple(range(detector.config.depth)))
            return self.keep(name, dataclasses.replace(seen, attention=seen.attention.astype(np.float16)))

    def keep(self, name: str, seen: Seen) -> str:
        """Caches the result of a checkpoint and returns its key; drops the oldest if the cache is full."""
        with self._lock:
            key = secrets.token_hex(8)
            self._kept[key] = name, seen
            while len(self._kept) > KEPT or (
                len(self._kept) > 1 and sum(kept.attention.nbytes for _, kept in self._kept.values()) > KEPT_BYTES
            ):
                self._kept.popitem(last=False)
            return key

    def seen(self, key: str | None) -> Seen:
        """The result cached by `look`; `InputError` if it was dropped."""
        with self._lock:
            if key is None or key not in self._kept:
                raise InputError(GONE if key else "choose an image first.")
            self._kept.move_to_end(key)
            return self._kept[key][1]

    def statistics(self, key: str, token: int) -> dict[str, str]:
        """A token's row of the table of tokens, by column; empty if there is no table for its checkpoint."""
        with self._lock:
            mine = key in self._kept and self._kept[key][0] == self.names[0]
        return self._statistics.get(token, {}) if mine else {}


def read_picture(picture: str | Path | Picture) -> Image.Image:
    """The RGB image of a file, upright; the message of `UnreadableImage` omits the file's folder."""
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
    """Whether a file's name is a video's."""
    return path.suffix.lower() in VIDEO_ENDINGS


def frames_of(path: Path, side: int) -> list[tuple[Picture, Image.Image]]:
    """Evenly spaced frames of a video, from its first, each with a copy of at most `side` pixels.

    All frames of a short video; otherwise at least `FRAMES`, and fewer than twice that.

    Raises:
      UnreadableImage: it cannot be read, or has more than `MOST_FRAMES` or frames of more than `MOST_PIXELS`.
      InputError: the extra `video` is not installed.
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
    """The first images and videos' frames of some files, at most `SHOWN`."""

    pictures: list[tuple[Picture, Image.Image]]  # each with a small copy
    unreadable: int  # files
    beyond: int  # files beyond the limit


def thumbnails(paths: Sequence[Path]) -> Thumbnails:
    """Small copies of the first files that can be read."""
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
    """An image file, or frames of a video, with small copies; raises what `read_picture` and `frames_of` raise."""
    if is_video(path):
        return frames_of(path, THUMBNAIL)
    image = read_picture(path)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return [(Picture(path), image)]


def token_at(seen: Seen, x: float, y: float, threshold: float) -> int | None:
    """The token of the clicked box: the smallest box with at least this score that contains the point.

    Args:
      x, y: the point in the image's pixels.
    """
    tokens = seen.over(threshold)
    boxes = seen.boxes[tokens]
    inside = ((boxes[:, :2] <= (x, y)) & ((x, y) <= boxes[:, 2:])).all(1)
    if not inside.any():
        return None
    areas = np.where(inside, (boxes[:, 2:] - boxes[:, :2]).prod(1), np.inf)
    return int(tokens[areas.argmin()])


def choices(seen: Seen) -> list[tuple[str, int]]:
    """(text of the entry in a list, token) of every token, best first."""
    return [(f"#{i} {seen.names[i]} {seen.scores[i]:.2f}", int(i)) for i in seen.over(0.0)]


def found_over(seen: Seen, threshold: float) -> Detections:
    """The detections with at least this score."""
    tokens = seen.over(threshold)
    names = [seen.names[i] for i in tokens]
    return Detections(seen.boxes[tokens], seen.scores[tokens], seen.labels[tokens], names, seen.image.size)


def read_statistics(path: str | Path) -> dict[int, dict[str, str]]:
    """Rows of a CSV file by their number in the column `token`; `InputError` if it has none."""
    text = read_text(path, "the table of tokens")
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        return {int(row["token"]): {k: _rounded(v) for k, v in row.items() if k != "token"} for row in rows}
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is not a table of tokens: it needs a column `token` with their numbers.") from error


def _rounded(text: str) -> str:
    """A number with at most three decimals; anything else unchanged."""
    try:
        return f"{float(text):.3f}".rstrip("0").rstrip(".")
    except ValueError:
        return text
