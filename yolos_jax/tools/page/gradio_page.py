"""The Gradio page: its components and event handlers."""

import functools
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from yolos_jax.datasets.headers import header_of
from yolos_jax.errors import InputError
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.tools.page.drawings import all_heads, attention_of, enlarged, rows_over, token_summary, with_boxes
from yolos_jax.tools.page.middleware import OwnContentOnly, UploadLimits
from yolos_jax.tools.page.viewer import (
    SHOWN,
    AttentionViewer,
    Picture,
    choices,
    found_over,
    small_copies,
    thumbnails,
    token_at,
)  # fmt: skip

TITLE, FIRST = "YOLOS: what the tokens attend to", "Drop images or a video, or choose an image from the gallery."
NOTHING = "nothing"  # the choice that hides the comparison
HEADERS = ["token", "class", "score", "box (xyxy)"]
LOOK = {"interactive": False, "buttons": [], "show_label": False, "format": "png"}
# Keeps the gallery in one scrolling row and the page within the width of a phone screen.
CSS = """
#gallery .grid-container {grid-template-columns: none; grid-auto-flow: column; grid-auto-columns: 96px}
.gradio-container {overflow-x: hidden}
"""
MEAN_HEAD = "mean"
MEGABYTES = 20  # maximum size of an upload
A_MINUTE = 60  # maximum number of uploads per minute
WAITING = 32  # maximum number of queued requests
KEPT_SECONDS = 3600  # lifetime of uploaded files and of the files created for them
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "GRADIO_SHARE": "False",
}


def load_gradio() -> Any:
    """Imports Gradio with telemetry off; raises `InputError` if it is not installed."""
    os.environ.update(QUIET)
    try:
        import gradio
    except ImportError as error:
        raise InputError("the page needs gradio; run pip install 'yolos-jax[page]'.") from error
    return gradio


def build_page(viewer: AttentionViewer, pictures: Sequence[Path] = (), threshold: float = 0.5) -> Any:
    """Builds the page as a `gradio.Blocks`, without serving it.

    Args:
      viewer: the detectors.
      pictures: images and videos for the gallery; unreadable files are skipped, and at most `SHOWN` images are shown.
      threshold: initial score threshold.
    """
    gr = load_gradio()
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)) as blocks:
        page = Page(gr, viewer, thumbnails(pictures).pictures, threshold)
        page.connect(blocks)
    return blocks.queue(max_size=WAITING, default_concurrency_limit=1)


