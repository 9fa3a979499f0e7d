"""Small ONNX models and PyTorch's answers: writes *.onnx and onnx.json. Needs torch and onnx
(2.15.0 and 1.23.2 were used).

small.onnx          volume (N,1,D,H,W) to logits (N,3), the size of every axis but C free
channels_last.onnx  the same network for (N,X,Y,Z,1), after (v - 0.1) / 0.5; its output `answer` holds
                    the probabilities of the classes in reverse order, `features` comes first
single.onnx         one sigmoid (N,1), a fixed grid of 13 voxels and a batch of 1
flat.onnx           an input of four dimensions
double.onnx         an input of 64-bit numbers
two.onnx            two inputs

The volumes are sin(0.37 i), i counting the voxels of (3,1,9,10,11) in C order.
"""
import json

import torch
from torch import nn

torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv3d(1, 4, 3, padding=1),
    nn.BatchNorm3d(4),
    nn.ReLU(),
    nn.MaxPool3d(2),
    nn.Conv3d(4, 8, 3, padding=1, stride=2),
    nn.ELU(),
    nn.AvgPool3d(2),
    nn.Conv3d(8, 8, 1),
    nn.LeakyReLU(),
    nn.AdaptiveAvgPool3d(1),
    nn.Flatten(),
    nn.Linear(8, 3),
)
with torch.no_grad():
    network[1].running_mean.uniform_(-0.2, 0.2)
    network[1].running_var.uniform_(0.5, 1.5)
    network[1].weight.uniform_(0.5, 1.5)
    network[-1].weight.mul_(8)
network.eval()


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network


class ChannelsLast(Wrapped):
    def forward(self, x):
        logits = self.network(x.permute(0, 4, 3, 2, 1))
        return logits * 2, torch.softmax(logits.flip(1), 1)


class Single(Wrapped):
    def forward(self, x):
        return torch.sigmoid(self.network(x)[:, :1])


class Flat(Wrapped):
    def forward(self, x):
        return self.network(x.unsqueeze(1))


class Two(Wrapped):
    def forward(self, x, y):
        return self.network(x + y)


def export(module, inputs, file, names, outputs, axes):
    module.eval()
    torch.onnx.export(
        module, inputs, file, input_names=names, output_names=outputs, opset_version=17,
        dynamic_axes={names[0]: axes} if axes else None, dynamo=False,
    )


x = torch.sin(0.37 * torch.arange(3 * 9 * 10 * 11, dtype=torch.float64)).float()
x = x.reshape(3, 1, 9, 10, 11)
every = {0: "n", 2: "d", 3: "h", 4: "w"}
export(network, (x,), "small.onnx", ["volume"], ["logits"], every)
last = x.permute(0, 4, 3, 2, 1).contiguous()
export(ChannelsLast(), (last,), "channels_last.onnx", ["volume"], ["features", "answer"], {0: "n", 1: "x", 2: "y", 3: "z"})
export(Single(), (torch.zeros(1, 1, 13, 13, 13),), "single.onnx", ["volume"], ["answer"], None)
export(Flat(), (x[:, 0],), "flat.onnx", ["volume"], ["logits"], {0: "n"})
export(Two(), (x, x), "two.onnx", ["volume", "mask"], ["logits"], {0: "n"})

with torch.no_grad():
    logits = network(x)
    normalised = network((x - 0.1) / 0.5)
export(network.double(), (x.double(),), "double.onnx", ["volume"], ["logits"], {0: "n"})
json.dump(
    {
        "torch": torch.__version__.split("+")[0],
        "parameters": sum(p.numel() for p in network.parameters()),
        "logits": logits.tolist(),
        "normalised_logits": normalised.tolist(),
    },
    open("onnx.json", "w"),
    indent=1,
)
