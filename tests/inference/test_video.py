"""Reads and writes videos with known frames. Requires the package `av`."""

import socket
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.inference import video
from yolos_jax.inference.inputs import Input
from yolos_jax.inference.outputs import Destination
from yolos_jax.inference.video import Still
from yolos_jax.programs import predict

pytestmark = pytest.mark.parity
av = pytest.importorskip("av", reason="av is not installed (extra video)")

SIZE, RATE = (64, 48), 10


def colour(number):
    return 20 + 25 * number, 120, 250 - 25 * number


def film(path, count=8, size=SIZE, codec="ffv1"):
    """Writes a video, lossless by default, in which each frame has a single colour."""
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
def test_a_drawn_video_has_the_same_frames_and_length(tmp_path, size):
    """Reads the video back with FFmpeg. Odd widths and heights are rounded up, and times may be irregular."""
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


def test_a_drawn_video_with_a_variable_rate_has_the_same_length(tmp_path):
    """The video lasts 9.1 s, more than half of which is the last frame."""
    lasts = [0.04, 0.04, 0.08, 1.0, 0.04, 2.0, 0.04, 5.86]
    starts = np.cumsum([0, *lasts[:-1]]).tolist()
    made = [Still(i, at, Image.new("RGB", SIZE, colour(i)), each) for i, (at, each) in enumerate(zip(starts, lasts))]
    for name, source in (("a", None), ("b", "a"), ("c", "b")):  # drawn, read, drawn again
        given = list(video.stills(Input("video", str(tmp_path / f"{source}.mp4")))) if source else made
        drawn = video.DrawnVideo(tmp_path / f"{name}.mp4")
        for still in given:
            drawn.add(still.image, still.seconds, still.lasts)
        drawn.close()
        with av.open(str(tmp_path / f"{name}.mp4")) as container:
            assert container.duration == 9_100_000  # microseconds
            frames = list(container.decode(video=0))
        np.testing.assert_allclose([float(f.time) for f in frames], starts, atol=1e-4)
        np.testing.assert_allclose([float(f.duration * f.time_base) for f in frames], lasts, atol=1e-4)


@pytest.mark.parametrize("turned", [False, True])
def test_the_pixel_aspect_ratio_is_kept(tmp_path, turned):
    """A video with 4:3 pixels keeps its aspect ratio; notes report the pixel shape and that the sound is dropped."""
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream, sound = container.add_stream("mpeg4", rate=RATE), container.add_stream("pcm_s16le", rate=8000)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", SIZE)).reformat(format="yuv420p")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.time_base = 8000, Fraction(1, 8000)
        container.mux(sound.encode(frame))
        for one in (stream, sound):
            container.mux(one.encode(None))
    (still,) = video.stills(Input("video", str(tmp_path / "a.mov")))
    assert still.film == video.Film(0, Fraction(4, 3), True)
    args = SimpleNamespace(as_stored=False, out=tmp_path)
    run = SimpleNamespace(args=args, notes=[])
    film = still.film._replace(turn=-90 if turned else 0)
    destination = Destination(Input("video", "a.mov"), "a")
    drawn = predict.begin_drawing(run, destination, still._replace(film=film))
    drawn.add(still.image, 0.0, 1.0)
    drawn.close()
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == (Fraction(3, 4) if turned else Fraction(4, 3))
    assert len(run.notes) == 2 and run.notes[0] == "a.mov has sound, but the drawn copy does not"
    assert "pixels that are 4/3 times as wide as they are high" in run.notes[1]
    args.as_stored = True
    said = predict.notes_on(destination.input, film, upright=False)
    assert any("-90 degrees" in note for note in said) == turned


def test_a_video_marked_as_rotated(tmp_path):
    """Phones record portrait videos as landscape frames with a rotation matrix."""
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


def test_cameras_use_the_input_device_of_the_platform(tmp_path, monkeypatch):
    """Replaces the camera with a video source built into FFmpeg."""
    monkeypatch.setitem(video.CAMERAS, sys.platform, ("lavfi", "color=c=red:s=32x24:r=5:d={}"))
    found = list(video.stills(Input("camera", "camera:2")))
    assert len(found) == 10 and found[0].image.getpixel((3, 3))[0] > 200 > 60 > found[0].image.getpixel((3, 3))[1]
    monkeypatch.delitem(video.CAMERAS, sys.platform)
    with pytest.raises(InputError, match="cameras are not supported"):
        next(video.stills(Input("camera", "camera:2")))


def test_unreadable_videos(tmp_path):
    whole = film(tmp_path / "a.mkv", 8).read_bytes()
    (tmp_path / "text.mp4").write_text("no video")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.time_base = 8000, Fraction(1, 8000)
        container.mux(stream.encode(frame))
    for name, words in (("text.mp4", "cannot be read"), ("absent.mp4", "does not exist"), ("sound.wav", "no frames")):
        with pytest.raises(UnreadableImage, match=words) as failure:
            list(video.stills(Input("video", str(tmp_path / name))))
        assert name in str(failure.value) and "\n" not in str(failure.value)
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    found = []
    try:  # FFmpeg may treat the end of the file as the end of the video
        found += video.stills(Input("video", str(tmp_path / "cut.mkv")))
    except UnreadableImage as error:
        assert "cut.mkv cannot be read" in str(error)
    assert len(found) < 8


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'yolos-jax\[video\]'"):
        video.need_av()


def test_a_stream_without_a_server(tmp_path):
    """The `rtsp` scheme is supported; a missing server causes a one-line error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"rtsp://127.0.0.1:{free.getsockname()[1]}/live"
        with pytest.raises(UnreadableImage, match=f"the stream {address} cannot be read .Connection refused"):
            next(video.stills(Input("stream", address)))
