"""Videos of known frames: what is read from them, and what is written. Needs the package av."""

import sys
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.inference import video
from yolos_jax.inference.inputs import Input

pytestmark = pytest.mark.parity
av = pytest.importorskip("av", reason="av is absent (the extra video)")

SIZE, RATE = (64, 48), 10


def colour(number):
    return 20 + 25 * number, 120, 250 - 25 * number


def film(path, count=8, size=SIZE, codec="ffv1"):
    """A video whose frames are of one colour each, without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *size, "bgr0" if codec == "ffv1" else "yuv420p"
        for number in range(count):
            frame = av.VideoFrame.from_image(Image.new("RGB", size, colour(number)))
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))
    return path


def test_frames_and_their_times(tmp_path):
    found = list(video.stills(Input("video", str(film(tmp_path / "a.mkv")))))
    assert [one.number for one in found] == list(range(8))
    np.testing.assert_allclose([one.seconds for one in found], np.arange(8) / RATE, atol=1e-3)
    for one in found:
        assert one.image.size == SIZE and abs(np.int32(one.image) - colour(one.number)).max() <= 1


@pytest.mark.parametrize("size", [(64, 48), (51, 33)])
def test_a_drawn_video_is_as_long_and_of_these_frames(tmp_path, size):
    """FFmpeg reads it back; odd sides gain a pixel, times need not be even."""
    times = [0.0, 0.04, 0.08, 0.5, 1.0]
    drawn = video.DrawnVideo(tmp_path / "a.mp4")
    for number, seconds in enumerate(times):
        drawn.add(Image.new("RGB", size, colour(number)), seconds)
    drawn.close()
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = list(container.decode(video=0))
    np.testing.assert_allclose([float(f.time) for f in frames], times, atol=1e-3)
    assert {(f.width, f.height) for f in frames} == {(size[0] + size[0] % 2, size[1] + size[1] % 2)}
    for number, frame in enumerate(frames):
        assert abs(np.int32(frame.to_image()) - colour(number)).mean() < 6


def test_a_video_that_says_it_is_turned(tmp_path):
    """As phones write it: lying pixels, and a matrix that turns them."""
    film(tmp_path / "a.mp4", 2, codec=next(c for c in video.CODECS if c in av.codecs_available))
    data = (tmp_path / "a.mp4").read_bytes()
    one, quarter = (1 << 16).to_bytes(4, "big"), (0xFFFF0000).to_bytes(4, "big")
    zero, last = bytes(4), (1 << 30).to_bytes(4, "big")
    upright, turned = one + zero * 3 + one + zero * 3 + last, zero + one + zero + quarter + zero * 4 + last
    at = data.index(upright, data.index(b"tkhd"))
    (tmp_path / "b.mp4").write_bytes(data[:at] + turned + data[at + len(turned) :])
    source = Input("video", str(tmp_path / "b.mp4"))
    assert [one.image.size for one in video.stills(source)] == [SIZE[::-1]] * 2
    assert [one.image.size for one in video.stills(source, upright=False)] == [SIZE] * 2


def test_a_camera_is_opened_as_the_system_calls_it(tmp_path, monkeypatch):
    """FFmpeg's own test picture in the place of a camera."""
    monkeypatch.setitem(video.CAMERAS, sys.platform, ("lavfi", "color=c=red:s=32x24:r=5:d={}"))
    found = list(video.stills(Input("camera", "camera:2")))
    assert len(found) == 10 and found[0].image.getpixel((3, 3))[0] > 200 > 60 > found[0].image.getpixel((3, 3))[1]
    monkeypatch.delitem(video.CAMERAS, sys.platform)
    with pytest.raises(InputError, match="how to open a camera"):
        next(video.stills(Input("camera", "camera:2")))


def test_what_cannot_be_read(tmp_path):
    whole = film(tmp_path / "a.mkv", 8).read_bytes()
    (tmp_path / "text.mp4").write_text("no video")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.time_base = 8000, Fraction(1, 8000)
        container.mux(stream.encode(frame))
    for name, words in (("text.mp4", "cannot be read"), ("absent.mp4", "No such file"), ("sound.wav", "no frames")):
        with pytest.raises(UnreadableImage, match=words) as failure:
            list(video.stills(Input("video", str(tmp_path / name))))
        assert name in str(failure.value) and "\n" not in str(failure.value)
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    found = []
    try:  # FFmpeg may take the end of the file for the end of the video
        found += video.stills(Input("video", str(tmp_path / "cut.mkv")))
    except UnreadableImage as error:
        assert "cut.mkv cannot be read" in str(error)
    assert len(found) < 8


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'yolos-jax\[video\]'"):
        video.need_av()
