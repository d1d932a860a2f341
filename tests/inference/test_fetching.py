"""Downloads images from a local server, and tests the error message for each failure."""

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from yolos_jax.images.reading import UnreadableImage
from yolos_jax.inference.fetching import fetch

DATA = bytes(range(256)) * 1000


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        what, _, number = self.path.strip("/").partition("/")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, f"say_{what}", lambda _: self.send_error(404))(number)

    def begin(self, code=200, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def say_data(self, _):
        self.begin(Content_Length=len(DATA))
        self.wfile.write(DATA)

    def say_unsized(self, _):
        self.begin()
        self.wfile.write(DATA)

    def say_cut(self, _):
        self.begin(Content_Length=len(DATA) + 1)
        self.wfile.write(DATA)

    def say_name(self, _):
        self.begin()
        self.wfile.write(f"{self.path} {self.headers['User-Agent']}".encode())

    def say_hop(self, number):
        self.begin(302, Location=f"/hop/{int(number) - 1}" if int(number) else "/data")

    def say_elsewhere(self, _):
        self.begin(301, Location="file:///etc/passwd")

    def say_slow(self, _):
        self.begin()
        for _ in range(50):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def say_never(self, _):
        time.sleep(1)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["data", "unsized", "hop/3"])
def test_existing_images_are_downloaded(site, path):
    assert fetch(f"{site}/{path}", most_bytes=len(DATA)) == DATA


def test_special_characters_are_encoded(site):
    assert fetch(f"{site}/name/ä b%20c") == b"/name/%C3%A4%20b%20c yolos-jax"


@pytest.mark.parametrize("path, words, bounds", [
    ("gone", "404 Not Found", {}),
    ("data", "larger than 0.1 MiB; download it", {"most_bytes": 104_858}),
    ("unsized", "larger than 0.1 MiB; download it", {"most_bytes": 104_858}),
    ("cut", "the connection ended after 256000 of 256001 bytes", {}),
    ("hop/9", "redirects more than 5 times", {}),
    ("elsewhere", "redirects to file:///etc/passwd, which is neither http nor https", {}),
    ("slow", "took longer than 0.3 s", {"most_seconds": 0.3}),
    ("never", "took longer than 0.3 s", {"most_seconds": 0.3}),
])  # fmt: skip
def test_failures(site, path, words, bounds):
    start = time.monotonic()
    with pytest.raises(UnreadableImage) as failure:
        fetch(f"{site}/{path}", **bounds)
    sentence = str(failure.value)
    assert sentence.startswith(f"{site}/{path} cannot be fetched: ") and words in sentence and "\n" not in sentence
    assert time.monotonic() - start < 10


def test_no_server_and_invalid_urls(site):
    for address in ("http://127.0.0.1:1/a.jpg", "http://127.0.0.1:99999/a.jpg", "http://[::1/a.jpg", "http:///a.jpg"):
        with pytest.raises(UnreadableImage, match="cannot be fetched: .+[^.]\\.$"):
            fetch(address, most_seconds=2)
