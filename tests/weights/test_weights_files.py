"""Tests reading weights files, and that invalid and unsafe files are rejected."""

import argparse
import os
import pickle
import re
import sys
import zipfile

import numpy as np
import pytest
from tiny_weights import TINY, assert_bit_equal, deit_state, huggingface_folder, random_params, reference_state, write

from yolos_jax.errors import InputError
from yolos_jax.weights import load_weights
from yolos_jax.weights.report import Report, compact
from yolos_jax.weights.source import read_source


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="reading a .pth requires PyTorch (make test-parity)")


def as_torch(torch, state):
    return {name: torch.from_numpy(array.copy()) for name, array in state.items()}


def test_recognises_kinds(tmp_path):
    assert read_source(write(tmp_path / "a.safetensors", reference_state())).kind == "reference"
    assert read_source(write(tmp_path / "b.safetensors", deit_state())).kind == "deit"
    source = read_source(huggingface_folder(tmp_path / "hf"))
    assert source.kind == "huggingface" and source.hf_config["model_type"] == "yolos"


def test_rejects_files_without_weights(tmp_path):
    with pytest.raises(InputError, match=r"absent\.safetensors does not exist"):
        read_source(tmp_path / "absent.safetensors")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"notes\.txt is not a weights file"):
        read_source(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=r"\(other, things\) do not belong to YOLOS"):
        read_source(write(tmp_path / "x.safetensors", {"other": np.zeros(1), "things": np.zeros(1)}))
    with pytest.raises(InputError, match=r"\(none\) do not belong to YOLOS"):
        read_source(write(tmp_path / "empty.safetensors", {}))


@pytest.mark.parametrize(
    "values, dtype", [([1, np.nan], np.float32), ([-np.inf, 0], np.float16), ([1e300, 0], np.float64)]
)
def test_rejects_non_finite_values(tmp_path, values, dtype):
    with np.errstate(all="raise"):
        path = write(tmp_path / "a.safetensors", reference_state() | {"backbone.odd": np.array(values, dtype)})
        with pytest.raises(InputError, match=r"the tensor backbone\.odd of .*a\.safetensors has .* not finite"):
            read_source(path)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_rejects_truncated_safetensors(tmp_path, keep):
    path = write(tmp_path / "a.safetensors", reference_state())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"a\.safetensors is not a readable safetensors file"):
        read_source(path)


def test_pth_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "yolos.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"pip install torch, or save the weights as \.safetensors"):
        read_source(tmp_path / "yolos.pth")


@pytest.mark.parity
def test_reference_checkpoint(tmp_path, torch):
    """A checkpoint as saved by the reference: weights under "model", with its command line and other entries."""
    content = {
        "model": as_torch(torch, reference_state()),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]},
        "epoch": 3,
        "args": argparse.Namespace(lr=1e-4, backbone_name="tiny"),
    }
    torch.save(content, tmp_path / "yolos.pth")
    _, params, _, report, *_ = load_weights(tmp_path / "yolos.pth", TINY)
    assert_bit_equal(params, random_params(TINY))
    assert set(report.taken) == set(reference_state())


@pytest.mark.parity
def test_bare_state_dict_and_other_dtypes(tmp_path, torch):
    state = as_torch(torch, reference_state())
    state["backbone.norm.weight"] = state["backbone.norm.weight"].to(torch.bfloat16)
    state["backbone.norm.bias"] = torch.nn.Parameter(state["backbone.norm.bias"].to(torch.float16))
    state["backbone.cls_token"] = state["backbone.cls_token"].expand(2, -1, -1)[:1]
    torch.save(state, tmp_path / "yolos.pth")
    _, params, _, report, *_ = load_weights(tmp_path / "yolos.pth", TINY)
    assert set(report.cast) == {"backbone.norm.weight (bfloat16)", "backbone.norm.bias (float16)"}
    np.testing.assert_array_equal(params["norm"]["scale"], state["backbone.norm.weight"].float().numpy())
    np.testing.assert_array_equal(params["norm"]["bias"], state["backbone.norm.bias"].detach().float().numpy())


@pytest.mark.parity
def test_deit_checkpoint_and_hub_folder(tmp_path, torch):
    torch.save({"model": as_torch(torch, deit_state(distilled=True))}, tmp_path / "deit.pth")
    assert load_weights(tmp_path / "deit.pth", TINY)[3].kind == "deit"
    folder = huggingface_folder(tmp_path / "hf")
    state = read_source(folder).state
    (folder / "model.safetensors").unlink()
    torch.save(as_torch(torch, state), folder / "pytorch_model.bin")
    assert_bit_equal(load_weights(folder)[1], random_params(TINY))


