"""The page in a headless browser, as a visitor uses it. Screenshots go to YOLOS_SCREENSHOTS, or the temp folder."""

import io
import os
import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest
from PIL import Image

from yolos_jax.checkpoints import Meta, save
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import build

pytestmark = pytest.mark.page
pytest.importorskip("gradio", reason="the page's packages are not installed (make test-page installs them)")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make test-page)")

BROWSER = shutil.which(os.environ.get("CHROMIUM", "chromium"))
SHOTS = Path(os.environ.get("YOLOS_SCREENSHOTS", Path(tempfile.gettempdir()) / "yolos-page"))
CONFIG = YolosConfig(width=24, depth=3, heads=2, det_tokens=6, num_classes=3, init_pe_size=(64, 96))


def checkpoint(folder: Path, seed: int) -> Path:
    """A micro model with sharp attention, which is sure of what its tokens find."""
    rng, params = np.random.default_rng(seed), jax.tree.map(np.array, build(CONFIG)[1])

    def sharper(path, x):
        name = jax.tree_util.keystr(path)
        if "qkv" in name and "kernel" in name:
            return 30 * x
        if "det_token" in name:
            return rng.normal(0, 1, x.shape).astype(np.float32)
        return x

    params = jax.tree_util.tree_map_with_path(sharper, params)
    params["class_head"]["fc3"]["bias"][:] = [4.0, 0.0, 0.0, 0.0]
    params["box_head"]["fc3"]["kernel"][:] *= 20
    save(folder, 1, params, Meta(CONFIG, {0: "apple", 1: "pear", 2: "plum"}, 1, {}))
    return folder


def picture(seed=0, size=(96, 64)):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


class Served:
    """A page on a free port of this process, and what stands behind it."""

    def __init__(self, folder: Path):
        from yolos_jax.page.gradio_page import build as build_page
        from yolos_jax.page.gradio_page import serve
        from yolos_jax.page.looking import Looker

        names = [str(checkpoint(folder / name, seed)) for seed, name in enumerate(("first", "second"))]
        (folder / "images").mkdir()
        for i in range(3):
            picture(10 + i).save(folder / "images" / f"{i}.png")
        (folder / "images" / "3.png").write_bytes(b"no image")
        table = folder / "tokens.csv"
        table.write_text("token,mean score,images\n" + "".join(f"{i},0.{i}23456,{7 + i}\n" for i in range(6)))
        self.looker = Looker(names, 64, 96, str(table))
        blocks = build_page(self.looker, sorted((folder / "images").iterdir()))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = serve(blocks, "127.0.0.1", self.port, megabytes=1, wait=False)
        self.blocks = blocks

    @property
    def look(self):
        """What was looked at last."""
        return next(reversed(self.looker._kept.values()))[1]


@pytest.fixture(scope="module")
def outside():
    """Addresses beyond this machine that this process tried to reach; none is reached."""
    found, connect = [], socket.socket.connect

    def only_here(self, address):
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost")):
            found.append(address)
            raise OSError("no network in this test")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", only_here)
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory, outside):
    if BROWSER is None:
        pytest.skip("there is no chromium (make test-page installs it; CHROMIUM names another one)")
    page = Served(tmp_path_factory.mktemp("page"))
    yield page
    page.blocks.close()


