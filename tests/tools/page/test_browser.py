"""Tests of the page in a headless browser. Screenshots are saved to YOLOS_SCREENSHOTS or the temporary folder."""

import json
from pathlib import Path

import numpy as np
import pytest
from page_window import SHOTS, attention, choose, click, picture, png, says, shows, upload, wait_for
from PIL import Image

pytestmark = pytest.mark.page
pytest.importorskip("gradio", reason="the page's packages are not installed (make test-page installs them)")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make test-page)")


def test_initial_page(served, window):
    page, _ = window
    wait_for(page, lambda: says(page, "0.png: 6 objects"), "the first image")
    assert page.input_value("#layer input[type=number]") == "2"
    assert served.look.image.getpixel((50, 50)) == picture(10).getpixel((50, 50))
    best = int(served.look.over(0)[0])
    wait_for(page, lambda: shows(page, "attention", attention(served, best, 2, None)), "attention of the best token")
    try:
        for width in (390, 820, 1400):
            page.set_viewport_size({"width": width, "height": 1500})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.screenshot(path=SHOTS / f"0-{width}.png", full_page=True)
    finally:
        page.set_viewport_size({"width": 1300, "height": 1500})


def test_table_and_downloads(served, window):
    page, _ = window
    wait_for(page, lambda: page.query_selector("#heads img") is not None, "an image")
    look = served.look
    order = np.argsort(-look.scores)

    def column(number):
        return [
            cell.inner_text() for cell in page.query_selector_all(f"#table [data-testid$='-{number}'][role=gridcell]")
        ]

    wait_for(page, lambda: column(0) == [str(i) for i in order], "the tokens sorted by score")
    assert column(1) == [look.names[i] for i in order]
    np.testing.assert_allclose([float(text) for text in column(2)], look.scores[order], atol=6e-4)
    assert column(3) == [", ".join(f"{v:.0f}" for v in look.boxes[i]) for i in order]
    with page.expect_download() as got:
        page.click("#json")
    found = json.loads(Path(got.value.path()).read_text())
    assert got.value.suggested_filename == "0.json" and found["image"] == "0.png"
    assert [one["name"] for one in found["objects"]] == [look.names[i] for i in order]
    np.testing.assert_allclose([one["box"] for one in found["objects"]], look.boxes[order])
    with page.expect_download() as got:
        page.click("#drawn")
    assert got.value.suggested_filename == "0-boxes.png"
    assert shows(page, "boxes", np.asarray(Image.open(got.value.path()).convert("RGB"), np.float32))
    page.click("#table [data-testid=cell-5-1]")
    wait_for(page, lambda: says(page, f"Token {order[-1]} selected."), "the token of the clicked row")


def test_upload_click_layer_and_head(served, window):
    """Throughout a session, each component shows what its drawing function returns for the current state."""
    from yolos_jax.tools.page.drawings import all_heads, with_boxes
    from yolos_jax.tools.page.viewer import token_at

    page, _ = window
    upload(page, "fruit.png", png(picture()))
    wait_for(page, lambda: says(page, "fruit.png: 6 objects with a score of at least 0.50"), "the detections")
    want = np.asarray(with_boxes(served.look, 0.5), np.float32)
    assert want.shape == (320, 480, 3)
    wait_for(page, lambda: shows(page, "boxes", want), "boxes")
    best = int(served.look.over(0)[0])
    wait_for(page, lambda: shows(page, "attention", attention(served, best, 2, None)), "attention of the best token")
    page.screenshot(path=SHOTS / "1-uploaded.png", full_page=True)

    # Click a point whose smallest enclosing box belongs to a different token
    points = [(x, y) for x in range(2, 96, 4) for y in range(2, 64, 4)]
    point, token = next((p, t) for p in points if (t := token_at(served.look, *p, 0.5)) is not None and t != best)
    click(page, "boxes", point, served.look.image.size)
    wait_for(page, lambda: says(page, f"Token {token} selected."), "the token of the clicked box")
    seen = [attention(served, token, 2, None)]
    wait_for(page, lambda: shows(page, "attention", seen[0]), "the attention of the clicked token")
    facts = page.inner_text("#facts")
    assert f"Token #{token} apple" in facts and f"mean score 0.{token}23, images {7 + token}" in facts

    page.fill("#layer input[type=number]", "0")
    page.press("#layer input[type=number]", "Tab")
    seen.append(attention(served, token, 0, None))
    wait_for(page, lambda: shows(page, "attention", seen[1]), "another layer")
    page.fill("#layer input[type=number]", "2")
    page.press("#layer input[type=number]", "Tab")
    wait_for(page, lambda: shows(page, "attention", seen[0]), "the last layer again")
    for head in (0, 1):
        choose(page, "head", str(head))
        seen.append(attention(served, token, 2, head))
        wait_for(page, lambda: shows(page, "attention", seen[-1]), f"head {head}")
    page.click("#smooth input")
    seen.append(attention(served, token, 2, 1, smooth=False))
    wait_for(page, lambda: shows(page, "attention", seen[-1]), "attention without interpolation")
    page.screenshot(path=SHOTS / "2-clicked.png", full_page=True)
    for i, one in enumerate(seen):  # the images differ visibly
        assert all(np.abs(one - other).mean() > 3 for other in seen[:i])
    assert shows(page, "heads", np.asarray(all_heads(served.look, token, 2, False), np.float32))

    page.fill("#threshold input[type=number]", "0.99")
    page.press("#threshold input[type=number]", "Tab")
    wait_for(page, lambda: says(page, "0 objects with a score of at least 0.99"), "another threshold")
    none = np.asarray(with_boxes(served.look, 0.99), np.float32)
    wait_for(page, lambda: shows(page, "boxes", none), "the image without boxes")  # an earlier click would be lost
    click(page, "boxes", point, served.look.image.size)
    wait_for(page, lambda: says(page, "There is no box here."), "the message that there is no box")


