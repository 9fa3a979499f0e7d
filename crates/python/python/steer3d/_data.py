"""Datasets of volumes: HDF5 files in the layout of docs/src/guide/dataset-file.md."""

import json
import operator
import os
import tempfile
from dataclasses import dataclass

import numpy as np

from . import _native
from ._arrays import count
from ._program import program


@dataclass(frozen=True)
class Item:
    """One item: its volume C,D,H,W, class (`None` without one), split, and what else the dataset has."""

    index: int
    id: str
    values: np.ndarray
    label: int | None
    split: str
    targets: np.ndarray | None
    voxel_labels: np.ndarray | None


class Dataset:
    """An HDF5 dataset. `data[3]` is an item, `data[2:5]` and `data.split("test")` are lists of items that are read one by one.

    Raises `FileNotFoundError` and `Steer3dError` for a file that is none.
    """

    def __init__(self, path):
        self._data = _native.Dataset(os.fspath(path))
        self.meta = json.loads(self._data.meta())
        """What is stored of all items together: name, channels, dims D,H,W, voxel size x,y,z, unit, irreps, origin."""
        self.tasks = json.loads(self._data.tasks())
        """What can be asked beside classes: names of voxel classes, irreps of targets; `None` without any."""

    def __reduce__(self):
        return Dataset, (self.path,)

    def __len__(self):
        return len(self._data)

    def __repr__(self):
        channels, dims = self.meta["channels"], "x".join(map(str, self.meta["dims"]))
        return f"Dataset({str(self.path)!r}: {len(self)} items of {channels} channels on {dims} voxels)"

    @property
    def path(self) -> str:
        """The file."""
        return str(self._data.path)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return self.meta["class_names"]

    @property
    def labels(self) -> np.ndarray:
        """The class of each item."""
        return self._data.labels()

    @property
    def splits(self) -> list[str]:
        """The split of each item: train, validation or test."""
        return self._data.splits()

    @property
    def ids(self) -> list[str]:
        """The name of each item."""
        return self._data.ids()

    def indices(self, split: str) -> list[int]:
        """The items of a split."""
        return [i for i, other in enumerate(self.splits) if other == split]

    def read(self, items) -> np.ndarray:
        """The volumes of items, as (n, C, D, H, W) of float32."""
        return self._data.read([count("items", item) for item in items])

    def __getitem__(self, item):
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        index = operator.index(item) + (len(self) if item < 0 else 0)
        if not 0 <= index < len(self):
            raise IndexError(f"item: expected a number below {len(self)}, found {item}")
        id, label, split = self._data.named(index)
        targets, voxel_labels = self._data.targets(index), self._data.voxel_labels(index)
        return Item(
            index=index,
            id=id,
            values=self.read([index])[0],
            label=label if self.class_names else None,
            split=split,
            targets=targets if len(targets) else None,
            voxel_labels=voxel_labels if voxel_labels.size else None,
        )

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def batches(self, split: str, size: int = 16, shuffle_seed: int | None = None):
        """Volumes (n, C, D, H, W) and labels (n) of a split, batch by batch; shuffled by a seed if there is one."""
        items, labels, size = np.array(self.indices(split), int), self.labels, count("size", size, 1)
        if shuffle_seed is not None:
            np.random.default_rng(shuffle_seed).shuffle(items)
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            yield self.read(batch), labels[batch]


def build_dataset(source, out, progress=True, **options) -> Dataset:
    """Builds a dataset of files: `steer3d dataset build`, whose options are the keywords, such as `voxel_size=2, size=64`.

    `progress` is as in `evaluate`, here and in `import_dataset` and `write_dataset`.
    """
    program("dataset", "build", os.fspath(source), progress=progress, out=os.fspath(out), **options)
    return Dataset(out)


def import_dataset(kind: str, source, out, progress=True, **options) -> Dataset:
    """Builds a dataset of an archive: `steer3d dataset import KIND`, whose options are the keywords. Kinds: cath, medmnist,
    arrays, backbone, tetris (which has no source)."""
    words = [] if source is None else [os.fspath(source)]
    program("dataset", "import", kind, *words, progress=progress, out=os.fspath(out), **options)
    return Dataset(out)


def write_dataset(out, volumes, labels=None, targets=None, voxel_labels=None, progress=True, **options) -> Dataset:
    """Writes a dataset of volumes (n, D, H, W) or (n, C, D, H, W) with labels (n), targets (n, t) or voxel labels (n, D, H, W).

    Keywords are the options of `steer3d dataset import arrays`, such as `class_names=["a", "b"]`, `irreps="1x1"` or
    `voxel_size=2`.
    """
    arrays = {"volumes": volumes, "labels": labels, "targets": targets, "voxel_labels": voxel_labels}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "arrays.npz")
        np.savez(path, **{name: np.asarray(array) for name, array in arrays.items() if array is not None})
        return import_dataset("arrays", path, out, progress, **options)