class Page:
    """The components of the page and their event handlers; must be created inside a `Blocks`.

    A handler receives the values of components and returns a dict of new values, keyed by component. `pictures` are the
    images in the gallery, each with its thumbnail.
    """

    def __init__(
        self, gr: Any, viewer: AttentionViewer, pictures: Sequence[tuple[Picture, Image.Image]], threshold: float
    ):
        self.gr = gr
        self.viewer = viewer
        self.pictures = list(pictures)
        self._lay_out(threshold)

    def _lay_out(self, threshold: float) -> None:
        gr, names = self.gr, self.viewer.names
        self.key = gr.State(None)  # key of the image's result in the viewer's cache
        self.path = gr.State(self.pictures[0][0] if self.pictures else None)  # `Picture` of the displayed image
        self.mine = gr.State([])  # this visitor's uploads and their thumbnails, in the format of `pictures`
        self.compared = gr.State(None)  # (checkpoint, `Picture`, key) of the last comparison
        gr.Markdown(f"## {TITLE}")
        small = [image for _, image in self.pictures]
        with gr.Row():
            self.gallery = gr.Gallery(
                small, show_label=False, elem_id="gallery", height=144, visible=True if small else "hidden",
                allow_preview=False, interactive=False, buttons=[], object_fit="contain", scale=3,
            )  # fmt: skip
            self.file = gr.File(label="images or a video", file_count="multiple", elem_id="file", height=144, scale=1)
        self.message = gr.Markdown(FIRST, elem_id="message")
        with gr.Column(visible="hidden") as self.results:
            with gr.Row():
                with gr.Column():
                    self._lay_out_boxes(names, threshold)
                with gr.Column():
                    self._lay_out_attention()
            gr.Markdown("**Each head**")
            self.heads = gr.Image(label="each head", elem_id="heads", **LOOK)

    def _lay_out_boxes(self, names: Sequence[str], threshold: float) -> None:
        gr = self.gr
        gr.Markdown("**Detections**: click a box, or a row of the table")
        self.boxes = gr.Image(label="detections", elem_id="boxes", **LOOK)
        self.threshold = gr.Slider(0, 1, threshold, step=0.01, label="minimum score of a box", elem_id="threshold")
        self.name = gr.Dropdown(list(names), value=names[0], label="checkpoint", elem_id="checkpoint")
        self.table = gr.Dataframe(
            headers=HEADERS, type="array", interactive=False, max_height=260, buttons=[], elem_id="table",
            show_label=False,
        )  # fmt: skip
        with gr.Row():
            self.json = gr.DownloadButton("Detections (JSON)", elem_id="json", size="sm", min_width=120)
            self.drawn = gr.DownloadButton("Annotated image (PNG)", elem_id="drawn", size="sm", min_width=120)
        options = [NOTHING, *names]
        self.other = gr.Dropdown(options, value=NOTHING, label="compare with", elem_id="other", visible=len(names) > 1)
        with gr.Column(visible="hidden") as self.comparison:
            self.comparison_text = gr.Markdown("", elem_id="comparison")
            self.other_boxes = gr.Image(label="detections of the other checkpoint", elem_id="other_boxes", **LOOK)

    def _lay_out_attention(self) -> None:
        gr, last = self.gr, self.viewer.detector(self.viewer.names[0]).config.depth - 1
        gr.Markdown("**Attention of the token**: brighter patches receive more")
        self.attention = gr.Image(label="attention of the token", elem_id="attention", **LOOK)
        with gr.Group():
            self.token = gr.Dropdown([], label="token", elem_id="token")
            self.layer = gr.Slider(0, last, last, step=1, label="layer (counted from 0)", elem_id="layer")
            self.head = gr.Dropdown([MEAN_HEAD], value=MEAN_HEAD, label="head", elem_id="head")
            self.smooth = gr.Checkbox(True, label="smooth", elem_id="smooth")
        self.facts = gr.Markdown("", elem_id="facts")

    def connect(self, blocks: Any) -> None:
        """Connects each component's events to a handler, its inputs and its outputs."""
        settings = [self.layer, self.head, self.smooth]
        drawn = [self.attention, self.heads, self.facts]
        found = [self.message, self.boxes, self.table, self.json, self.drawn]
        everything = [self.key, self.path, self.results, self.token, self.layer, self.head, *found, *drawn]
        work = {"show_progress": "minimal", "api_visibility": "private"}
        last = work | {"trigger_mode": "always_last"}
        show = self._handler(self._show)
        given = [self.name, self.path, self.threshold, *settings]
        self.name.input(show, given, everything, **work)
        uploaded = [self.mine, self.gallery, *everything]
        upload = self._handler(self._upload)
        done = self.file.upload(upload, [self.file, self.mine, *given], uploaded, **work)
        done.then(lambda: None, None, self.file, **work)  # clears the field, so that the next upload is not appended
        self.gallery.select(
            self._handler(self._choose), [self.mine, self.name, self.threshold, *settings], everything, **work
        )
        if self.pictures:
            blocks.load(show, given, everything, **work)
        scored = [self.key, self.path, self.threshold]
        self.threshold.input(self._handler(self._show_boxes), scored, found, **last)
        compared = [self.message, self.compared, self.comparison, self.comparison_text, self.other_boxes]
        changes = [self.other.input, self.path.change, self.threshold.input]
        given = [self.other, self.path, self.threshold, self.compared]
        self.gr.on(changes, self._handler(self._compare), given, compared, **last)
        again = self._handler(self._show_attention)
        for component in (self.token, self.head, self.smooth, self.layer):
            component.input(again, [self.key, self.token, *settings], [self.message, *drawn], **last)
        clicked = [self.message, self.token, *drawn]
        self.boxes.select(self._handler(self._click), [self.key, self.threshold, *settings], clicked, **work)
        self.table.select(self._handler(self._pick), [self.key, *settings], clicked, **work)

    def _handler(self, work: Callable[..., dict]) -> Callable[..., dict]:
        """Wraps `work` as a Gradio handler that shows visitors the errors that they can fix."""

        @functools.wraps(work)
        def handler(*values: Any) -> dict:
            try:
                return work(*values)
            except (InputError, UnreadableImage) as error:
                return {self.message: f"**{error}**"}

        if "event" in work.__annotations__:  # Gradio recognises the event parameter by its annotation
            handler.__annotations__ = work.__annotations__ | {"event": self.gr.SelectData}
        return handler

    def _show(self, name: str, path: Picture | None, threshold: float, layer: int, head: str, smooth: bool) -> dict:
        """Analyses a new image, or the same image with a different checkpoint, and updates all components."""
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
        frames = header_of(path.path).frames if path.frame is None else 1
        first = f"Showing the first of {frames} frames or pages. " if frames > 1 else ""
        found = self._show_boxes(key, path, threshold)
        found[self.message] = f"{first}{found[self.message]} Click a box, or pick a token."
        return {
            self.key: key,
            self.path: path,
            self.results: self.gr.update(visible=True),
            self.token: self.gr.update(choices=options, value=best),
            self.layer: self.gr.update(maximum=depth - 1, value=layer),
            self.head: self.gr.update(choices=[MEAN_HEAD, *map(str, range(heads))], value=head),
            **found,
            **self._attention(key, best, layer, head, smooth),
        }

    def _upload(self, files: list[str], mine: list, name: str, path: Picture | None, *settings: Any) -> dict:
        """Adds uploaded images to the front of the gallery and shows the first one."""
        paths = [Path(file) for file in files]
        new, unreadable, beyond = thumbnails(paths)
        if not new:
            small_copies(paths[0])  # raises the error of the first file
        mine = [*new, *mine][:SHOWN]
        small = [image for _, image in [*mine, *self.pictures]]
        shown = self._show(name, new[0][0], *settings)
        if beyond:
            shown[self.message] = (
                f"The gallery shows at most {SHOWN} images; {beyond} files were skipped. {shown[self.message]}"
            )
        if unreadable:
            shown[self.message] = f"{unreadable} of {len(paths)} files cannot be read. {shown[self.message]}"
        return shown | {self.mine: mine, self.gallery: self.gr.update(value=small, visible=True)}

    def _choose(self, mine: list, name: str, threshold: float, layer: int, head: str, smooth: bool, event: Any) -> dict:
        """Shows an image that was selected in the gallery."""
        path, _ = [*mine, *self.pictures][event.index]
        return self._show(name, path, threshold, layer, head, smooth)

    def _show_boxes(self, key: str, path: Picture, threshold: float) -> dict:
        """Shows the detections for a new threshold."""
        seen = self.viewer.seen(key)
        drawn = with_boxes(seen, threshold, self.viewer.font)
        content = io.BytesIO()
        drawn.save(content, "PNG")
        table = found_over(seen, threshold)
        text = json.dumps(table.to_dict() | {"image": path.name}, indent=1)
        return {
            self.message: f"{path.name}: {len(table)} objects with a score of at least {threshold:.2f}.",
            self.boxes: drawn,
            self.table: rows_over(seen, threshold),
            self.json: self._file(f"{path.stem}.json", text.encode()),
            self.drawn: self._file(f"{path.stem}-boxes.png", content.getvalue()),
        }

    def _compare(self, other: str, path: Picture | None, threshold: float, last: tuple | None) -> dict:
        """Shows another checkpoint's detections in the same image."""
        if other == NOTHING or path is None:
            return {self.comparison: self.gr.update(visible="hidden")}
        if last is None or last[:2] != (other, path):
            last = other, path, self.viewer.look(other, path)
        seen = self.viewer.seen(last[2])
        return {
            self.compared: last,
            self.comparison: self.gr.update(visible=True),
            self.comparison_text: f"{other}: {len(seen.over(threshold))} objects",
            self.other_boxes: with_boxes(seen, threshold, self.viewer.font),
        }

    def _file(self, name: str, content: bytes) -> str:
        """Writes a file to Gradio's cache, which deletes it after `KEPT_SECONDS`."""
        from gradio.processing_utils import save_bytes_to_cache

        return str(save_bytes_to_cache(content, name, self.json.GRADIO_CACHE))

    def _click(self, key: str, threshold: float, layer: int, head: str, smooth: bool, event: Any) -> dict:
        """Selects the token of the box that was clicked."""
        seen = self.viewer.seen(key)
        factor = enlarged(seen.image)[1]
        x, y = (float(v) / factor for v in event.index)
        token = token_at(seen, x, y, threshold)
        if token is None:
            return {self.message: "There is no box here."}
        chosen = {self.message: f"Token {token} selected.", self.token: token}
        return chosen | self._attention(key, token, layer, head, smooth)

    def _pick(self, key: str, layer: int, head: str, smooth: bool, event: Any) -> dict:
        """Selects the token of the table row that was clicked."""
        token = int(event.row_value[0])
        chosen = {self.message: f"Token {token} selected.", self.token: token}
        return chosen | self._attention(key, token, layer, head, smooth)

    def _show_attention(self, key: str, token: int, layer: int, head: str, smooth: bool) -> dict:
        """Shows the attention of another token, layer or head."""
        return {self.message: ""} | self._attention(key, token, layer, head, smooth)

    def _attention(self, key: str, token: int, layer: int, head: str, smooth: bool) -> dict:
        seen = self.viewer.seen(key)
        token = int(token)
        layer = int(layer)
        depth, heads = seen.attention.shape[:2]
        if not (0 <= token < len(seen.scores) and 0 <= layer < depth):
            raise InputError(f"token {token} or layer {layer} does not exist.")
        number = _head_number(head, heads)
        if head != MEAN_HEAD and number is None:
            raise InputError(f"there is no head {head!r:.20}; the model has heads 0 to {heads - 1}.")
        return {
            self.attention: attention_of(seen, token, layer, number, smooth),
            self.heads: all_heads(seen, token, layer, smooth),
            self.facts: token_summary(seen, token, layer, self.viewer.statistics(key, token)),
        }