@pytest.mark.parity
def test_rejects_entries_that_are_not_tensors(tmp_path, torch):
    torch.save({"model": as_torch(torch, reference_state()) | {"epoch": 3}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="its entry 'epoch' has type int"):
        read_source(tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    with pytest.raises(InputError, match="contains a value of type list, not a state dict"):
        read_source(tmp_path / "b.pth")
    (tmp_path / "c.pth").write_bytes(b"this is not a pickle")
    with pytest.raises(InputError, match=r"c\.pth is not a readable PyTorch file"):
        read_source(tmp_path / "c.pth")
    torch.save({1: torch.zeros(1)}, tmp_path / "e.pth")
    with pytest.raises(InputError, match=r"e\.pth is not a state dict: its key 1 is not a string"):
        read_source(tmp_path / "e.pth")
    (tmp_path / "f.pth").write_bytes(b"\x95" * 100)
    with pytest.raises(InputError, match=r"f\.pth is not a PyTorch file") as told:
        read_source(tmp_path / "f.pth")
    assert not re.search("weights.only|unsafe|False", str(told.value))
    (tmp_path / "d.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"d\.pth is not a readable PyTorch file"):
        read_source(tmp_path / "d.pth")


@pytest.mark.parity
def test_tensors_of_other_dtypes(tmp_path, torch):
    state, values = as_torch(torch, reference_state()), torch.arange(12.0)
    negative = torch.complex(values, values).conj().imag
    assert negative.is_neg()
    torch.save(state | {"backbone.norm.weight": negative}, tmp_path / "a.pth")
    np.testing.assert_array_equal(load_weights(tmp_path / "a.pth", TINY)[1]["norm"]["scale"], -np.arange(12.0))
    for odd in (values.to(torch.float8_e4m3fn), torch.complex(values, values).conj(), values.to(torch.int8)):
        torch.save(state | {"backbone.norm.weight": odd}, tmp_path / "b.pth")
        with pytest.raises(InputError, match=r"backbone\.norm\.weight of .*b\.pth has dtype \w+; weights must be"):
            read_source(tmp_path / "b.pth")


@pytest.mark.parity
def test_rejects_old_torch(tmp_path, torch, monkeypatch):
    torch.save(as_torch(torch, reference_state()), tmp_path / "a.pth")
    for version, old in (("2.9.1+cpu", True), ("1.13", True), ("2.10.0a0+git1", False), ("3.0", False)):
        monkeypatch.setattr(torch, "__version__", version)
        if old:
            with pytest.raises(InputError, match=r"a\.pth requires PyTorch 2\.10 or newer"):
                read_source(tmp_path / "a.pth")
        else:
            read_source(tmp_path / "a.pth")


class Trap:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("writer", ["torch", "legacy", "pickle"])
@pytest.mark.parity
def test_rejects_pickles_that_run_code(tmp_path, torch, writer):
    proof, path = tmp_path / "it_ran", tmp_path / "trap.pth"
    content = {"model": as_torch(torch, reference_state()) if writer != "pickle" else {}, "args": Trap(proof)}
    if writer != "pickle":
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(InputError, match=r"trap\.pth contains \S*mkdir.*could run code.*not read"):
        read_source(path)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Trap(proof)))
    assert proof.exists()  # without the check, unpickling creates the folder


@pytest.mark.parity
def test_rejects_zip_with_damaged_index(tmp_path, torch):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("été", b"")
    path.write_bytes(path.read_bytes().replace("été".encode(), b"\xe9\xe9\xe9\xe9\xe9"))
    with pytest.raises(InputError, match=r"a\.pth is not a readable PyTorch file \('utf-8' codec"):
        read_source(path)


def test_named_pipes_do_not_block(tmp_path):
    folder = huggingface_folder(tmp_path / "hf")
    for name in ("config.json", "model.safetensors"):
        os.replace(folder / name, tmp_path / name)
        os.mkfifo(folder / name)
        with pytest.raises(InputError, match=re.escape(str(folder))):
            read_source(folder)
        os.replace(tmp_path / name, folder / name)
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"a\.safetensors is a named pipe"):
        read_source(tmp_path / "a.safetensors")


def test_report_lists_all_tensors():
    names = [f"blocks.{i}.norm1.bias" for i in (0, 1, 2, 5)] + ["norm.bias", "blocks.7.norm2.bias"]
    assert compact(names) == ["blocks.{0-2,5}.norm1.bias", "norm.bias", "blocks.7.norm2.bias"]
    report = Report("deit", tuple(names), ("det_token",), ("head.bias",), notes=("a note.",), path="x.pth")
    text = str(report)
    for line in ("deit weights from x.pth", "used: 6", "initialised: 1", "  det_token", "ignored: 1", "note: a note."):
        assert line in text.splitlines()
    assert "cast" not in text
    without_used = [line for line in text.splitlines() if ".bias" not in line or "head" in line]
    assert report.summary().splitlines() == without_used
