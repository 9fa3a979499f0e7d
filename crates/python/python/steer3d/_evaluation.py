"""Evaluation of models on rotated and moved volumes."""

import csv
import io
import json
import os
from html import escape

import numpy as np

from . import _native
from ._arrays import _array
from ._data import Dataset
from ._models import Model
from ._progress import listener

# The columns of the tables that are numbers; all others are texts.
_NUMBERS = frozenset("parameter value low high qw qx qy qz dx dy dz score".split())


def evaluate(
    model,
    data,
    protocol=None,
    *,
    split: str = "test",
    answers: str = "classes",
    class_names=(),
    map_classes: bool = False,
    name: str | None = None,
    out=None,
    progress=True,
    **changes,
) -> "Report":
    """Measures what models answer when the volumes of a dataset turn and move.

    `model` is a file (.safetensors, .onnx in a build with it), a name of `builtin_models`, a `Model`, or any callable from
    float32 arrays N,C,D,H,W to logits (N, K), with `answers="voxels"` logits (N, K, D, H, W), with `answers="values"` values
    (N, K); or a list of these, or a dictionary of them by names, which see the same volumes. Such a name, or `name` for one
    model, is what the report calls it (an ONNX model has that of its file). A `torch.nn.Module` is called on tensors where
    its parameters are, for evaluation and without gradients. `data` is a `Dataset` or its file.

    `protocol` is a dictionary or a TOML file with the fields of `protocol` in report.json, such as
    `{"rotations": 16, "angles": [45, 90], "groups": ["cube"]}`; keywords change single fields. With `out`, a folder, the
    report is written there, and an evaluation of files that was interrupted goes on. `class_names` are those of a callable
    where the dataset has none. A network whose classes have the names of the dataset's in another order is refused, or with
    `map_classes` answers in the dataset's order. `progress` is shown by tqdm where it is installed, or is a callable (label, done, total,
    message).

    Raises what a callable raises, with its traceback; `Steer3dError` where model, data and protocol do not fit;
    `KeyboardInterrupt` on Ctrl-C.
    """
    data = data if isinstance(data, Dataset) else Dataset(data)
    if isinstance(model, dict):
        named = [_named(model, str(name)) for name, model in model.items()]
    elif isinstance(model, (list, tuple)):
        named = [_named(model, None) for model in model]
    else:
        named = [_named(model, name)]
    table = json.dumps(_protocol(protocol, changes))
    folder = None if out is None else os.fspath(out)
    hears = listener(progress)
    names = list(class_names)
    return Report(_native.evaluate(named, data._data, split, table, answers, names, map_classes, folder, hears))


def _protocol(protocol, changes):
    if protocol is None:
        protocol = {}
    elif isinstance(protocol, (str, os.PathLike)):
        protocol = _toml(protocol)
    return {**protocol, **changes}


def _toml(path):
    try:
        import tomllib
    except ImportError:
        import tomli as tomllib
    with open(path, "rb") as file:
        return tomllib.load(file)


def _named(model, name):
    """A name, `None` for that of the file, and a file or a callable from arrays to arrays."""
    if isinstance(model, Model):
        return name, model.name
    if isinstance(model, (str, os.PathLike)):
        return name, os.fspath(model)
    if not callable(model):
        raise TypeError(f"model: expected a file, a Model or a callable, found {type(model).__name__}")
    return _called(model, name)


def _called(model, name):
    """The name of a callable, and the callable as one from arrays to arrays."""
    known = name or getattr(model, "__name__", None) or type(model).__name__
    call = _module(model) if hasattr(model, "parameters") and hasattr(model, "eval") else model
    return known, lambda x: _answer(call(x))


def _answer(answer):
    array = _array("answer", answer)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"answer: expected an array of numbers, found {array.dtype}")
    return np.ascontiguousarray(array, np.float32)


def _module(module):
    """A `torch.nn.Module` as a callable of arrays."""
    import torch

    parameter = next(iter(module.parameters()), torch.zeros(()))

    def call(x):
        training = module.training
        module.eval()
        try:
            with torch.inference_mode():
                return module(torch.from_numpy(x).to(parameter.device, parameter.dtype))
        finally:
            module.train(training)

    return call


class Report:
    """What was measured. `results` and `predictions` are dictionaries of columns, as pandas and polars take them.

    Columns of numbers have `None` for what is empty, and all others are texts, such as items named "0012".
    """

    def __init__(self, report):
        self._report = report

    @classmethod
    def read(cls, path) -> "Report":
        """Reads report.json, or the folder that it is in."""
        path = os.fspath(path)
        path = os.path.join(path, "report.json") if os.path.isdir(path) else path
        with open(path, encoding="utf-8") as file:
            return cls(_native.Report.from_json(file.read()))

    @property
    def data(self) -> dict:
        """All of it, as report.json has it."""
        return json.loads(self._report.to_json())

    @property
    def results(self) -> dict[str, list]:
        """Every number in long form: section, model, source, condition, parameter, metric, value, low, high."""
        return _columns(self._report.results_csv())

    @property
    def predictions(self) -> dict[str, list]:
        """Every single answer: item, transformation, label, score and what was answered, numbers separated by spaces."""
        return _columns(self._report.predictions_csv())

    def value(self, metric: str, condition: str = "unrotated", **where) -> float:
        """The one number with this metric and condition; `model="..."`, `source="..."` or `parameter=45.0` say which of several.

        Raises `KeyError` where there is none or more than one.
        """
        rows = self.results
        wanted = {"metric": metric, "condition": condition, **where}
        found = [i for i in range(len(rows["value"])) if all(rows[k][i] == v for k, v in wanted.items())]
        if len(found) != 1:
            raise KeyError(f"{wanted}: expected one number, found {len(found)}; see results")
        return rows["value"][found[0]]

    def save(self, folder) -> None:
        """Writes report.html, report.json, results.csv, predictions.csv and the figures into a folder."""
        self._report.save(os.fspath(folder))

    def html(self) -> str:
        """The report as one page."""
        return self._report.html()

    def __str__(self):
        return self._report.text()

    def __repr__(self):
        return f"Report({[model['name'] for section in self.data['sections'] for model in section['models']]})"

    def _repr_html_(self):
        return f"<pre>{escape(str(self))}</pre>"


def _columns(text):
    rows = list(csv.reader(io.StringIO(text)))
    columns = zip(*rows[1:]) if len(rows) > 1 else [[] for _ in rows[0]]
    return {name: _values(column) if name in _NUMBERS else list(column) for name, column in zip(rows[0], columns)}


def _values(column):
    return [float(text) if text else None for text in column]