@pytest.fixture(scope="module")
def window(served):
    """(an open page, requests that went elsewhere)"""
    SHOTS.mkdir(parents=True, exist_ok=True)
    elsewhere = []

    def route(route):
        if route.request.url.startswith((served.address, "data:", "blob:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1500})
        page.set_default_timeout(30_000)
        page.route("**/*", route)
        page.goto(served.address)
        page.wait_for_selector("#file input[type=file]", state="attached")
        yield page, elsewhere
        browser.close()


def image_of(page, part):
    """The pixels of an image of the page, as it was sent; None while there is none."""
    element = page.query_selector(f"#{part} img")
    source = element and element.get_attribute("src")
    if not source:
        return None
    with urllib.request.urlopen(source) as answer:
        return np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGB"), np.float32)


def wait_for(page, check, what):
    for _ in range(150):
        if check():
            return
        page.wait_for_timeout(100)
    page.screenshot(path=SHOTS / "failed.png", full_page=True)
    pytest.fail(f"not in 15 seconds: {what}; the page is in {SHOTS / 'failed.png'}")


def shows(page, part, want):
    """Whether a part shows just this image."""
    found = image_of(page, part)
    return found is not None and np.array_equal(found, want)


def upload(page, name, content):
    if page.query_selector("#file button[aria-label='Clear']"):
        page.click("#file button[aria-label='Clear']")
    page.set_input_files("#file input[type=file]", {"name": name, "mimeType": "image/png", "buffer": content})


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def says(page, words):
    return words in page.inner_text("#message")


def attention(served, token, layer, head, smooth=True):
    from yolos_jax.page.pictures import attention_of

    return np.asarray(attention_of(served.look, token, layer, head, smooth), np.float32)


def choose(page, part, option):
    page.click(f"#{part} input")
    page.click(f"ul[role=listbox] li[aria-label='{option}']")


def test_upload_click_layer_and_head(served, window):
    """One visit: each part shows what the functions behind it give for the state that the visitor chose."""
    from yolos_jax.page.looking import token_at
    from yolos_jax.page.pictures import all_heads, with_boxes

    page, _ = window
    upload(page, "fruit.png", png(picture()))
    wait_for(page, lambda: says(page, "6 objects with a score of at least 0.50"), "what was found")
    want = np.asarray(with_boxes(served.look, 0.5), np.float32)
    assert want.shape == (320, 480, 3)
    wait_for(page, lambda: shows(page, "boxes", want), "boxes")
    best = int(served.look.over(0)[0])
    wait_for(page, lambda: shows(page, "attention", attention(served, best, 0, None)), "attention of the best token")
    page.screenshot(path=SHOTS / "1-uploaded.png", full_page=True)

    # A click where the smallest box is that of another token
    points = [(x, y) for x in range(2, 96, 4) for y in range(2, 64, 4)]
    point, token = next((p, t) for p in points if (t := token_at(served.look, *p, 0.5)) is not None and t != best)
    area = page.query_selector("#boxes img").bounding_box()
    scale = min(area["width"] / 96, area["height"] / 64)  # the image is in the middle of its element
    left = area["x"] + (area["width"] - 96 * scale) / 2
    top = area["y"] + (area["height"] - 64 * scale) / 2
    page.mouse.click(left + (point[0]) * scale, top + (point[1]) * scale)
    wait_for(page, lambda: says(page, f"Token {token} is chosen."), "the token of the box that was clicked")
    seen = [attention(served, token, 0, None)]
    wait_for(page, lambda: shows(page, "attention", seen[0]), "its attention")
    facts = page.inner_text("#facts")
    assert f"Token #{token} apple" in facts and f"mean score 0.{token}23, images {7 + token}" in facts

    page.fill("#layer input[type=number]", "2")
    page.press("#layer input[type=number]", "Tab")
    seen.append(attention(served, token, 2, None))
    wait_for(page, lambda: shows(page, "attention", seen[1]), "another layer")
    for head in (0, 1):
        choose(page, "head", str(head))
        seen.append(attention(served, token, 2, head))
        wait_for(page, lambda: shows(page, "attention", seen[-1]), f"head {head}")
    page.click("#smooth input")
    seen.append(attention(served, token, 2, 1, smooth=False))
    wait_for(page, lambda: shows(page, "attention", seen[-1]), "patch by patch")
    page.screenshot(path=SHOTS / "2-clicked.png", full_page=True)
    for i, one in enumerate(seen):  # a visitor tells them apart
        assert all(np.abs(one - other).mean() > 3 for other in seen[:i])
    assert shows(page, "heads", np.asarray(all_heads(served.look, token, 2, False), np.float32))

    page.fill("#threshold input[type=number]", "0.99")
    page.press("#threshold input[type=number]", "Tab")
    wait_for(page, lambda: says(page, "0 objects with a score of at least 0.99"), "another threshold")
    page.mouse.click(left + point[0] * scale, top + point[1] * scale)
    wait_for(page, lambda: says(page, "There is no box at this place."), "no box under the click")


def test_images_of_the_data_set_and_another_checkpoint(served, window):
    page, _ = window
    page.fill("#threshold input[type=number]", "0.5")
    page.press("#threshold input[type=number]", "Tab")
    assert len(page.query_selector_all("#gallery img")) == 3  # the fourth is no image
    page.click("#gallery button:has(img) >> nth=1")
    wait_for(page, lambda: served.look.image.getpixel((50, 50)) == picture(11).getpixel((50, 50)), "the second image")
    first = served.look
    choose(page, "checkpoint", served.looker.names[1])
    wait_for(page, lambda: served.look is not first, "the other checkpoint")
    assert np.abs(served.look.boxes - first.boxes).max() > 0.1
    wait_for(page, lambda: "over the data set" not in page.inner_text("#facts"), "no table for this checkpoint")
    page.screenshot(path=SHOTS / "3-chosen.png", full_page=True)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("letter.png", b"Dear Sir or Madam", "letter.png cannot be read (it is in no format that Pillow reads)"),
        ("half.png", png(picture())[:-900], "half.png cannot be read"),
        ("bomb.png", None, "at most 40 million are taken"),
    ],
)
def test_what_is_no_image_gives_a_message(served, window, name, content, words):
    page, _ = window
    if content is None:
        content = png(Image.new("L", (8000, 6000)))
    upload(page, name, content)
    wait_for(page, lambda: says(page, words), words)
    assert "Traceback" not in page.inner_text("body")
    page.screenshot(path=SHOTS / f"4-{name}", full_page=True)