def _head_number(text: str, heads: int) -> int | None:
    """Parses the number of a head; returns None for any other text (for example "mean")."""
    return int(text) if str(text).isdecimal() and int(text) < heads else None


def serve(blocks: Any, host: str, port: int, megabytes: int = MEGABYTES, wait: bool = True) -> str:
    """Serves a page until interrupted; returns its address.

    Args:
      megabytes: maximum size of an uploaded file.
      wait: whether to block until interrupted; otherwise, the page is served in the background.

    Raises:
      InputError: the port is in use.
    """
    gr = load_gradio()
    from starlette.middleware import Middleware

    most = megabytes * 2**20
    before = [Middleware(OwnContentOnly), Middleware(UploadLimits, most_bytes=most + 2**16, most_a_minute=A_MINUTE)]
    plain = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no web fonts
    try:
        _, address, _ = blocks.launch(
            server_name=host, server_port=port, share=False, inbrowser=False, quiet=True, ssr_mode=False,
            max_file_size=most, footer_links=[], run_history=False, enable_monitoring=False, pwa=False,
            mcp_server=False, strict_cors=True, theme=plain, css=CSS, prevent_thread_lock=True,
            app_kwargs={"middleware": before},
        )  # fmt: skip
    except OSError as error:
        raise InputError(f"the page cannot be served at {host}:{port} ({error}); choose another --port.") from error
    if wait:
        print(f"serving the page at {address} (press Ctrl-C to stop)", flush=True)
        blocks.block_thread()
    return str(address)
