"""The page itself, with Gradio: its parts, and what happens when one of them is used."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.tools.page.looking import Looker, choices, read_picture, token_at
from yolos_jax.tools.page.pictures import all_heads, attention_of, facts_of, shown, with_boxes
from yolos_jax.tools.page.uploads import OwnContentOnly, UploadLimits

TITLE, FIRST = "YOLOS: what the tokens look at", "Drop an image, or choose one."
THUMBNAIL, SHOWN = 128, 48  # pixels of an image to choose from; how many of them
MEAN = "mean"
MEGABYTES, A_MINUTE, WAITING = 20, 60, 32  # limits: of an upload; uploads; requests that wait for their turn
KEPT_SECONDS = 3600  # files that visitors uploaded, and those drawn for them
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GRADIO_SHARE": "False",
}


def load_gradio() -> Any:
    """Gradio, told to report nothing to anybody; `InputError` if it is not installed."""
    os.environ.update(QUIET)
    try:
        import gradio
    except ImportError as error:
        raise InputError("the page needs gradio; pip install 'yolos-jax[page]'.") from error
    return gradio


class Page:
    """What the parts of the page do; without Gradio but for `skip`, which leaves a part as it is.

    Args:
      looker: the detectors.
      pictures: image files to choose from.
      gr: the module gradio.
    """

    def __init__(self, looker: Looker, pictures: Sequence[Path], gr: Any):
        self.looker, self.pictures, self.gr = looker, list(pictures), gr

    def picture(self, name: str, path: str | None, threshold: float, layer: int, head: str, smooth: bool) -> tuple:
        """A new image or checkpoint: everything is shown anew."""
        if not path:
            return (*([self.gr.skip()] * 2), FIRST, *([self.gr.skip()] * 7))
        key = self.looker.look(name, path)
        look = self.looker.seen(key)
        config = self.looker.detector(name).config
        options = choices(look)
        token = options[0][1]
        layer, head = min(int(layer), config.depth - 1), head if _head(head, config.heads) is not None else MEAN
        found = len(look.over(threshold))
        return (
            key,
            path,
            f"{found} objects with a score of at least {threshold:.2f}. Click a box, or pick a token.",
            with_boxes(look, threshold),
            self.gr.update(choices=options, value=token),
            self.gr.update(maximum=config.depth - 1, value=layer),
            self.gr.update(choices=[MEAN, *map(str, range(config.heads))], value=head),
            *self._attention(key, token, layer, head, smooth),
        )

    def example(self, name: str, threshold: float, layer: int, head: str, smooth: bool, event: Any) -> tuple:
        """An image of the data set was chosen."""
        return self.picture(name, str(self.pictures[event.index]), threshold, layer, head, smooth)

    def boxes(self, key: str, threshold: float) -> tuple:
        """Another threshold."""
        look = self.looker.seen(key)
        text = f"{len(look.over(threshold))} objects with a score of at least {threshold:.2f}."
        return text, with_boxes(look, threshold)

    def click(self, key: str, threshold: float, layer: int, head: str, smooth: bool, event: Any) -> tuple:
        """A click into the image: the token of the box there."""
        look = self.looker.seen(key)
        factor = shown(look.image)[1]
        x, y = (float(v) / factor for v in event.index)
        token = token_at(look, x, y, threshold)
        if token is None:
            return ("There is no box at this place.", *([self.gr.skip()] * 4))
        return f"Token {token} is chosen.", token, *self._attention(key, token, layer, head, smooth)

    def attention(self, key: str, token: int, layer: int, head: str, smooth: bool) -> tuple:
        """Another token, layer or head."""
        return "", *self._attention(key, token, layer, head, smooth)

    def _attention(self, key: str, token: int, layer: int, head: str, smooth: bool) -> tuple:
        look, token, layer = self.looker.seen(key), int(token), int(layer)
        depth, heads = look.attention.shape[:2]
        if not (0 <= token < len(look.scores) and 0 <= layer < depth):
            raise InputError(f"there is no token {token} or no layer {layer}.")
        number = _head(head, heads)
        if head != MEAN and number is None:
            raise InputError(f"there is no head {head!r:.20}; the model has {heads}, counted from 0.")
        facts = facts_of(look, token, layer, self.looker.statistics(key, token))
        return attention_of(look, token, layer, number, smooth), all_heads(look, token, layer, smooth), facts


def _head(text: str, heads: int) -> int | None:
    """The number of a head that is there; None for the mean or what is none."""
    return int(text) if str(text).isdecimal() and int(text) < heads else None


def _said(work: Callable[..., tuple], message: int, outputs: int, gr: Any) -> Callable[..., tuple]:
    """`work`, whose errors that a visitor can mend become the text of the output number `message`."""

    @functools.wraps(work)
    def said(*args: Any) -> tuple:
        try:
            return work(*args)
        except (InputError, UnreadableImage) as error:
            parts = [gr.skip()] * outputs
            parts[message] = f"**{error}**"
            return tuple(parts)

    return said


class Parts(NamedTuple):
    """The parts of the page, components of Gradio."""

    key: Any  # of what is kept of the image, not shown
    path: Any  # of the image's file, not shown
    name: Any  # of the checkpoint
    file: Any
    message: Any
    threshold: Any
    token: Any
    layer: Any
    head: Any
    smooth: Any
    facts: Any
    boxes: Any
    attention: Any
    heads: Any
    gallery: Any  # None if there is nothing to choose from


def build(looker: Looker, pictures: Sequence[Path] = (), threshold: float = 0.5) -> Any:
    """The page as a `gradio.Blocks`, not served yet.

    Args:
      pictures: image files to choose from; the first `SHOWN` are shown, those that cannot be read are left out.
      threshold: the lowest score of a box to start with.
    """
    gr = load_gradio()
    small = thumbnails(pictures)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)) as blocks:
        parts = _lay_out(gr, looker.names, [image for _, image in small], threshold)
        _connect(gr, Page(looker, [path for path, _ in small], gr), parts)
    return blocks.queue(max_size=WAITING, default_concurrency_limit=1)


def _lay_out(gr: Any, names: Sequence[str], small: Sequence[Image.Image], threshold: float) -> Parts:
    """Makes the parts, inside a `Blocks`."""
    key, path = gr.State(None), gr.State(None)
    gr.Markdown(f"## {TITLE}")
    look = {"interactive": False, "buttons": [], "show_label": False, "format": "png"}
    with gr.Row():
        with gr.Column(scale=1):
            name = gr.Dropdown(list(names), value=names[0], label="checkpoint", elem_id="checkpoint")
            file = gr.File(label="an image", file_count="single", elem_id="file", height=140)
            message = gr.Markdown(FIRST, elem_id="message")
            cut = gr.Slider(0, 1, threshold, step=0.01, label="lowest score of a box", elem_id="threshold")
            with gr.Group():
                token = gr.Dropdown([], label="token", elem_id="token")
                layer = gr.Slider(0, 1, 0, step=1, label="layer (counted from 0)", elem_id="layer")
                head = gr.Dropdown([MEAN], value=MEAN, label="head", elem_id="head")
                smooth = gr.Checkbox(True, label="smooth", elem_id="smooth")
            facts = gr.Markdown("", elem_id="facts")
        with gr.Column(scale=2):
            gr.Markdown("**Detections**: click a box")
            boxes = gr.Image(label="detections", elem_id="boxes", **look)
            gr.Markdown("**Attention of the token**: the brightest patch gets most of it")
            attention = gr.Image(label="attention of the token", elem_id="attention", **look)
    gr.Markdown("**Each head**")
    heads = gr.Image(label="each head", elem_id="heads", **look)
    gallery = None
    if small:
        gallery = gr.Gallery(
            list(small), label="images to choose from", elem_id="gallery", columns=8, fit_columns=False,
            allow_preview=False, interactive=False, buttons=[], object_fit="contain",
        )  # fmt: skip
    return Parts(
        key, path, name, file, message, cut, token, layer, head, smooth, facts, boxes, attention, heads, gallery
    )


def _connect(gr: Any, page: Page, parts: Parts) -> None:
    """Says what happens when a part is used."""
    settings, drawn = [parts.layer, parts.head, parts.smooth], [parts.attention, parts.heads, parts.facts]
    everything = [parts.key, parts.path, parts.message, parts.boxes, parts.token, parts.layer, parts.head, *drawn]
    work = {"show_progress": "minimal", "api_visibility": "private"}
    last = work | {"trigger_mode": "always_last"}
    whole = _said(page.picture, 2, len(everything), gr)
    parts.file.upload(whole, [parts.name, parts.file, parts.threshold, *settings], everything, **work)
    parts.name.input(whole, [parts.name, parts.path, parts.threshold, *settings], everything, **work)
    cut = [parts.key, parts.threshold]
    parts.threshold.input(_said(page.boxes, 0, 2, gr), cut, [parts.message, parts.boxes], **last)
    again = _said(page.attention, 0, 4, gr)
    for part in (parts.token, parts.head, parts.smooth, parts.layer):
        part.input(again, [parts.key, parts.token, *settings], [parts.message, *drawn], **last)
    click = _with_event(_said(page.click, 0, 5, gr), gr)
    parts.boxes.select(click, [*cut, *settings], [parts.message, parts.token, *drawn], **work)
    if parts.gallery is not None:
        choose = _with_event(_said(page.example, 2, len(everything), gr), gr)
        parts.gallery.select(choose, [parts.name, parts.threshold, *settings], everything, **work)


def _with_event(work: Callable[..., tuple], gr: Any) -> Callable[..., tuple]:
    """`work` of five inputs and an event as Gradio wants it: the type of the last parameter says what it is."""

    def handler(a: Any, b: Any, c: Any, d: Any, e: Any, event: Any) -> tuple:
        return work(a, b, c, d, e, event)

    handler.__annotations__["event"] = gr.SelectData
    return handler


def thumbnails(pictures: Sequence[Path]) -> list[tuple[Path, Image.Image]]:
    """The first images that can be read, with a small copy of each."""
    found: list[tuple[Path, Image.Image]] = []
    for path in pictures:
        if len(found) == SHOWN:
            break
        try:
            image = read_picture(path)
        except (UnreadableImage, OSError):
            continue
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        found.append((path, image))
    return found


def serve(blocks: Any, host: str, port: int, megabytes: int = MEGABYTES, wait: bool = True) -> str:
    """Serves a page until it is interrupted; returns its address.

    Args:
      megabytes: of an image that is uploaded.
      wait: False returns at once and serves on.

    Raises:
      InputError: the port is taken.
    """
    gr = load_gradio()
    from starlette.middleware import Middleware

    most = megabytes * 2**20
    before = [Middleware(OwnContentOnly), Middleware(UploadLimits, most_bytes=most + 2**16, most_a_minute=A_MINUTE)]
    plain = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no fonts to load
    try:
        _, address, _ = blocks.launch(
            server_name=host, server_port=port, share=False, inbrowser=False, quiet=True, ssr_mode=False,
            max_file_size=most, footer_links=[], run_history=False, enable_monitoring=False, pwa=False,
            mcp_server=False, strict_cors=True, theme=plain, prevent_thread_lock=True,
            app_kwargs={"middleware": before},
        )  # fmt: skip
    except OSError as error:
        raise InputError(f"the page cannot be served at {host}:{port} ({error}); give another --port.") from error
    if wait:
        print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
        blocks.block_thread()
    return str(address)
