"""Uploads exported folders to the Hugging Face hub.

Uploads use `huggingface_hub`, which respects its usual environment variables HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE.
"""

import contextlib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from yolos_jax.errors import InputError, counted, first_few, shown
from yolos_jax.weights.folder import TIMM_FILE
from yolos_jax.weights.hub import hub_address, hub_name, short_reason
from yolos_jax.weights.model_card import PICTURES
from yolos_jax.weights.tensor_files import OF_A_FOLDER, read_json_object

# Files that are removed if a later upload does not contain them: other weights, and images of the model card.
_STALE = (*OF_A_FOLDER, "model-*-of-*.safetensors", "pytorch_model-*-of-*.bin", TIMM_FILE, *PICTURES)


class Repository(NamedTuple):
    """A model repository on the hub."""

    id: str  # `USER/NAME`
    commit: str = ""  # newest commit; "" if the repository does not exist
    files: tuple[str, ...] = ()  # paths of all files except `.gitattributes`
    private: bool = False


class Upload(NamedTuple):
    """Changes made by an upload."""

    address: str  # web page of the repository
    commit: str  # newest commit after the upload
    before: str  # newest commit before it; "" for a new repository, equal to `commit` if nothing changed
    removed: tuple[str, ...]  # files of an earlier upload that were removed


def find_repository(name: str, private: bool = False, replace: bool = False) -> Repository:
    """Checks that a folder can be uploaded to a repository, without changing anything.

    Args:
      name: `USER/NAME` on the hub; the repository need not exist.
      private: the repository must not be public.
      replace: the repository may already contain files.

    Returns:
      The repository's current state.

    Raises:
      InputError: the name is invalid, there is no token, the hub cannot be reached, the repository is public although
        `private` is set, or it contains files and `replace` is not set.
    """
    from huggingface_hub import HfApi, constants, errors, get_token

    if hub_name(f"{name}@main") != name:
        raise InputError(f"{shown(name)} is not a valid model name on the hub; use USER/NAME.")
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"HF_HUB_OFFLINE is set, so {name} cannot be uploaded; unset it.")
    if not get_token():
        raise InputError("there is no token for the hub; run hf auth login, or set HF_TOKEN to one with write access.")
    with _reports(name):
        try:
            found = HfApi().model_info(name)
        except errors.RepositoryNotFoundError:
            return Repository(name, private=private)
    files = tuple(each.rfilename for each in found.siblings or () if each.rfilename != ".gitattributes")
    if private and not found.private:
        raise InputError(f"{name} exists and is public; make it private in its settings on the hub, or omit --private.")
    if files and not replace:
        raise InputError(
            f"{name} already contains {counted(len(files), 'file')} ({first_few(files)}) in commit {found.sha}; choose "
            "another name, or use --replace to replace them in a new commit (the hub keeps the old one)."
        )
    return Repository(name, found.sha or "", files, bool(found.private))


def push_folder(folder: str | Path, name: str, private: bool = False, replace: bool = False) -> Upload:
    """Uploads a folder written by `export_huggingface` or `export_classifier` in one commit.

    A repository that does not exist is created. Existing files with the same names are replaced, weights and images of
    an earlier upload that the folder does not contain are removed, and all other files are kept. The hub keeps earlier
    commits.

    Args:
      folder: the folder to upload.
      name, private, replace: see `find_repository`.

    Raises:
      InputError: as in `find_repository`, or the repository contains another type of model or changes during the
        upload, the token has no write access, or the hub rejects the model card.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard

    folder, api = Path(folder), HfApi()
    there = find_repository(name, private, replace)
    with _reports(name):
        if "config.json" in there.files:
            theirs = Path(api.hf_hub_download(name, "config.json", revision=there.commit))
            _check_kind(name, read_json_object(theirs), read_json_object(folder / "config.json"))
        _check_card(ModelCard.load(folder / "README.md"))
        if not there.commit:
            api.create_repo(name, private=private or None)
        files = sorted(path for path in folder.iterdir() if path.is_file())
        names = {path.name for path in files}
        stale = [file for file in there.files if file not in names and any(fnmatch(file, each) for each in _STALE)]
        operations: list[Any] = [CommitOperationAdd(path.name, path) for path in files]
        operations += [CommitOperationDelete(file) for file in stale]
        # `upload_folder` may split the files among several commits.
        done = api.create_commit(
            name, operations, commit_message="Upload with yolos-jax", parent_commit=there.commit or None
        )
    return Upload(hub_address(name), done.oid, there.commit, tuple(stale))


def _check_kind(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    kinds = [values.get("model_type") for values in (theirs, ours)]
    if kinds[0] != kinds[1]:
        raise InputError(
            f"{name} contains a {shown(kinds[0])} model, but this is a {shown(kinds[1])} model; choose another name."
        )


def _check_card(card: Any) -> None:
    """Raises `InputError` if the hub rejects the header of a model card."""
    try:
        card.validate()
    except ValueError as error:
        why = " ".join(str(error).split())[:300].rstrip(". ")
        raise InputError(f"the hub rejects the header of the model card ({why}); choose another --license.") from error


@contextlib.contextmanager
def _reports(name: str) -> Iterator[None]:
    """Converts the errors of an upload to `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a failed upload raises exceptions from several libraries
        raise InputError(f"{_trouble(name, error)}.") from error


def _trouble(name: str, error: Exception) -> str:
    """Returns an error message for a failed upload."""
    from huggingface_hub import constants, errors

    why = short_reason(error)
    status = 0
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        why = " ".join((error.server_message or why).split())[:200].rstrip(". ")
    tokens = f"{constants.ENDPOINT}/settings/tokens"
    if isinstance(error, errors.HFValidationError):
        return f"{shown(name)} is not a valid model name on the hub ({why}); use USER/NAME"
    match status:
        case 401:
            return f"the hub rejected the token ({why}); run hf auth login, or set HF_TOKEN to a token from {tokens}"
        case 403:
            user = name.partition("/")[0]
            return f"the token has no write access to {name} ({why}); create a new one for {user} at {tokens}"
        case 409:
            return f"{name} already exists ({why}); choose another name, or use a token with read access to it"
        case 412:
            return f"{name} was changed by someone else during the upload ({why}); run the same command again"
    return f"{name} could not be uploaded ({why}); check the network, then run the same command again"
