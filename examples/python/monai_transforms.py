"""Transforms and metrics of MONAI around a steerable network; needs `pip install monai`.

    python examples/python/monai_transforms.py DATASET.h5
"""

import sys

import torch
from monai.data import DataLoader, Dataset
from monai.metrics import ROCAUCMetric
from monai.transforms import Compose, NormalizeIntensityd, RandGaussianNoised
from torch import nn

import steer3d
from steer3d.torch import FieldBatchNorm, Gate, InvariantPool, SteerableConv3d


def items(data, split):
    return [{"image": torch.from_numpy(data[i].values), "label": data[i].label} for i in data.indices(split)]


def main(path, epochs=10):
    data = steer3d.Dataset(path)
    normalise = NormalizeIntensityd("image")
    noisy = Compose([normalise, RandGaussianNoised("image", prob=0.5, std=0.1)])
    gate, classes = Gate("32x0"), len(data.class_names)
    network = nn.Sequential(
        SteerableConv3d(f"{data.meta['channels']}x0", gate.irreps_in, 5),
        FieldBatchNorm(gate.irreps_in),
        gate,
        InvariantPool("32x0"),
        nn.BatchNorm1d(32),
        nn.Linear(32, classes),
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(epochs):
        for batch in DataLoader(Dataset(items(data, "train"), noisy), batch_size=8, shuffle=True):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(batch["image"].as_tensor()), batch["label"]).backward()
            optimiser.step()
    network.eval()
    metric = ROCAUCMetric()
    for batch in DataLoader(Dataset(items(data, "test"), normalise), batch_size=8):
        with torch.no_grad():
            answer = network(batch["image"].as_tensor()).softmax(1)
        metric(answer, nn.functional.one_hot(batch["label"], classes))
    print(f"AUC by MONAI: {metric.aggregate():.3f}")

    def model(volumes):
        """What is measured: MONAI's normalisation and the network."""
        images = [normalise({"image": torch.from_numpy(volume)})["image"] for volume in volumes]
        with torch.no_grad():
            return network(torch.stack([image.as_tensor() for image in images]))

    print(steer3d.evaluate(model, data, rotations=4, angles=[], translations=[], groups=["cube"]))


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
