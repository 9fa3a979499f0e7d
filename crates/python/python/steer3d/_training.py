"""Training of networks as experiment files say."""

import json
import os
from dataclasses import dataclass

from . import _native
from ._arrays import count
from ._models import Model
from ._progress import listener


@dataclass(frozen=True)
class Run:
    """A training: its folder, the file of the model, one dictionary for each epoch, and whether it was stopped."""

    folder: str
    model: str
    epochs: list
    best: dict | None
    parameters: int

    def load(self) -> Model:
        """The trained network."""
        return Model(self.model)


def train(experiment, out=None, *, changes=None, existing: str = "keep", seed: int | None = None, progress=True) -> Run:
    """Trains as an experiment file (TOML) or a run folder says, into the folder `out` (runs/NAME for NAME.toml).

    `changes` are settings as `{"training.epochs": 5, "model.preset": "plain"}`. `existing` says what becomes of a training that
    is there: "keep" refuses if it is not finished, "resume" goes on to the same bits, "overwrite" starts anew. `progress` is
    as in `evaluate`. Ctrl-C saves the state and raises `KeyboardInterrupt`.

    Raises `Steer3dError` for a wrong setting, with its place.
    """
    given = [f"{key}={_toml(value)}" for key, value in (changes or {}).items()]
    folder = None if out is None else os.fspath(out)
    seed = None if seed is None else count("seed", seed)
    hears = listener(progress)
    folder, summary = _native.train(os.fspath(experiment), given, folder, existing, seed, hears)
    summary = json.loads(summary)
    kept = {key: summary.get(key) for key in ("model", "epochs", "best", "parameters")}
    return Run(folder=str(folder), **kept)


def _toml(value):
    return value if isinstance(value, str) else json.dumps(value)
