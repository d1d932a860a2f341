"""Tests that malicious files cause a one-line error and need little more memory than a valid file.

They are read in a separate process. Its address space is limited to its size after the imports and after reading a
valid file, plus `ROOM`.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cpu_devices import cpu_devices
from tiny_weights import TINY, huggingface_folder, reference_state, write

from yolos_jax.errors import InputError
from yolos_jax.weights import load_weights
from yolos_jax.weights.huggingface_config import write_config

ROOT = Path(__file__).resolve().parents[2]
ROOM = 256 << 20  # extra bytes allowed for rejecting a file; the smallest attack would need gigabytes
READ = """
import json, resource, sys
from pathlib import Path
from yolos_jax.errors import InputError
from yolos_jax.weights import load_weights
try:
    import torch
except ImportError:
    pass

room, honest, *paths = sys.argv[1:]
load_weights(honest)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = size + int(room)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in paths:
    try:
        load_weights(path)
        print(json.dumps([path, "read"]))
    except InputError as error:
        print(json.dumps([path, str(error)]))
"""


def refusals(tmp_path, cases):
    """Returns {case: error message} from a process with limited memory."""
    honest = huggingface_folder(tmp_path / "honest")
    environment = cpu_devices() | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", READ, str(ROOM), str(honest), *map(str, cases.values())]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    said = dict(json.loads(line) for line in done.stdout.splitlines())
    return {name: said[str(path)] for name, path in cases.items()}


def raw(header, data=b"", length=None):
    """The bytes of a safetensors file with the given header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


