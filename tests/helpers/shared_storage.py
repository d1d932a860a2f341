"""Storage at `shared://...` that several processes can use; its files are in the folder $SHARED_STORAGE."""

import os

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Shared(LocalFileSystem):
    """Stands in for an fsspec driver for buckets: other code refers to it only by address."""

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
