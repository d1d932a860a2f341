"""A storage that several processes can reach at `shared://...`: a folder, which $SHARED_STORAGE names."""

import os

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Shared(LocalFileSystem):
    """As fsspec's drivers of buckets: other code knows its addresses only."""

    protocol = "shared"

    def __init__(self, **options):
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path):
        path = os.fspath(path)
        if path.startswith("shared://"):
            path = os.path.join(os.environ["SHARED_STORAGE"], path.removeprefix("shared://"))
        return path.rstrip("/")


fsspec.register_implementation("shared", Shared, clobber=True)
