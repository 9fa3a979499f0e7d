"""Trained networks."""

import json
import os

import numpy as np

from . import _native
from ._arrays import count, dims, numbers
from ._progress import listener


def builtin_models() -> dict[str, str]:
    """The models that come with the package: name and what it answers."""
    return dict(_native.builtin_models())


def load(model) -> "Model":
    """The model of a file (.safetensors), or one that comes with the package, by its name.

    Raises `Steer3dError` if there is none of that name or the file is damaged.
    """
    return Model(model)


class Model:
    """A trained network on the CPU. `model(x)` is `model.forward(x)`."""

    def __init__(self, model):
        self._model = _native.Model(os.fspath(model))
        self.card = json.loads(self._model.card())
        """What it is and what it was trained on: classes, grid D,H,W, voxel size x,y,z, network, recipe, scores."""

    def __reduce__(self):
        return Model, (self.name,)

    def __repr__(self):
        return f"Model({self.name!r}: {self.answers}, {self.parameters} parameters)"

    @property
    def name(self) -> str:
        """Its file or name."""
        return self._model.name

    @property
    def answers(self) -> str:
        """What it answers: classes, voxels or values."""
        return json.loads(self._model.answers())

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of the logits."""
        return self.card["class_names"]

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return self._model.parameters

    def forward(self, x) -> np.ndarray:
        """Logits or values (N, K), or logits of voxels (N, K, D, H, W), for volumes N,C,D,H,W."""
        return self._model.forward(_volumes(x))[1]

    __call__ = forward

    def features(self, x) -> np.ndarray:
        """The invariant features before the head, (N, F), for volumes N,C,D,H,W, or for files as `predict` takes them."""
        if _is_array(x):
            return self._model.forward(_volumes(x))[0]
        records = self._records(x, False, features=True)
        return np.array([record["features"] for record in records if "features" in record], np.float32)

    def predict(
        self,
        inputs,
        rotations: int = 1,
        features: bool = False,
        maps=None,
        probabilities: bool = False,
        progress=True,
        *,
        window=None,
        overlap: float = 0.5,
        native_voxels: bool = False,
        map_format=None,
    ):
        """Answers for files or volumes.

        For volumes N,C,D,H,W of a model of classes, the probabilities (N, K); of other models, what `forward` gives.
        Else `inputs` is a path or a list of paths: files, folders, lists (@LIST), tables, datasets and archives; the answer
        is a list of records as of `steer3d predict --json`, in which `error` stands where an input has no answer.
        With `rotations` the answer is the mean over so many orientations. `maps` is a folder for labels of voxels, in files of
        `map_format` ("nii", "nii.gz", "mrc", "npy" or "h5") or in the format of each input.

        For labels of voxels of files, `window` = D, H, W voxels, or a number for a cube, takes volumes in windows weighed by
        Gaussians, each of which has the share `overlap` in common with the next; `native_voxels` samples the kernels for the
        voxels of each volume, instead of resampling it to the model's.
        """
        if not _is_array(inputs):
            return self._records(
                inputs,
                progress,
                rotations=count("rotations", rotations, 1),
                features=features,
                maps=None if maps is None else os.fspath(maps),
                probabilities=probabilities,
                window=None if window is None else dims("window", window),
                overlap=float(overlap),
                native_voxels=native_voxels,
                map_format=map_format,
            )
        if window is not None or native_voxels:
            name = "native_voxels" if window is None else "window"
            raise TypeError(f"{name}: expected files, found an array; leave it out, or write the volumes as files")
        answer = self.forward(inputs)
        if self.answers != "classes":
            return answer
        powers = np.exp(answer - answer.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def _records(self, inputs, progress, **options):
        inputs = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
        names = [os.fspath(name) for name in inputs]
        return [json.loads(line) for line in self._model.predict(names, listener(progress), **options)]


def _is_array(x):
    return isinstance(x, np.ndarray) or hasattr(x, "detach")


def _volumes(x):
    return numbers("x", x, np.float32, "N,C,D,H,W")
