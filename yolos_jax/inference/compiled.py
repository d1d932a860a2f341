"""Caches compiled programs on disk, so that the next process starts without compiling again.

Uses jax's persistent compilation cache in the user's cache folder. jax's own environment variables take precedence:
JAX_COMPILATION_CACHE_DIR sets a different folder, and JAX_ENABLE_COMPILATION_CACHE=0 turns the cache off. An entry is
valid only for the same version of jax, device type, processor features and XLA flags. jax 0.10 never caches a program
with a host callback, such as a training step with matcher=host; newer versions do.
"""

import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from yolos_jax.errors import user_cache

AUTO, OFF = "auto", "off"


def keep_compiled(where: str | Path = AUTO) -> str:
    """Turns on jax's compilation cache for the whole process.

    Args:
      where: `auto` (the user's cache folder, unless jax is configured with a different one or with no cache), `off`
        (leaves jax's configuration unchanged) or a folder.

    Returns:
      A message for the user if the cache cannot be used; "" otherwise.
    """
    config: Any = jax.config  # its attributes are unknown to mypy
    given = config.jax_compilation_cache_dir
    if where in (OFF, "") or not config.jax_enable_compilation_cache or (where == AUTO and given):
        return ""
    try:
        folder = user_cache() / "compiled" if where == AUTO else Path(where).absolute()
        _make(folder, private=where == AUTO)
    except (OSError, RuntimeError, ValueError) as error:  # no home directory: RuntimeError; a null byte: ValueError
        reason = getattr(error, "strerror", None) or error
        name = "the user's cache folder" if where == AUTO else where
        hint = "set JAX_COMPILATION_CACHE_DIR to another folder"
        return f"compiled programs are not cached, because {name} cannot be used ({reason}); {hint}."
    if given != str(folder):
        compilation_cache.reset_cache()  # an earlier compilation may have initialised it with another folder
        jax.config.update("jax_compilation_cache_dir", str(folder))
    return ""


def _make(folder: Path, private: bool) -> None:
    """Creates a folder; `OSError` if it is not writable, or if `private` and others can write to it (jax runs it)."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if private and hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & stat.S_IWOTH):
        raise PermissionError(errno.EPERM, f"others can write to {folder}")
    with tempfile.TemporaryFile(dir=folder):
        pass
