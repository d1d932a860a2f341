"""The page itself, in Gradio: its components and event handlers."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from yolos_jax.datasets.headers import header_of
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.tools.page.drawings import all_heads, attention_of, enlarged, token_summary, with_boxes
from yolos_jax.tools.page.middleware import OwnContentOnly, UploadLimits
from yolos_jax.tools.page.viewer import AttentionViewer, choices, read_picture, token_at

TITLE, FIRST = "YOLOS: what the tokens look at", "Drop an image, or choose one."
THUMBNAIL, SHOWN = 128, 48  # pixels of an image to choose from; how many of them
MEAN_HEAD = "mean"
MEGABYTES = 20  # of an upload at most
A_MINUTE = 60  # uploads at most
WAITING = 32  # limit of queued requests
KEPT_SECONDS = 3600  # files that visitors uploaded, and those drawn for them
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GRADIO_SHARE": "False",
}


def load_gradio() -> Any:
    """Gradio, with telemetry off; `InputError` if it is not installed."""
    os.environ.update(QUIET)
    try:
        import gradio
    except ImportError as error:
        raise InputError("the page needs gradio; pip install 'yolos-jax[page]'.") from error
    return gradio


def build_page(viewer: AttentionViewer, pictures: Sequence[Path] = (), threshold: float = 0.5) -> Any:
    """The page as a `gradio.Blocks`, not served yet.

    Args:
      viewer: the detectors.
      pictures: image files to choose from; the first `SHOWN` are shown, those that cannot be read are left out.
      threshold: the lowest score of a box to start with.
    """
    gr = load_gradio()
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)) as blocks:
        Page(gr, viewer, thumbnails(pictures), threshold)
    return blocks.queue(max_size=WAITING, default_concurrency_limit=1)


class Page:
    """The components of the page and their behaviour; to be created inside a `Blocks`.

    A handler takes values of components and returns the new values by component. `pictures` are image files to choose
    from, with a small copy of each; see `build_page`.
    """

    def __init__(
        self, gr: Any, viewer: AttentionViewer, pictures: Sequence[tuple[Path, Image.Image]], threshold: float
    ):
        self.gr = gr
        self.viewer = viewer
        self.pictures = [path for path, _ in pictures]
        self._lay_out([small for _, small in pictures], threshold)
        self._connect()

    def _lay_out(self, small: Sequence[Image.Image], threshold: float) -> None:
        gr, names = self.gr, self.viewer.names
        self.key, self.path = gr.State(None), gr.State(None)  # of what is kept of the image; of its file
        gr.Markdown(f"## {TITLE}")
        look = {"interactive": False, "buttons": [], "show_label": False, "format": "png"}
        with gr.Row():
            with gr.Column(scale=1):
                self.name = gr.Dropdown(list(names), value=names[0], label="checkpoint", elem_id="checkpoint")
                self.file = gr.File(label="an image", file_count="single", elem_id="file", height=140)
                self.message = gr.Markdown(FIRST, elem_id="message")
                text = "lowest score of a box"
                self.threshold = gr.Slider(0, 1, threshold, step=0.01, label=text, elem_id="threshold")
                with gr.Group():
                    self.token = gr.Dropdown([], label="token", elem_id="token")
                    self.layer = gr.Slider(0, 1, 0, step=1, label="layer (counted from 0)", elem_id="layer")
                    self.head = gr.Dropdown([MEAN_HEAD], value=MEAN_HEAD, label="head", elem_id="head")
                    self.smooth = gr.Checkbox(True, label="smooth", elem_id="smooth")
                self.facts = gr.Markdown("", elem_id="facts")
            with gr.Column(scale=2):
                gr.Markdown("**Detections**: click a box")
                self.boxes = gr.Image(label="detections", elem_id="boxes", **look)
                gr.Markdown("**Attention of the token**: the brightest patch gets most of it")
                self.attention = gr.Image(label="attention of the token", elem_id="attention", **look)
        gr.Markdown("**Each head**")
        self.heads = gr.Image(label="each head", elem_id="heads", **look)
        self.gallery = None
        if small:
            self.gallery = gr.Gallery(
                list(small), label="images to choose from", elem_id="gallery", columns=8, fit_columns=False,
                allow_preview=False, interactive=False, buttons=[], object_fit="contain",
            )  # fmt: skip

    def _connect(self) -> None:
        """Connects each component's events to a handler, its inputs and its outputs."""
        settings = [self.layer, self.head, self.smooth]
        drawn = [self.attention, self.heads, self.facts]
        everything = [self.key, self.path, self.message, self.boxes, self.token, self.layer, self.head, *drawn]
        work = {"show_progress": "minimal", "api_visibility": "private"}
        last = work | {"trigger_mode": "always_last"}
        show = self._handler(self._show)
        self.file.upload(show, [self.name, self.file, self.threshold, *settings], everything, **work)
        self.name.input(show, [self.name, self.path, self.threshold, *settings], everything, **work)
        scored = [self.key, self.threshold]
        self.threshold.input(self._handler(self._show_boxes), scored, [self.message, self.boxes], **last)
        again = self._handler(self._show_attention)
        for component in (self.token, self.head, self.smooth, self.layer):
            component.input(again, [self.key, self.token, *settings], [self.message, *drawn], **last)
        click = self._handler(self._click)
        self.boxes.select(click, [*scored, *settings], [self.message, self.token, *drawn], **work)
        if self.gallery is not None:
            choose = self._handler(self._choose)
            self.gallery.select(choose, [self.name, self.threshold, *settings], everything, **work)

    def _handler(self, work: Callable[..., dict]) -> Callable[..., dict]:
        """Wraps `work` for Gradio; errors that a visitor can fix are shown as the message."""

        @functools.wraps(work)
        def handler(*values: Any) -> dict:
            try:
                return work(*values)
            except (InputError, UnreadableImage) as error:
                return {self.message: f"**{error}**"}

        if "event" in work.__annotations__:  # by its type, Gradio knows which parameter the event is
            handler.__annotations__ = work.__annotations__ | {"event": self.gr.SelectData}
        return handler

    def _show(self, name: str, path: str | None, threshold: float, layer: int, head: str, smooth: bool) -> dict:
        """A new image or checkpoint: updates everything."""
        if not path:
            return {self.message: FIRST}
        key = self.viewer.look(name, path)
        seen = self.viewer.seen(key)
        depth, heads = seen.attention.shape[:2]
        layer = min(int(layer), depth - 1)
        if _head_number(head, heads) is None:
            head = MEAN_HEAD
        options = choices(seen)
        best = options[0][1]
        found = f"{len(seen.over(threshold))} objects with a score of at least {threshold:.2f}."
        frames = header_of(path).frames
        first = f"Of its {frames} frames or pages, this is the first. " if frames > 1 else ""
        return {
            self.key: key,
            self.path: path,
            self.message: f"{first}{found} Click a box, or pick a token.",
            self.boxes: with_boxes(seen, threshold, self.viewer.font),
            self.token: self.gr.update(choices=options, value=best),
            self.layer: self.gr.update(maximum=depth - 1, value=layer),
            self.head: self.gr.update(choices=[MEAN_HEAD, *map(str, range(heads))], value=head),
            **self._attention(key, best, layer, head, smooth),
        }

    def _choose(self, name: str, threshold: float, layer: int, head: str, smooth: bool, event: Any) -> dict:
        """An image of the gallery was chosen."""
        return self._show(name, str(self.pictures[event.index]), threshold, layer, head, smooth)

    def _show_boxes(self, key: str, threshold: float) -> dict:
        """Another threshold."""
        seen = self.viewer.seen(key)
        text = f"{len(seen.over(threshold))} objects with a score of at least {threshold:.2f}."
        return {self.message: text, self.boxes: with_boxes(seen, threshold, self.viewer.font)}

    def _click(self, key: str, threshold: float, layer: int, head: str, smooth: bool, event: Any) -> dict:
        """A click on the image: selects the token of the box there."""
        seen = self.viewer.seen(key)
        factor = enlarged(seen.image)[1]
        x, y = (float(v) / factor for v in event.index)
        token = token_at(seen, x, y, threshold)
        if token is None:
            return {self.message: "There is no box here."}
        chosen = {self.message: f"Token {token} is chosen.", self.token: token}
        return chosen | self._attention(key, token, layer, head, smooth)

    def _show_attention(self, key: str, token: int, layer: int, head: str, smooth: bool) -> dict:
        """Another token, layer or head."""
        return {self.message: ""} | self._attention(key, token, layer, head, smooth)

    def _attention(self, key: str, token: int, layer: int, head: str, smooth: bool) -> dict:
        seen = self.viewer.seen(key)
        token = int(token)
        layer = int(layer)
        depth, heads = seen.attention.shape[:2]
        if not (0 <= token < len(seen.scores) and 0 <= layer < depth):
            raise InputError(f"there is no token {token} or no layer {layer}.")
        number = _head_number(head, heads)
        if head != MEAN_HEAD and number is None:
            raise InputError(f"there is no head {head!r:.20}; the model has {heads}, counted from 0.")
        return {
            self.attention: attention_of(seen, token, layer, number, smooth),
            self.heads: all_heads(seen, token, layer, smooth),
            self.facts: token_summary(seen, token, layer, self.viewer.statistics(key, token)),
        }


def _head_number(text: str, heads: int) -> int | None:
    """The number of one of the heads; None for anything else, such as the mean."""
    return int(text) if str(text).isdecimal() and int(text) < heads else None


def thumbnails(pictures: Sequence[Path]) -> list[tuple[Path, Image.Image]]:
    """The first readable images, with a thumbnail of each."""
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
