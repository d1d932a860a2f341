"""Recognises the names of models on the Hugging Face hub, and downloads their files.

Files are downloaded with `huggingface_hub`, which respects its usual environment variables: HF_HOME and HF_HUB_CACHE
for the cache, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT.
"""

import re
from pathlib import Path
from typing import NamedTuple

from yolos_jax.errors import InputError
from yolos_jax.weights.published import PUBLISHED
from yolos_jax.weights.tensor_files import INDEX, WEIGHTS_ENDINGS

_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
_ID = re.compile(rf"(?P<id>{_NAME}/{_NAME})(?:@(?P<revision>[A-Za-z0-9][\w./-]{{0,199}}))?")
_SETTINGS = ["config.json", "preprocessor_config.json"]
_WEIGHTS = ["model.safetensors", INDEX, "model-*-of-*.safetensors"]


class HubModel(NamedTuple):
    """A model on the hub, and a commit, branch or tag (None for the newest commit)."""

    id: str
    revision: str | None


def hub_model(name: str | Path) -> HubModel | None:
    """Returns the model on the hub with this name, or None if the name is a path.

    Names of existing files and folders are paths. `org/name` is a model unless there is a local folder `org`;
    `org/name@revision` is always a model. Names such as `yolos_ti` and `yolos-small-300` are aliases for repositories.
    """
    if Path(name).exists():
        return None
    text = str(name)
    if text in PUBLISHED:
        return HubModel(PUBLISHED[text].hub_id, None)
    found = _ID.fullmatch(text)
    if found is None or found["id"].endswith(WEIGHTS_ENDINGS) or ".." in text:
        return None
    if found["revision"] is None and Path(text).parent.is_dir():
        return None
    return HubModel(found["id"], found["revision"])


def hub_name(origin: str) -> str | None:
    """Returns the `org/name` of a model converted from the hub (origin `org/name@commit`); None for other origins."""
    found = _ID.fullmatch(origin)
    return found["id"] if found and found["revision"] and not found["id"].endswith(WEIGHTS_ENDINGS) else None


def hub_address(name: str) -> str:
    """Returns the address of a model's page on the hub."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}"


def download(model: HubModel) -> Path:
    """Returns the cache folder with a model's config and weights, which are downloaded if necessary.

    If the hub cannot be reached, the cached files are used. PyTorch weights are only downloaded if there are no other
    weights. Raises `InputError` if the model does not exist, access is denied, or it is neither reachable nor cached.
    """
    folder = _snapshot(model, _SETTINGS + _WEIGHTS)
    if not any((folder / name).exists() for name in ("model.safetensors", INDEX)):
        folder = _snapshot(model, [*_SETTINGS, "pytorch_model.bin"])
    if not (folder / "config.json").is_file():
        raise InputError(
            f"the hub model {model.id} has no config.json in the cache ({folder}), so it is not a transformers or "
            f"timm model. If it has one on the hub, the download was interrupted; run hf download {model.id}."
        )
    return folder


def _snapshot(model: HubModel, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model.id, revision=model.revision, allow_patterns=patterns))
    except Exception as error:  # a failed download raises exceptions from several libraries
        raise InputError(f"{_trouble(model, error)}.") from error


def _trouble(model: HubModel, error: Exception) -> str:
    """Returns an error message for a failed download."""
    from huggingface_hub import constants, errors

    name = model.id + (f"@{model.revision}" if model.revision else "")
    where = f"https://huggingface.co/{model.id}"
    match error:
        case errors.GatedRepoError():
            return f"{name} is gated: accept its conditions on {where}, then set HF_TOKEN to that account's token"
        case errors.RepositoryNotFoundError():
            why = "neither a local file or folder nor a model on the Hugging Face hub"
            return f"{name} is {why}; check its spelling, or set HF_TOKEN if it is private"
        case errors.RevisionNotFoundError():
            return f"the hub model {model.id} has no revision {model.revision}; see {where}/commits"
        case errors.LocalEntryNotFoundError():
            command = f"hf download {model.id}" + (f" --revision {model.revision}" if model.revision else "")
            why, then = "HF_HUB_OFFLINE is set", f"run {command} with network access, or unset HF_HUB_OFFLINE"
            if not constants.HF_HUB_OFFLINE:
                why = f"the hub cannot be reached ({short_reason(error.__cause__ or error)})"
                then = f"check the network, or run {command} on a machine with network access"
            cache = constants.HF_HUB_CACHE
            return f"{name} is not a local file or folder, {why}, and the cache {cache} lacks its files; {then}"
        case errors.HFValidationError():
            return f"{name} is neither a local file or folder nor a valid name on the hub"
    then = "run the same command again to continue the download"
    return f"{name} could not be downloaded from the hub ({short_reason(error)}); {then}"


def short_reason(error: BaseException) -> str:
    """Shortens an error message to one line."""
    text = str(getattr(error, "strerror", None) or error).strip().split("\n")[0][:160].rstrip(". ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