def test_gallery_and_second_checkpoint(served, window):
    page, _ = window
    page.fill("#threshold input[type=number]", "0.5")
    page.press("#threshold input[type=number]", "Tab")
    # The gallery has the upload and three of four files; the last file is not an image.
    assert len(page.query_selector_all("#gallery img")) == 4
    page.click("#gallery button:has(img) >> nth=2")
    wait_for(page, lambda: served.look.image.getpixel((50, 50)) == picture(11).getpixel((50, 50)), "the second image")
    first = served.look
    choose(page, "checkpoint", served.viewer.names[1])
    wait_for(page, lambda: served.look is not first, "the other checkpoint")
    assert np.abs(served.look.boxes - first.boxes).max() > 0.1
    wait_for(page, lambda: "over the data set" not in page.inner_text("#facts"), "a token without statistics")
    page.screenshot(path=SHOTS / "3-chosen.png", full_page=True)


def test_checkpoint_comparison(served, window):
    from yolos_jax.tools.page.drawings import with_boxes

    page, _ = window
    choose(page, "checkpoint", served.viewer.names[0])
    wait_for(page, lambda: "over the data set" in page.inner_text("#facts"), "the first checkpoint")
    first = served.look
    choose(page, "other", served.viewer.names[1])
    name = served.viewer.names[1]
    # The first checkpoint may run once more before the second one.
    wait_for(
        page,
        lambda: page.is_visible("#comparison") and name in page.inner_text("#comparison"),
        "the name of the second checkpoint",
    )
    want = np.asarray(with_boxes(served.look, 0.5), np.float32)
    wait_for(page, lambda: shows(page, "other_boxes", want), "the boxes of the second checkpoint")
    assert shows(page, "boxes", np.asarray(with_boxes(first, 0.5), np.float32))
    page.screenshot(path=SHOTS / "6-compared.png", full_page=True)
    choose(page, "other", "nothing")
    wait_for(page, lambda: not page.is_visible("#other_boxes"), "the end of the comparison")


def test_upload_of_images_and_a_video(served, window, tmp_path):
    av = pytest.importorskip("av")
    page, _ = window
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(30):
            film.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (96, 64), (8 * i, 0, 0)))))
        film.mux(stream.encode())
    before = len(page.query_selector_all("#gallery img"))
    (tmp_path / "pear.png").write_bytes(png(picture(5)))
    (tmp_path / "letter.png").write_bytes(b"Dear Sir or Madam")
    page.set_input_files("#file input[type=file]", [tmp_path / "pear.png", tmp_path / "letter.png", path])
    wait_for(
        page, lambda: says(page, "1 of 3 files cannot be read. pear.png: "), "the result of the first uploaded file"
    )
    # Every other one of the 30 frames is added after the image; the gallery keeps at most 48 images.
    wait_for(page, lambda: len(page.query_selector_all("#gallery img")) == before + 16, "an image and 15 frames")
    page.click("#gallery button:has(img) >> nth=11")
    wait_for(page, lambda: says(page, "film.mp4, frame 20: "), "a frame")
    assert abs(served.look.image.getpixel((48, 32))[0] - 160) < 12
    page.screenshot(path=SHOTS / "7-video.png", full_page=True)
