"""Downloads an image from a URL, with limits on size, time and redirects. Does not import jax."""

import http.client
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlsplit

from yolos_jax.images.reading import UnreadableImage

MOST_BYTES = 64 * 2**20
MOST_SECONDS = 30.0
MOST_REDIRECTS = 5
SCHEMES = ("http", "https")
_PIECE = 2**16
_KEPT = "%/:=&?~#+!$,;'@()*[]"  # characters of a URL that need no quoting


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a limited number of redirects, only to http and https."""

    max_redirections = MOST_REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in SCHEMES:
            raise urllib.error.HTTPError(newurl, code, msg, headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(address: str, most_bytes: int = MOST_BYTES, most_seconds: float = MOST_SECONDS) -> bytes:
    """Downloads the bytes at an http or https URL.

    Raises `UnreadableImage` if there is no response or an error response, or if the download exceeds `most_bytes`,
    takes more than `most_seconds` in total, or is redirected more than 5 times.
    """
    try:
        return _fetch(address, most_bytes, most_seconds)
    except UnreadableImage as error:
        reason = str(error)
    except urllib.error.HTTPError as error:
        reason = _refused(error)
        error.close()
    except TimeoutError:
        reason = _late(most_seconds)
    except urllib.error.URLError as error:
        late = isinstance(error.reason, TimeoutError)
        reason = _late(most_seconds) if late else str(getattr(error.reason, "strerror", None) or error.reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
    raise UnreadableImage(f"{address} cannot be fetched: {' '.join(reason.split()).rstrip('.')}.")


def _fetch(address: str, most_bytes: int, most_seconds: float) -> bytes:
    deadline = time.monotonic() + most_seconds
    # Some servers reject clients without a user agent.
    request = urllib.request.Request(quote(address, safe=_KEPT), headers={"User-Agent": "yolos-jax"})
    with urllib.request.build_opener(_Redirects).open(request, timeout=most_seconds) as answer:
        said = answer.headers.get("Content-Length", "")
        size = int(said) if said.isdecimal() else None
        parts: list[bytes] = []
        got = 0
        while size is None or got < size:
            if max(got, size or 0) > most_bytes:
                raise UnreadableImage(f"it is larger than {most_bytes / 2**20:g} MiB; download it and use the file")
            part = answer.read1(_PIECE)  # returns the data available so far, so that a slow server cannot block
            if not part:
                break
            parts.append(part)
            got += len(part)
            if time.monotonic() > deadline:
                raise TimeoutError
        if size is not None and got < size:
            raise UnreadableImage(f"the connection ended after {got} of {size} bytes")
        return b"".join(parts)


def _refused(error: urllib.error.HTTPError) -> str:
    """Why the server's last response was rejected."""
    target = error.headers.get("Location", "")
    if not (300 <= error.code < 400 and target):
        return f"the server responded with {error.code} {error.reason}"
    if urlsplit(target).scheme not in ("", *SCHEMES):
        return f"it redirects to {target}, which is neither http nor https"
    return f"it redirects more than {MOST_REDIRECTS} times"


def _late(seconds: float) -> str:
    return f"it took longer than {seconds:g} s"
