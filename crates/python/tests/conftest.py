import numpy as np
import pytest

import steer3d

BAND = [[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [3.0, 0.5, 0.0], [4.5, 0.0, 1.0]]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A dataset of 12 volumes of two classes, 9³ voxels."""
    rng = np.random.default_rng(0)
    volumes, labels = [], []
    for item in range(12):
        label = item % 2
        points = np.array(BAND) * (1.0 + label) + rng.normal(0, 0.2, (4, 3))
        points -= points.mean(0)
        volumes.append(steer3d.voxelise(points, 9, 1.0, sigma=0.8).values)
        labels.append(label)
    path = tmp_path_factory.mktemp("data") / "bands.h5"
    return steer3d.write_dataset(path, np.stack(volumes), np.array(labels), class_names=["short", "long"])


@pytest.fixture(scope="session")
def protocol():
    """The least of an evaluation."""
    return {"rotations": 2, "angles": [], "translations": [], "resamples": 20, "layer_items": 0, "groups": ["cube"]}
