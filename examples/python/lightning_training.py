"""A steerable network trained by Lightning and measured by steer3d; needs `pip install lightning`.

    python examples/python/lightning_training.py DATASET.h5

DATASET is one of `steer3d dataset`, such as `steer3d dataset import tetris --out tetris.h5` makes.
"""

import sys

import lightning
import torch
from torch import nn

import steer3d
from steer3d.torch import FieldBatchNorm, Gate, GaussianPool, InvariantPool, SteerableConv3d


class Classifier(lightning.LightningModule):
    def __init__(self, irreps, classes, scale):
        super().__init__()
        self.scale = scale
        gates = Gate("8x0+4x1+2x2"), Gate("32x0")
        layers, given = [], irreps
        for gate, stride in zip(gates, (2, 1)):
            layers += [SteerableConv3d(given, gate.irreps_in), FieldBatchNorm(gate.irreps_in), gate, GaussianPool(stride)]
            given = gate.irreps_out
        self.network = nn.Sequential(*layers, InvariantPool(given), nn.BatchNorm1d(32), nn.Linear(32, classes))

    def forward(self, x):
        return self.network(self.scale * x)

    def training_step(self, batch, _):
        volumes, labels = batch
        loss = nn.functional.cross_entropy(self(volumes), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def main(path, epochs=10):
    data = steer3d.Dataset(path)
    items = data.indices("train")
    volumes, labels = torch.from_numpy(data.read(items)), torch.from_numpy(data.labels[items].astype("int64"))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(volumes, labels), batch_size=8, shuffle=True)
    irreps = data.meta.get("irreps") or f"{data.meta['channels']}x0"
    model = Classifier(irreps, len(data.class_names), float(1 / volumes.square().mean().sqrt()))
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False
    )
    trainer.fit(model, loader)
    print(steer3d.evaluate(model, data, rotations=4, angles=[], translations=[], groups=["cube"], name="Lightning"))


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
