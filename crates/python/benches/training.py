"""Time of a training step of a network of four layers with `steer3d.torch`, escnn and PyTorch's conv3d.

    python crates/python/benches/training.py [--threads 2] [--rounds 3]

1x0, three times 8x0+8x1+8x2 (72 channels), 32x0, a mean over space and a linear layer; k = 5, each convolution with a batch norm
and a gate; 24³ voxels, batch 16, float32; forward, backward and a step of AdamW. conv3d has the same channels, a batch norm and
ReLU. Each subject runs in a process of its own, by turns; a time is the median of all steps but the first of each process, and
the memory is the most that the process took. escnn is left out where it is not installed.
"""

import argparse
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import time

SUBJECTS = ["steer3d.torch", "escnn", "conv3d"]
STEPS, BATCH, EDGE, SIZE = 4, 16, 24, 5
MULTIPLICITY, LAST = 8, 32


def ours():
    from torch import nn

    from steer3d.torch import FieldBatchNorm, Gate, InvariantPool, SteerableConv3d

    layers, given = [], "1x0"
    for fields in [f"{MULTIPLICITY}x0+{MULTIPLICITY}x1+{MULTIPLICITY}x2"] * 3 + [f"{LAST}x0"]:
        gate = Gate(fields)
        layers += [SteerableConv3d(given, gate.irreps_in, SIZE, order=3), FieldBatchNorm(gate.irreps_in), gate]
        given = gate.irreps_out
    return nn.Sequential(*layers, InvariantPool(given))


def escnn():
    from escnn import gspaces, nn
    from torch.nn import Module

    space = gspaces.rot3dOnR3()
    scalar = space.trivial_repr

    def activation(scalars, others):
        """Batch norm and gate to so many scalars and these fields, and the type that they take."""
        plain = nn.FieldType(space, [scalar] * scalars)
        if not others:
            return plain, nn.SequentialModule(nn.IIDBatchNorm3d(plain), nn.ReLU(plain))
        gated = nn.FieldType(space, others + [scalar] * len(others))
        kind = plain + gated
        labels = ["scalars"] * scalars + ["gated"] * len(gated)
        roles = ["gated"] * len(others) + ["gate"] * len(others)
        gate = nn.GatedNonLinearity1(gated, gates=roles, drop_gates=True)
        both = nn.MultipleModule(kind, labels, [(nn.ReLU(plain), "scalars"), (gate, "gated")])
        return kind, nn.SequentialModule(nn.IIDBatchNorm3d(kind), both)

    class Network(Module):
        def __init__(self):
            super().__init__()
            self.given = given = nn.FieldType(space, [scalar])
            others = [space.irrep(1)] * MULTIPLICITY + [space.irrep(2)] * MULTIPLICITY
            layers = []
            for scalars, fields in [(MULTIPLICITY, others)] * 3 + [(LAST, [])]:
                kind, then = activation(scalars, fields)
                layers += [nn.R3Conv(given, kind, kernel_size=SIZE, padding=SIZE // 2, bias=False), then]
                given = then.out_type
            self.layers = nn.SequentialModule(*layers)

        def forward(self, x):
            return self.layers(nn.GeometricTensor(x, self.given)).tensor.mean((2, 3, 4))

    return Network()


def conv3d():
    from torch import nn

    layers, given = [], 1
    for channels in [9 * MULTIPLICITY] * 3 + [LAST]:
        layers += [nn.Conv3d(given, channels, SIZE, padding=SIZE // 2, bias=False), nn.BatchNorm3d(channels), nn.ReLU()]
        given = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten())


def measured(subject):
    """Seconds of the initialisation and of each step, and MiB."""
    import torch

    torch.set_num_threads(int(os.environ["RAYON_NUM_THREADS"]))
    torch.manual_seed(0)
    make = {"steer3d.torch": ours, "escnn": escnn, "conv3d": conv3d}[subject]
    start = time.perf_counter()
    network = torch.nn.Sequential(make(), torch.nn.Linear(LAST, 4))
    seconds = [time.perf_counter() - start]
    optimiser = torch.optim.AdamW(network.parameters())
    x, labels = torch.randn(BATCH, 1, EDGE, EDGE, EDGE), torch.arange(BATCH) % 4
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(x), labels).backward()
        optimiser.step()
        seconds.append(time.perf_counter() - start)
    return [seconds[0], *seconds[2:], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    threads = str(arguments.threads)
    environment = {**os.environ, "RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    subjects = [s for s in SUBJECTS if s != "escnn" or importlib.util.find_spec(s)]
    found = {subject: [] for subject in subjects}
    for _ in range(arguments.rounds):
        for subject in subjects:
            command = [sys.executable, __file__, "--one", subject]
            out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
            found[subject].append([float(number) for number in out.split()])
    print("| network | step, ms | times steer3d.torch | made in, s | MiB |\n|---|---|---|---|---|")
    steps = {s: statistics.median(t for run in runs for t in run[1:-1]) for s, runs in found.items()}
    for subject, runs in found.items():
        ratio = steps[subject] / steps["steer3d.torch"]
        made, memory = statistics.median(run[0] for run in runs), max(run[-1] for run in runs)
        print(f"| {subject} | {1e3 * steps[subject]:.0f} | {ratio:.2f} | {made:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(*measured(sys.argv[2]))
    else:
        main()
