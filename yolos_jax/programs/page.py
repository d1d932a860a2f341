"""Serves a web page that draws an image's detections, and the attention of the token whose box you click.

yolos-page --checkpoint runs/s hustvl/yolos-tiny --pictures data/coco/val2017

The page is only accessible from this machine unless --host is given, and loads nothing from other hosts.
"""

import errno
import os
import socket
from pathlib import Path
from typing import Any

from yolos_jax.datasets.listing import BESIDE, LeftOut, images_below
from yolos_jax.errors import InputError, clear_errors
from yolos_jax.inference.fonts import missing_note
from yolos_jax.programs.command_line import Parser, say

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"
PORT = 7860


@clear_errors()
def main() -> None:
    """Serves the page."""
    parser = Parser(__doc__, "%(prog)s --checkpoint CHECKPOINT... [FLAGS]")
    text = "checkpoint folders, Hugging Face folders or hub ids to choose from"
    parser.add_argument("--checkpoint", required=True, nargs="+", help=text)
    parser.add_argument("--pictures", type=Path, help="folder of images to choose from")
    text = "token statistics of the first checkpoint: a tokens.csv written by yolos-analyze tokens"
    parser.add_argument("--tokens", default="", metavar="CSV", help=text)
    parser.add_font_flag()
    parser.add_argument("--threshold", type=float, default=0.5, help="initial minimum score of a box (default 0.5)")
    parser.add_argument("--short-side", type=int, help="short side in pixels (default: as in training, else 800)")
    parser.add_argument(
        "--max-side",
        type=int,
        help="maximum long side in pixels (default: as in training, else 1333/800 times the short side)",
    )
    parser.add_argument(
        "--host", default=LOOPBACK, help=f"address to listen on (default {LOOPBACK}: this machine only)"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"port to listen on (default {PORT})")
    parser.add_argument(
        "--max-megabytes", type=int, default=20, help="maximum size of an uploaded image in megabytes (default 20)"
    )
    text = "cache of compiled programs: auto (the user's cache folder), off, or a folder"
    parser.add_argument("--compilation-cache", default="auto", metavar="WHERE", help=text)
    args = parser.parse()
    if not 0 <= args.threshold <= 1 or args.max_megabytes < 1 or not 0 < args.port < 65536:
        raise InputError(
            "--threshold must be between 0 and 1, --max-megabytes at least 1, and --port between 1 and 65535."
        )
    sides = args.short_side, args.max_side
    check_free_port(args.host, args.port)
    named = args.checkpoint, args.pictures, args.tokens
    blocks = page_of(*named, args.threshold, sides, args.compilation_cache, args.font)
    from yolos_jax.tools.page.gradio_page import serve

    serve(blocks, args.host, args.port, args.max_megabytes)


def page_of(
    checkpoints: list[str],
    pictures: Path | None = None,
    tokens: str = "",
    threshold: float = 0.5,
    sides: tuple[int | None, int | None] = (None, None),
    cache: str = "auto",
    font: str = "",
) -> Any:
    """The page as a `gradio.Blocks`; checks that all checkpoints exist, and loads the first one."""
    from yolos_jax.tools.page.gradio_page import build_page, load_gradio

    load_gradio()
    from yolos_jax.inference.compiled import keep_compiled
    from yolos_jax.inference.loading import check_there
    from yolos_jax.tools.page.viewer import AttentionViewer

    say(keep_compiled(cache))
    for checkpoint in checkpoints:
        check_there(checkpoint)
    viewer = AttentionViewer(checkpoints, *sides, tokens, font)
    detector = viewer.detector(viewer.names[0])
    say(missing_note(detector.label_names.values(), font, "--font"))
    return build_page(viewer, images_in(pictures), threshold)


def check_free_port(host: str, port: int) -> None:
    """Raises `InputError` for an unknown host, an address of another machine, or a port that cannot be used."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host} is not a known address ({reason}); choose another one.") from error
    with socket.socket(family, kind) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name != "nt")  # on Windows, this would share ports
        try:
            tried.bind(address)
        except OSError as error:
            reason = error.strerror or error
            if error.errno == errno.EADDRNOTAVAIL:
                raise InputError(f"--host {host} is not an address of this machine; choose another one.") from error
            raise InputError(f"port {port} of {host} cannot be used ({reason}); choose another --port.") from error


def images_in(folder: Path | None) -> list[Path]:
    """Sorted image files in a folder and its subfolders; `InputError` if there are none."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise InputError(f"the image folder {folder} does not exist.")
    left = LeftOut()
    found = [folder / name for name in images_below(folder, left, BESIDE)]
    if not found:
        raise InputError(f"the folder {folder} contains no images.")
    for note in left.note(folder):
        say(note)
    return found


def from_environment() -> Any:
    """The page of a Hugging Face Space, configured by YOLOS_CHECKPOINTS, YOLOS_PICTURES and YOLOS_TOKENS."""
    names = os.environ.get("YOLOS_CHECKPOINTS", "hustvl/yolos-tiny").split()
    pictures = os.environ.get("YOLOS_PICTURES")
    return page_of(names, Path(pictures) if pictures else None, os.environ.get("YOLOS_TOKENS", ""))


def host_of_a_space() -> str:
    """The address to listen on: all addresses on a Hugging Face Space, which forwards requests; else 127.0.0.1."""
    return EVERYWHERE if os.environ.get("SPACE_ID") else LOOPBACK


if __name__ == "__main__":
    main()