def test_an_upload_that_is_too_large_gives_a_message(window):
    page, _ = window
    upload(page, "large.png", bytes(2 * 2**20))
    wait_for(page, lambda: "exceed the maximum allowed size" in page.inner_text("body"), "that the file is too large")
    page.wait_for_timeout(500)  # it fades in
    page.screenshot(path=SHOTS / "5-large.png")


def test_uploads_by_hand_are_limited(served, window):
    """Whoever does not use the page's own form is refused by the server."""

    def post(size, count=1):
        part = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n" + bytes(size) + b"\r\n"
        body = part * count + b"--x--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        request = urllib.request.Request(f"{served.address}gradio_api/upload", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except (ConnectionError, urllib.error.URLError):  # closed before all was sent
            return 413

    assert post(1000) == 200
    assert post(2**20, count=2) == 413
    assert 429 in [post(10) for _ in range(70)]


def test_the_page_is_here_alone(served, window, outside):
    """Nothing was asked of other hosts, by the browser or the server, which listens on loopback only."""
    _, elsewhere = window
    assert elsewhere == [] and outside == []
    listening = [c.laddr for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
    assert [a.ip for a in listening if a.port == served.port] == ["127.0.0.1"]
    with urllib.request.urlopen(served.address) as answer:
        policy, text = answer.headers["content-security-policy"], answer.read().decode()
    assert policy.startswith("default-src 'self'") and "http" not in policy
    assert "fonts.googleapis" not in text and 'src="http' not in text


def test_a_port_that_is_taken(served, window):
    from yolos_jax.errors import InputError
    from yolos_jax.page.gradio_page import build as build_page
    from yolos_jax.page.gradio_page import serve

    with pytest.raises(InputError, match=rf"127.0.0.1:{served.port} .*give another --port"):
        serve(build_page(served.looker), "127.0.0.1", served.port, wait=False)
