"""Tests predict.py with all kinds of inputs and outputs: patterns, URLs, videos, large images, formats."""

import csv
import json
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image
from tiny_export import checkpoint_in
from tiny_weights import TINY

from yolos_jax import Detector
from yolos_jax.inference import video
from yolos_jax.inference.video import Still
from yolos_jax.programs import predict as program

SIZE = (64, 48)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return Detector.load(checkpoint_in(tmp_path_factory.mktemp("checkpoint") / "c", TINY), batch_size=2)


@pytest.fixture
def predict(call, detector, tmp_path, monkeypatch):
    """Returns a function that runs predict.py with a shared detector; it returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(Detector, "load", lambda *_: detector)

    def predict(*args, out="out", threshold=0.05):
        shared = "--checkpoint", "c", "--out", tmp_path / out, "--threshold", threshold
        return call("predict", *args, *shared, "--batch-size", 2)

    return predict


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(("a.png", "a.jpg", "b.webp", "deep/a.tga", "deep/c.ppm")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(path)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def boxes(detector, path, threshold=0.05):
    return detector([path], threshold)[0]


def test_folders_patterns_and_coco(predict, detector, folder, tmp_path):
    given = [folder, folder / "*.png"]
    code, text, error = predict(*map(str, given), "--recursive", "--format", "coco", "--no-draw")
    assert code == 0, error
    assert f"note: ignored in the folder {folder}: 1 other file (.txt 1)" in text
    assert f"outputs are named a-2 for {folder / 'a.png'}, a-3 for {folder / 'deep' / 'a.tga'}, " in text
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["images.json", "results.json"]
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    names = ("a.jpg", "a.png", "b.webp", "deep/a.tga", "deep/c.ppm", "a.png")
    assert [i["file_name"] for i in images["images"]] == [str(folder / name) for name in names]
    assert {c["id"]: c["name"] for c in images["categories"]} == {10: "cat", 30: "dog"}
    for image in images["images"]:
        found = boxes(detector, image["file_name"])
        mine = [r for r in results if r["image_id"] == image["id"]]
        assert [r["category_id"] for r in mine] == found.labels.tolist()
        xywh = np.array([r["bbox"] for r in mine]).reshape(-1, 4)
        np.testing.assert_allclose(np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]), found.boxes, atol=1e-3)
    assert f"{len(results)} objects in 6 images, 0 unreadable" in text and results
    assert predict(folder, "--format", "coco", "--no-draw")[0] == 2  # results.json exists


def test_list_with_relative_paths(predict, detector, folder, tmp_path):
    (folder / "list.csv").write_text("id,file_name\n1,deep/a.tga\n2,a.png\n2,a.png\n3,gone.png\n")
    code, text, error = predict(folder / "list.csv", "--no-draw")
    assert code == 2 and "1 of 3 images could not be read" in error and "gone.png does not exist" in error
    assert f"note: {folder / 'list.csv'} lists 3 inputs in column file_name" in text
    for name in ("deep/a.tga", "a.png"):
        written = json.loads((tmp_path / "out" / ("a.json" if "deep" in name else "a-2.json")).read_text())
        assert written["file"] == str(folder / name)
        want = boxes(detector, folder / name)
        np.testing.assert_allclose([o["score"] for o in written["objects"]], want.scores, atol=1e-6)


def test_urls(predict, detector, folder, tmp_path):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site = f"http://127.0.0.1:{server.server_port}"
    try:
        code, text, error = predict(f"{site}/b.webp", f"{site}/gone.jpg", f"{site}/notes.txt")
    finally:
        server.shutdown()
        server.server_close()
    assert code == 2 and "2 of 3 images could not be read" in error
    assert f"skipped: {site}/gone.jpg cannot be fetched: the server responded with 404 File not found." in text
    assert f"skipped: the image {site}/notes.txt cannot be read (Pillow does not recognise its format)." in text
    written = json.loads((tmp_path / "out" / "b.json").read_text())
    want = boxes(detector, folder / "b.webp")
    assert written["file"] == f"{site}/b.webp"
    np.testing.assert_allclose([o["box"] for o in written["objects"]], want.boxes, atol=1e-3)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.json", "b.png"]


def test_very_large_images_need_a_flag(predict, folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    code, text, error = predict(folder / "b.webp", "--no-draw")
    sentence = "b.webp has more than 2000 pixels, Pillow's limit for decompression bombs; use --large-images"
    assert code == 2 and sentence in text and sentence in error
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # above the limit, but less than twice the limit: no warning
    code, text, error = predict(folder / "b.webp", "--no-draw", out="other")
    assert code == 0 and "Warning" not in error
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    code, text, _ = predict(folder / "b.webp", "--no-draw", "--large-images", out="third")
    assert code == 0 and "1 image, 0 unreadable" in text and Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parity
def test_video_between_images(predict, detector, folder, tmp_path):
    av = pytest.importorskip("av", reason="av is not installed (extra video)")
    frames = [Image.fromarray(np.full((*SIZE[::-1], 3), 40 * i, np.uint8)) for i in range(5)]
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame).reformat(format="bgr0")))
        container.mux(stream.encode(None))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    given = [folder / "a.png", tmp_path / "film.mkv", folder / "b.webp", tmp_path / "bad.mp4"]
    code, text, error = predict(*given, threshold=0.04)
    assert code == 2 and "2 images and 5 frames of videos, 1 unreadable" in text
    assert f"1 of 4 inputs could not be read, the first: the video {tmp_path / 'bad.mp4'} cannot be read" in error
    written = json.loads((tmp_path / "out" / "film.json").read_text())
    assert [(w["frame"], w["seconds"]) for w in written] == [(i, i / 10) for i in range(5)]
    assert sum(len(w["objects"]) for w in written) > 5
    for one, frame in zip(written, frames):
        want = detector([frame], 0.04)[0]
        np.testing.assert_allclose([o["box"] for o in one["objects"]], want.boxes, atol=1e-2)
    with av.open(str(tmp_path / "out" / "film.mp4")) as container:
        drawn = [frame.to_image() for frame in container.decode(video=0)]
    assert len(drawn) == 5 and drawn[0].size == (512, 384)  # small frames are enlarged, like images
    for number, one in enumerate(drawn):
        want = detector([frames[number]], 0.04)[0].draw(frames[number])
        assert abs(np.int32(one) - np.int32(want)).mean() < 12
    assert not (tmp_path / "out" / "bad.mp4").exists()
    code, text, _ = predict(tmp_path / "film.mkv", "--limit", 3, "--format", "csv", "--no-draw", out="csv")
    assert code == 0 and "0 images and 3 frames" in text


def moving(folder):
    """Writes an animation of 2.2 s whose first frame is blank, and a file with two pages; returns the three images."""
    folder.mkdir()
    pixels = [np.random.default_rng(i).integers(0, 256, (*SIZE[::-1], 3), np.uint8) for i in range(2)]
    images = [Image.new("RGB", SIZE, (120,) * 3), *map(Image.fromarray, pixels)]
    animated = {"save_all": True, "append_images": images[1:], "duration": [200, 500, 1500]}
    images[0].save(folder / "cam.png", **animated)
    images[1].save(folder / "scan.tif", save_all=True, append_images=images[2:])
    return images


@pytest.mark.parametrize("kind", ["json", "coco", "yolo", "csv"])
def test_all_frames_and_pages_are_processed(predict, detector, tmp_path, monkeypatch, kind):
    """Runs without the package av, which is only needed to draw an animation."""
    monkeypatch.setitem(sys.modules, "av", None)
    images = moving(tmp_path / "in")
    code, text, error = predict(tmp_path / "in", "--format", kind)
    assert code == 0, error
    assert "objects in 2 images and 3 frames of videos, 0 unreadable" in text
    assert "note: no drawn copy of 1 animation; to draw animations, pip install 'yolos-jax[video]'" in text
    out = tmp_path / "out"
    want = [detector([image], 0.05)[0] for image in images]
    counts = [len(found) for found in want]
    assert sum(counts[1:]) > 2
    assert {p.name for p in out.glob("*.png")} == {"scan-page1.png", "scan-page2.png"}
    drawn = np.asarray(Image.open(out / "scan-page2.png"))
    np.testing.assert_array_equal(drawn, np.asarray(want[2].draw(images[2])))
    scan, film = str(tmp_path / "in" / "scan.tif"), str(tmp_path / "in" / "cam.png")
    pages = [{"file": scan, "page": page} for page in (1, 2)]
    frames = [{"file": film, "frame": i, "seconds": seconds} for i, seconds in enumerate((0.0, 0.2, 0.7))]
    order = [*counts[1:], *counts]
    if kind == "json":
        found = [json.loads((out / f"scan-page{page}.json").read_text()) for page in (1, 2)]
        found += json.loads((out / "cam.json").read_text())
        assert [len(one.pop("objects")) for one in found] == order
        assert found == [one | {"width": 64, "height": 48} for one in pages + frames]
    if kind == "coco":
        found = json.loads((out / "images.json").read_text())["images"]
        assert [one | {"file": one.pop("file_name")} for one in found] == [
            one | {"id": i, "width": 64, "height": 48} for i, one in enumerate(pages + frames, 1)
        ]
    if kind == "yolo":
        names = [*(f"scan-page{page}" for page in (1, 2)), *(f"cam/00000{i}" for i in range(3))]
        assert [(out / f"{name}.txt").read_text().count("\n") for name in names] == order
    if kind == "csv":
        rows = list(csv.DictReader((out / "detections.csv").open()))
        found = [(row["file"], row["page"], row["frame"], row["seconds"]) for row in rows]
        keys = [(scan, str(one["page"]), "", "") for one in pages]
        keys += [(film, "", str(one["frame"]), str(one["seconds"])) for one in frames]
        assert found == [key for key, count in zip(keys, order) for _ in range(count)]


def test_limit_of_frames_and_pages(predict, tmp_path):
    moving(tmp_path / "in")
    code, text, _ = predict(*sorted((tmp_path / "in").iterdir()), "--limit", 1, "--no-draw")
    assert code == 0 and "0 images and 1 frame of" in text
    code, text, _ = predict(tmp_path / "in" / "scan.tif", "--limit", 1, "--no-draw", out="pages")
    assert code == 0 and "in 1 image," in text


def test_only_the_first_frame_at_a_url_is_used(predict, tmp_path, monkeypatch):
    moving(tmp_path / "in")
    monkeypatch.setattr(program, "fetch", lambda name: (tmp_path / "in" / "cam.png").read_bytes())
    code, text, _ = predict("https://example.org/cam.png")
    assert code == 0 and "in 1 image," in text
    assert "note: the address https://example.org/cam.png has 3 frames or pages" in text


@pytest.mark.parity
def test_drawn_animation_has_the_same_frame_times(predict, tmp_path):
    av = pytest.importorskip("av", reason="av is not installed (extra video)")
    moving(tmp_path / "in")
    code, _, error = predict(tmp_path / "in" / "cam.png")
    assert code == 0, error
    with av.open(str(tmp_path / "out" / "cam.mp4")) as container:
        times = [float(frame.time) for frame in container.decode(video=0)]
        assert container.duration == 2_200_000  # microseconds
    np.testing.assert_allclose(times, [0, 0.2, 0.7], atol=1e-3)


@pytest.mark.parametrize("name, stem", [("camera:0", "camera0"), ("rtsp://10.0.0.2:554/live", "live")])
def test_camera_until_interrupted(predict, tmp_path, monkeypatch, name, stem):
    """All results from before Ctrl-C are written and reported."""

    def stills(source, upright):
        assert source.name == name and upright
        for number in range(3):
            yield Still(number, number / 4, Image.new("RGB", SIZE))
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "stills", stills)
    monkeypatch.setattr(video, "need_av", lambda: None)
    code, text, _ = predict(name, "--no-draw")
    assert code == 0 and "0 images and 3 frames" in text
    written = json.loads((tmp_path / "out" / f"{stem}.json").read_text())
    assert [(w["file"], w["frame"], w["seconds"]) for w in written] == [(name, i, i / 4) for i in range(3)]


def test_video_without_av(predict, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, error = predict(tmp_path / "film.mp4")
    assert code == 2 and "pip install 'yolos-jax[video]'" in error and not (tmp_path / "out").exists()


def test_font_of_class_names(predict, detector, folder, tmp_path, monkeypatch):
    """Missing letters are reported once; a file that is not a font is rejected before anything is written."""
    mono = findfont(FontProperties(family="DejaVu Sans Mono"))
    monkeypatch.setattr(detector, "label_names", {0: "été", 2: "方块"})
    code, _, error = predict(folder, "--font", mono)
    assert (
        code == 0
        and error.count("has no glyph for 2 letters in class names (块方); choose another font with --font") == 1
    )
    found = detector(folder / "b.webp", 0.05)
    drawn = np.asarray(Image.open(tmp_path / "out" / "b.png"))
    np.testing.assert_array_equal(drawn, np.asarray(found.draw(folder / "b.webp", mono)))
    code, _, error = predict(folder, "--font", folder / "notes.txt", out="other")
    assert code == 2 and "notes.txt cannot be read" in error and not (tmp_path / "other").exists()


def test_heic_without_pillow_heif(predict, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "image_endings", set)
    (tmp_path / "a.heic").write_bytes(b"not an image that Pillow can read")
    code, text, error = predict(tmp_path / "a.heic")
    assert code == 2 and "pip install 'yolos-jax[heif]'" in text and "[heif]" in error
