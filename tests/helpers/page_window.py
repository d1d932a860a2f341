"""Serves the page with two micro detectors from this process, and operates it in a browser."""

import http.client
import io
import os
import shutil
import socket
import tempfile
import urllib.request
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import build
from yolos_jax.training.checkpoint_files import Meta
from yolos_jax.weights.checkpoints import save

BROWSER = shutil.which(os.environ.get("CHROMIUM", "chromium"))
SHOTS = Path(os.environ.get("YOLOS_SCREENSHOTS", Path(tempfile.gettempdir()) / "yolos-page"))
CONFIG = YolosConfig(width=24, depth=3, heads=2, det_tokens=6, num_classes=3, init_pe_size=(64, 96))


def checkpoint(folder: Path, seed: int) -> Path:
    """Saves a micro model with sharp attention and confident tokens."""
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
    """A page that this process serves on a free port, and its viewer."""

    def __init__(self, folder: Path):
        from yolos_jax.tools.page.gradio_page import build_page, serve
        from yolos_jax.tools.page.viewer import AttentionViewer

        names = [str(checkpoint(folder / name, seed)) for seed, name in enumerate(("first", "second"))]
        (folder / "images").mkdir()
        for i in range(3):
            picture(10 + i).save(folder / "images" / f"{i}.png")
        (folder / "images" / "3.png").write_bytes(b"no image")
        table = folder / "tokens.csv"
        table.write_text("token,mean score,images\n" + "".join(f"{i},0.{i}23456,{7 + i}\n" for i in range(6)))
        self.viewer = AttentionViewer(names, 64, 96, str(table))
        blocks = build_page(self.viewer, sorted((folder / "images").iterdir()))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = serve(blocks, "127.0.0.1", self.port, megabytes=1, wait=False)
        self.blocks = blocks

    @property
    def look(self):
        """The most recently analysed image."""
        return next(reversed(self.viewer._kept.values()))[1]


def image_of(page, part):
    """The pixels of an image on the page, as the server sent it; None if there is no image yet."""
    element = page.query_selector(f"#{part} img")
    source = element and element.get_attribute("src")
    if not source:
        return None
    try:
        with urllib.request.urlopen(source) as answer:
            content = answer.read()
    except http.client.IncompleteRead:  # the file is being written
        return None
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float32)


def wait_for(page, check, what):
    for _ in range(400):
        if check():
            return
        page.wait_for_timeout(100)
    page.screenshot(path=SHOTS / "failed.png", full_page=True)
    pytest.fail(f"timed out after 40 seconds waiting for {what}; see the screenshot {SHOTS / 'failed.png'}")


def shows(page, part, want):
    """Whether a part of the page shows exactly this image."""
    found = image_of(page, part)
    return found is not None and np.array_equal(found, want)


def click(page, part, point, size):
    """Clicks a pixel of an image of `size` (width, height), which is centred in its element."""
    area = page.query_selector(f"#{part} img").bounding_box()
    scale = min(area["width"] / size[0], area["height"] / size[1])
    left, top = area["x"] + (area["width"] - size[0] * scale) / 2, area["y"] + (area["height"] - size[1] * scale) / 2
    page.mouse.click(left + point[0] * scale, top + point[1] * scale)


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
    from yolos_jax.tools.page.drawings import attention_of

    return np.asarray(attention_of(served.look, token, layer, head, smooth), np.float32)


def choose(page, part, option):
    page.click(f"#{part} input")
    page.click(f"ul[role=listbox] li[aria-label='{option}']")
