"""Reads videos, cameras and animations frame by frame, and writes drawn videos. Does not import jax.

Everything except reading animations requires the extra `video`.
"""

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from yolos_jax.datasets.frames import animation
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage, decoding
from yolos_jax.inference.inputs import CAMERA, Input
from yolos_jax.user_files import check_file

# FFmpeg's input format and device name for a camera, by platform.
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
CODECS = ("libx264", "libopenh264", "mpeg4")  # for drawn videos; the first available one is used
STREAM_SECONDS = (20.0, 30.0)  # timeouts for opening a stream, and for its next frame
MOST_BYTES = 2**42  # maximum size of a video file
TICKS = 60_000  # timestamp units per second: exact for common frame rates, and within MPEG-4's limit


class Film(NamedTuple):
    """A video's metadata."""

    turn: int = 0  # counterclockwise rotation for display, in degrees
    aspect: Fraction = Fraction(1)  # width of a pixel / its height, before rotation
    sound: bool = False


class Still(NamedTuple):
    """A frame of a video, camera or animation."""

    number: int  # starting at 0
    seconds: float  # since the first frame
    image: Image.Image  # RGB
    lasts: float = 0.0  # duration in seconds; 0 if unknown
    film: Film = Film()


def need_av() -> Any:
    """Imports and returns the package av; raises `InputError` if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise InputError("videos and cameras need the package av; run pip install 'yolos-jax[video]'.") from error
    return av


def has_av() -> bool:
    """Whether the package av is installed."""
    try:
        need_av()
    except InputError:
        return False
    return True


def frames(source: Input, upright: bool = True, stretch: bool = False) -> Iterator[Still]:
    """The frames of an animation, video or camera; see `stills` and `datasets.frames.animation`."""
    if source.kind != "animation":
        yield from stills(source, upright)
        return
    for number, frame in enumerate(animation(source.name, upright, stretch)):
        yield Still(number, frame.seconds, frame.image, frame.lasts)


def stills(source: Input, upright: bool = True) -> Iterator[Still]:
    """The frames of a video or camera; with `upright`, rotated according to the video's metadata.

    Raises:
      UnreadableImage: the source cannot be opened, or reading fails after some frames were returned.
      InputError: the extra `video` is not installed.
    """
    av = need_av()
    try:
        with _open(av, source) as container:
            if not container.streams.video:
                raise UnreadableImage(f"the video {source.name} has no frames.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            aspect = stream.sample_aspect_ratio or Fraction(1)
            sound = bool(container.streams.audio)
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            first = None
            for number, frame in enumerate(container.decode(stream)):
                seconds = number / rate if frame.time is None else float(frame.time)
                first = seconds if first is None else first
                image = frame.to_image()
                turn = int(getattr(frame, "rotation", 0))
                if upright and turn:
                    image = image.rotate(turn, expand=True)
                lasts = float((frame.duration or 0) * frame.time_base) or 1 / rate
                yield Still(number, round(seconds - first, 6), image, lasts, Film(turn, aspect, sound))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = " ".join(reason.split())
        raise UnreadableImage(f"the {source.kind} {source.name} cannot be read ({reason}).") from error


def _open(av: Any, source: Input) -> Any:
    camera = CAMERA.fullmatch(source.name) if source.kind == "camera" else None
    if camera is None:
        if source.kind == "video":
            with decoding(f"the video {source.name}"):
                check_file(source.name, "the video", MOST_BYTES)  # a named pipe would block
        return av.open(source.name, timeout=STREAM_SECONDS if source.kind == "stream" else None)
    if sys.platform not in CAMERAS:
        raise InputError(f"cameras are not supported on {sys.platform}; use a video file.")
    kind, name = CAMERAS[sys.platform]
    return av.open(name.format(camera[1]), format=kind)


class DrawnVideo:
    """Writes a silent video of drawn frames with the timing of its source. Frames are resized to the first one's size.

    Args:
      path: the output file.
      aspect: width of a pixel / its height.
    """

    def __init__(self, path: Path, aspect: Fraction = Fraction(1)):
        self._av, self._path, self._aspect = need_av(), path, aspect
        self._container: Any = None
        self._stream: Any = None
        self._last = -1
        self._lasts = 1

    def add(self, image: Image.Image, seconds: float, lasts: float = 0.0) -> None:
        """Appends an RGB frame that is shown from `seconds` until the next frame; the last one for `lasts` seconds."""
        if self._container is None:
            self._begin(image.size)
        size = self._stream.width, self._stream.height
        if image.size != size:  # odd sides of a video are extended by one pixel
            image = image.resize(size)
        frame = self._av.VideoFrame.from_image(image)
        self._last = max(round(seconds * TICKS), self._last + 1)
        self._lasts = max(round(lasts * TICKS), 1)
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._write(frame)

    def close(self) -> None:
        """Completes the file; without frames, nothing is written."""
        if self._container is not None:
            self._write(None)
            self._container.close()

    def _write(self, frame: Any) -> None:
        """Encodes a frame; None flushes the encoder."""
        for packet in self._stream.encode(frame):
            if packet.pts == self._last:  # the duration of other frames follows from the next timestamp
                packet.duration = self._lasts
            self._container.mux(packet)

    def _begin(self, size: tuple[int, int]) -> None:
        codec = next(name for name in CODECS if name in self._av.codecs_available)
        self._container = self._av.open(str(self._path), "w")
        self._stream = self._container.add_stream(codec, rate=Fraction(25))
        self._stream.width, self._stream.height = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.max_b_frames = 0  # B-frames would break the durations
        self._stream.codec_context.sample_aspect_ratio = self._aspect
        self._stream.codec_context.time_base = self._stream.time_base = Fraction(1, TICKS)
