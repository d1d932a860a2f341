"""Compiled programs kept on disk, so that the next process finds its first box without compiling again.

It is jax's persistent compilation cache in a folder of the user's. jax's own environment variables take precedence:
JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=0 turns the cache off. What is kept
belongs to one version of jax, one kind of device, one set of processor features and one set of XLA flags; another
process compiles anew. jax 0.10 never keeps a program with a host callback, which includes a training step whose
matching is the host's; newer ones do.
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
    """Has jax keep what it compiles from now on, in the whole process.

    Args:
      where: `auto` (the user's cache folder, unless jax has been given a folder already or told to keep nothing),
        `off` (jax stays as it is) or a folder.

    Returns:
      A sentence on why nothing will be kept although that was wanted, for a person; "" if there is none.
    """
    config: Any = jax.config  # whose values mypy does not know
    given = config.jax_compilation_cache_dir
    if where in (OFF, "") or not config.jax_enable_compilation_cache or (where == AUTO and given):
        return ""
    try:
        folder = user_cache() / "compiled" if where == AUTO else Path(where).absolute()
        _make(folder, private=where == AUTO)
    except (OSError, RuntimeError, ValueError) as error:  # no home: RuntimeError; a null byte: ValueError
        reason = getattr(error, "strerror", None) or error
        name = "the user's cache folder" if where == AUTO else where
        hint = "JAX_COMPILATION_CACHE_DIR names another folder"
        return f"compiled programs are not kept, since {name} cannot be used ({reason}); {hint}."
    if given != str(folder):
        compilation_cache.reset_cache()  # which a first program of this process may have bound to another folder
        jax.config.update("jax_compilation_cache_dir", str(folder))
    return ""


def _make(folder: Path, private: bool) -> None:
    """Makes a folder; `OSError` if it cannot be written or, with `private`, if others can: jax runs what lies there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if private and hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & stat.S_IWOTH):
        raise PermissionError(errno.EPERM, f"others can write to {folder}")
    with tempfile.TemporaryFile(dir=folder):
        pass