SAFETENSORS = {
    "length": raw(b"{}", length=2**60),
    "length beyond the file": raw(b"{}", length=1000),
    "length of gigabytes": raw(b"{}", length=2**33),
    "no header": b"\x01",
    "offsets beyond the file": raw({"a": tensor([2**20], 0, 2**22)}, b"0" * 8),
    "offsets of terabytes": raw({"a": tensor([2**40], 0, 2**42)}, b"0" * 8),
    "offsets backwards": raw({"a": tensor([2], 8, 0)}, b"0" * 8),
    "overlapping": raw({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, b"0" * 12),
    "hole": raw({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, b"0" * 12),
    "shape overflows": raw({"a": tensor([2**40, 2**40, 2**40], 0, 8)}, b"0" * 8),
    "shape larger than the data": raw({"a": tensor([2**30], 0, 8)}, b"0" * 8),
    "negative shape": raw({"a": tensor([-1], 0, 4)}, b"0" * 4),
    "dtype larger than the data": raw({"a": tensor([2], 0, 8, "F64")}, b"0" * 8),
    "unknown dtype": raw({"a": tensor([2], 0, 8, "F1024")}, b"0" * 8),
    "eight-bit floats": raw({"class_embed.a": tensor([2], 0, 2, "F8_E5M2")}, b"00"),
    "deep": raw(b'{"a":' + b"[" * 100_000),
    "not an object": raw(b"[1]"),
    "trailing data": raw({"a": tensor([1], 0, 4)}, b"0" * 400),
}


def test_rejects_false_sizes_in_safetensors(tmp_path):
    cases = {}
    for i, (name, content) in enumerate(SAFETENSORS.items()):
        cases[name] = tmp_path / f"{i}.safetensors"
        cases[name].write_bytes(content)
    # sparse files that are as long as their headers claim
    for name, size, header in (
        ("sparse, header of 32 MiB", 2**26, raw(b"{}", length=2**25)),
        ("sparse, 1 TiB", 2**40, raw({"a": tensor([2**38 - 20], 0, 2**40 - 80)})),
        ("sparse, 3 GiB", 3 * 2**30, raw({"a": tensor([2**28 * 3 - 100], 0, 2**30 * 3 - 400)})),
    ):
        cases[name] = tmp_path / f"{len(cases)}.safetensors"
        cases[name].write_bytes(header)
        os.truncate(cases[name], size)
    for name, said in refusals(tmp_path, cases).items():
        why = " bytes; the maximum is " if "TiB" in name else " is not a readable safetensors file ("
        assert f"{cases[name]}" in said and why in said, (name, said)
        assert len(said) < 600 and "\n" not in said


CONFIGS = [
    ({"hidden_size": 10**9}, "hidden_size is 1000000000; it must be a whole number between 1 and"),
    ({"hidden_size": -12}, "hidden_size is -12"),
    ({"hidden_size": 0}, "hidden_size is 0"),
    ({"hidden_size": True}, "hidden_size is True"),
    ({"hidden_size": "12"}, "hidden_size is '12'"),
    ({"hidden_size": 12.5}, "hidden_size is 12.5"),
    ({"hidden_size": float("nan")}, "hidden_size is nan"),
    ({"hidden_size": float("inf")}, "hidden_size is inf"),
    ({"hidden_size": {}}, "hidden_size is {}"),
    ({"hidden_size": "x" * 10**6}, "hidden_size is 'xxx"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    ({"num_hidden_layers": 1}, "model.depth is 1"),
    ({"num_hidden_layers": 1000}, r"missing .*layer.{3-999}"),
    ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ({"num_attention_heads": 7}, "not a multiple of model.heads 7"),
    ({"num_detection_tokens": 10**9}, "num_detection_tokens is 1000000000"),
    ({"num_detection_tokens": 2**16}, "detection_tokens has shape"),
    ({"intermediate_size": 10**18}, "intermediate_size is 1000000000000000000"),
    ({"image_size": [10**9, 10**9]}, "image_size is 1000000000"),
    ({"image_size": 2**14}, "position_embeddings has shape"),
    ({"image_size": []}, "image_size is []; it must be one or two"),
    ({"image_size": [24, None]}, "image_size is None"),
    ({"patch_size": 0}, "patch_size is 0"),
    ({"patch_size": 10**6}, "patch_size is 1000000"),
    ({"patch_size": 100}, "model.init_pe_size is (24, 40); it must be"),
    ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
    ({"layer_norm_eps": -1}, "layer_norm_eps is -1"),
    ({"layer_norm_eps": "1e-6"}, "layer_norm_eps is '1e-6'"),
    ({"use_mid_position_embeddings": "yes"}, "use_mid_position_embeddings is 'yes'"),
    ({"id2label": None, "num_labels": 10**12}, "num_labels is 1000000000000"),
    ({"id2label": None, "num_labels": -1}, "num_labels is -1"),
    ({"id2label": {}}, "the number of labels is 0"),
    ({"id2label": {str(i): "a" for i in range(2**17 + 1)}}, "the number of labels is 131073"),
    ({"id2label": {"0": "a", "00": "b"}}, "2 ids are not 0..1"),
    ({"id2label": {"1e9": "a"}}, "does not map numbers to names"),
    ({"id2label": [["a"]] * 4}, "does not map numbers to names"),
    ({"qkv_bias": 1}, "qkv_bias to 1; only True"),
    ({"model_type": "x" * 10**6}, "model_type 'xxx"),
    ({"model_type": ["yolos"]}, "model_type ['yolos']"),
]
TEXTS = {
    "infinity": ('{"model_type": "yolos", "hidden_size": 1e400}', "hidden_size is inf"),
    "digits": ('{"hidden_size": ' + "9" * 5000 + "}", "cannot be read as JSON (Exceeds the limit"),
    "deep": ("[" * 100_000, "cannot be read as JSON (maximum recursion depth"),
    "labels": (None, "config.json has 12888905 bytes; the maximum is 8388608"),
    "bytes": ("\ud800", "config.json is not UTF-8 (byte 0xed at offset 0"),
    "cut": ('{"model_type": "yo', "cannot be read as JSON (Unterminated string"),
    "list": ("[]", "not contain a JSON object"),
}


def test_rejects_invalid_configs(tmp_path):
    cases, wanted = {}, {}
    made = huggingface_folder(tmp_path / "made")
    for i, (changes, sentence) in enumerate(CONFIGS):
        values = {k: v for k, v in (write_config(TINY, None) | changes).items() if v is not None}
        text = json.dumps(values)
        wanted[i] = text, sentence
    wanted |= TEXTS
    for name, (text, _) in wanted.items():
        if text is None:  # a million labels
            text = '{"id2label": {' + ",".join(f'"{n}":"a"' for n in range(10**6)) + "}}"
        cases[name] = tmp_path / f"case-{name}"
        cases[name].mkdir()
        (cases[name] / "model.safetensors").symlink_to(made / "model.safetensors")
        (cases[name] / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    for name, said in refusals(tmp_path, cases).items():
        sentence = wanted[name][1]
        found = sentence in said if not sentence.startswith("missing") else "layer.{3-999}" in said
        assert found and f"case-{name}" in said, (name, sentence, said[:500])
        assert len(said) < 2500 and "\n" not in said


def test_rejects_false_shard_index(tmp_path):
    made = huggingface_folder(tmp_path / "made")
    (made / "model.safetensors").rename(made / "a.safetensors")
    index = made / "model.safetensors.index.json"
    for where, sentence in (
        ({"weight_map": {"a": "/etc/passwd"}}, "names the shard '/etc/passwd', which is not in the folder"),
        ({"weight_map": {"a": "../made/a.safetensors"}}, "not in the folder"),
        ({"weight_map": {"a": ".."}}, "not in the folder"),
        ({"weight_map": {"a": "a\0b"}}, "not in the folder"),
        ({"weight_map": {"a": ["a.safetensors"]}}, "has no weight_map from tensors to files"),
        ({"weight_map": {"a": "a.safetensors"}}, "lacks a, which should be in it"),
        (
            {"weight_map": {f"t{i}": "a.safetensors" for i in range(1000)}},
            r"lacks t0, t1, t2, t3, t4, t5, \.\.\., which",
        ),
        ({"weight_map": {"a": "config.json"}}, "config.json is not a readable safetensors file"),
        ({"weight_map": {}}, r"tensors of .* \(none\) do not belong to"),
    ):
        index.write_text(json.dumps(where))
        with pytest.raises(InputError, match=sentence):
            load_weights(made)


def test_messages_with_odd_names_stay_on_one_line(tmp_path):
    odd = {"a\nTraceback (most recent call last):": np.zeros(1, np.float32), "b" * 10_000: np.zeros(1, np.float32)}
    with pytest.raises(InputError) as told:
        load_weights(write(tmp_path / "a.safetensors", odd))
    assert "\n" not in str(told.value) and len(str(told.value)) < 600
    many = {f"extra{i}": np.zeros(1, np.float32) for i in range(5000)}
    with pytest.raises(InputError, match=r"5002 unexpected \(.*, \.\.\.\)") as told:
        load_weights(write(tmp_path / "b.safetensors", reference_state() | odd | many), TINY)
    assert "\n" not in str(told.value) and len(str(told.value)) < 4000


def trap(torch, path, zipped):
    """Saves valid weights, except that one tensor claims to have a trillion values but stores only one."""
    state = {name: torch.from_numpy(array.copy()) for name, array in reference_state().items()}
    state["backbone.cls_token"] = torch.zeros(1).expand(1, 10**6, 10**6)
    torch.save({"model": state}, path, _use_new_zipfile_serialization=zipped)


@pytest.mark.parity
def test_rejects_false_sizes_in_pickles(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (parity extra)")
    cases = {}
    for name, zipped in (("zip", True), ("legacy", False)):
        cases[f"more than stored, {name}"] = tmp_path / f"expanded-{name}.pth"
        trap(torch, cases[f"more than stored, {name}"], zipped)
        cases[f"cut, {name}"] = tmp_path / f"cut-{name}.pth"
        whole = cases[f"more than stored, {name}"].read_bytes()
        cases[f"cut, {name}"].write_bytes(whole[: len(whole) // 2])
    cases["bomb"] = tmp_path / "bomb.pth"
    with zipfile.ZipFile(cases["bomb"], "w", zipfile.ZIP_DEFLATED) as file, file.open("a/data/0", "w") as entry:
        for _ in range(64):
            entry.write(bytes(1 << 24))
    # a storage that claims to have 2**40 bytes; in the legacy format, its size is read from the file
    cases["legacy storage"] = tmp_path / "storage.pth"
    torch.save({"norm": torch.zeros(3)}, cases["legacy storage"], _use_new_zipfile_serialization=False)
    legacy = bytearray(cases["legacy storage"].read_bytes())
    where = legacy.rfind((3).to_bytes(8, "little"))
    legacy[where : where + 8] = (2**38).to_bytes(8, "little")
    cases["legacy storage"].write_bytes(legacy)
    cases["sparse"] = tmp_path / "sparse.pth"
    torch.save({"norm": torch.zeros(3, 3).to_sparse()}, cases["sparse"])
    cases["meta"] = tmp_path / "meta.pth"
    torch.save({"norm": torch.zeros(10**6, 10**6, device="meta")}, cases["meta"])
    half, strided = torch.zeros(2**22, dtype=torch.float16), torch.zeros(2**10, 2**11).T
    for name, shared in (("views", half), ("strided views", strided)):  # each entry becomes a separate array
        cases[name] = tmp_path / f"{name.replace(' ', '-')}.pth"
        torch.save({f"norm{i}": shared for i in range(200)}, cases[name])
    said = refusals(tmp_path, cases)
    for name, sentence in (
        ("views", "up to norm1 need 16777216 bytes, but the file has only 8"),
        ("strided views", "up to norm1 need 16777216 bytes, but the file has only 8"),
        ("more than stored, zip", "the tensor backbone.cls_token of"),
        ("more than stored, legacy", "larger than its storage"),
        ("cut, zip", "is not a readable PyTorch file"),
        ("cut, legacy", "is not a readable PyTorch file"),
        ("bomb", "unpack to 1073741824; PyTorch files are not compressed"),
        ("legacy storage", "is not a readable PyTorch file"),
        ("sparse", "sparse, quantised or has no data"),
        ("meta", ""),
    ):
        assert sentence in said[name] and str(cases[name]) in said[name], (name, said[name])
        assert "\n" not in said[name] and said[name] != "read"
