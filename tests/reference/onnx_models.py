"""Exported networks of every kind in onnxruntime: compares its answers with ours.

Usage: onnx_models.py FOLDER, which `cargo run --release -p steer3d-nn --example export_onnx -- FOLDER` wrote: NAME.onnx,
and NAME.safetensors with volumes (of two grids, 1 and 3 of each) and the network's answers to them. Needs numpy, onnx
and onnxruntime.
"""
import json
import pathlib
import struct
import sys

import numpy
import onnx
import onnxruntime

LIMIT = 1e-5


def tensors(path):
    """The float32 arrays of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    entries, start = json.loads(data[8 : 8 + length]), 8 + length
    entries.pop("__metadata__", None)
    return {
        name: numpy.frombuffer(data[start:], "<f4")[slice(*(i // 4 for i in e["data_offsets"]))].reshape(e["shape"])
        for name, e in entries.items()
    }


def gap(path):
    """The largest difference over the largest value."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert {"steer3d", "parameters"} <= metadata.keys(), f"{path}: metadata {metadata.keys()}"
    assert all(isinstance(name, str) for name in json.loads(metadata.get("class_names", "[]")))
    (volume,), (answer,) = model.graph.input, model.graph.output
    sizes = [dim.dim_param or dim.dim_value for dim in volume.type.tensor_type.shape.dim]
    assert (volume.name, sizes[0], sizes[2:]) == ("volume", "N", ["D", "H", "W"]), f"{path}: {sizes}"
    assert answer.name in ("logits", "output"), f"{path}: {answer.name}"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found, worst = tensors(path.with_suffix(".safetensors")), 0.0
    for name in (name for name in found if name.startswith("volumes")):
        expected = found[name.replace("volumes", "answers")]
        (answers,) = session.run(None, {"volume": found[name]})
        assert answers.shape == expected.shape, f"{path}: {answers.shape}, expected {expected.shape}"
        worst = max(worst, numpy.abs(answers - expected).max() / numpy.abs(expected).max())
    return worst


models = sorted(pathlib.Path(sys.argv[1]).glob("*.onnx"))
assert models, f"no model in {sys.argv[1]}"
gaps = {path.stem: gap(path) for path in models}
for name, value in gaps.items():
    print(f"{name}: {value:.1e}")
worst = max(gaps.values())
print(f"{len(gaps)} models in onnxruntime {onnxruntime.__version__}: largest difference {worst:.1e} of the largest value")
sys.exit(not worst < LIMIT)
