"""Ratios of steer3d's layers to PyTorch's conv3d and to the layers of e3nn and escnn, and of its training
step to that of an ordinary network in PyTorch.

    python compare.py OURS [--threads 2] [--rounds 2]

OURS is the benchmark program `peers` of this repository. Every figure is the median over rounds in
which ours and the peers run by turns, each in a process of its own, on random input of batch 1 in
f32. conv3d gets the filter ready made, which is what a steerable layer of any peer calls after it
has expanded its kernel; "both" is the forward pass and all gradients. The step is forward, backward and
AdamW of five layers, conv3d with batch norm and ReLU in PyTorch.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys

# Seconds that one process may take, the making of its layer included.
LIMIT = 240
FIELDS = "16x0+16x1+16x2"
SMALL = "8x0+4x1+2x2"
# irreps, channels, k, order, edge, repeats
SEPARABLE = [
    (FIELDS, 144, 5, 3, 48, 2),
    (FIELDS, 144, 5, 4, 48, 2),
    (FIELDS, 144, 7, 4, 48, 1),
    (SMALL, 30, 5, 3, 32, 9),
]
# channels, k, edge, repeats
DENSE = [(32, 3, 48, 7), (32, 5, 48, 5), (64, 3, 32, 7), (64, 5, 32, 5), (144, 3, 24, 5), (144, 5, 24, 3)]
# edge, repeats of ours, repeats of PyTorch's
STEPS = [(24, 9, 3), (48, 3, 1)]


def repeat(call, repeats):
    import time

    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(statistics.median(seconds), peak)


def peer(kind, irreps, channels, k, edge, mode, repeats, threads):
    """Times one layer of a peer; runs in a process of its own."""
    import torch

    torch.set_num_threads(threads)
    x = torch.randn(1, channels, edge, edge, edge, requires_grad=mode == "both")
    if kind == "torch":
        w = torch.randn(channels, channels, k, k, k, requires_grad=mode == "both")
        layer = lambda x: torch.nn.functional.conv3d(x, w, padding=k // 2)
    elif kind == "e3nn":
        from e3nn.nn.models.v2104.voxel_convolution import Convolution

        fields = irreps.replace("x0", "x0e").replace("x1", "x1o").replace("x2", "x2e")
        layer = Convolution(fields, fields, "0e+1o+2e+3o+4e", diameter=k, num_radial_basis=3)
    elif kind == "escnn":
        from escnn import gspaces, nn

        space = gspaces.rot3dOnR3()
        group = space.fibergroup
        blocks = [block.split("x") for block in irreps.split("+")]
        field = nn.FieldType(space, [group.irrep(int(l)) for mul, l in blocks for _ in range(int(mul))])
        conv = nn.R3Conv(field, field, kernel_size=k, padding=k // 2, bias=False, initialize=False)
        if mode == "forward":
            conv.eval()
        layer = lambda x: conv(nn.GeometricTensor(x, field)).tensor

    def call():
        if mode == "forward":
            with torch.no_grad():
                layer(x)
        else:
            y = layer(x)
            y.backward(torch.ones_like(y))

    repeat(call, repeats)


def peer_step(edge, repeats, threads):
    """Times the training step of an ordinary network of as many channels; runs in a process of its own."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    layers, before = [], 1
    for channels in (144, 144, 144, 144, 64):
        conv = nn.Conv3d(before, channels, 5, padding=2, bias=False)
        layers += [conv, nn.BatchNorm3d(channels), nn.ReLU()]
        before = channels
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(before, 3))
    adam = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-3)
    x, labels = torch.randn(1, 1, edge, edge, edge), torch.tensor([1])

    def call():
        adam.zero_grad()
        nn.functional.cross_entropy(network(x), labels).backward()
        adam.step()

    repeat(call, repeats)


def run(command, threads):
    env = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads))
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1:], file=sys.stderr)
        return None
    return [float(v) for v in done.stdout.split()[-2:]]


def measure(ours, peers, rounds, threads):
    """Medians of (seconds, MiB) of ours and every peer, by turns; None for what did not run."""
    found = {name: [] for name in ["ours", *peers]}
    for _ in range(rounds):
        for name, command in [("ours", ours), *peers.items()]:
            if found[name] is not None:
                result = run(command, threads)
                found[name] = None if result is None else [*found[name], result]
    median = lambda rows: rows and [statistics.median(column) for column in zip(*rows)]
    return {name: median(rows) for name, rows in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ours")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["separable", "dense", "step"])
    args = parser.parse_args()
    here = lambda *words: [sys.executable, __file__, "--peer", *map(str, words), str(args.threads)]
    import torch

    print(f"PyTorch {torch.__version__}, {platform.machine()}, {args.threads} threads, {args.rounds} rounds\n")
    wanted = lambda part: args.only in (None, part)
    if wanted("separable"):
        print("| layer | pass | ours, ms | conv3d | e3nn | escnn | ours, MiB | conv3d, MiB |")
        print("|---|---|---|---|---|---|---|---|")
    for irreps, channels, k, order, edge, repeats in SEPARABLE if wanted("separable") else []:
        for mode in ("forward", "both"):
            ours = [args.ours, "separable", irreps, irreps, k, order, edge, mode, max(repeats, 5)]
            words = (irreps, channels, k, edge, mode, repeats)
            peers = {kind: here(kind, *words) for kind in ("torch", "e3nn", "escnn")}
            found = measure([str(w) for w in ours], peers, args.rounds, args.threads)
            mine = found["ours"]
            ratio = lambda name: f"{found[name][0] / mine[0]:.1f}x" if found[name] else "-"
            memory = f"{found['torch'][1]:.0f}" if found["torch"] else "-"
            print(
                f"| {irreps}, {edge}³, k={k}, N={order} | {mode} | {1e3 * mine[0]:.0f} | {ratio('torch')} "
                f"| {ratio('e3nn')} | {ratio('escnn')} | {mine[1]:.0f} | {memory} |",
                flush=True,
            )
    if wanted("dense"):
        print("\n| dense conv3d | pass | ours, ms | ours is faster by |\n|---|---|---|---|")
    for channels, k, edge, repeats in DENSE if wanted("dense") else []:
        for mode in ("forward", "both"):
            ours = [args.ours, "dense", channels, k, edge, mode, repeats]
            peers = {"torch": here("torch", "-", channels, k, edge, mode, repeats)}
            found = measure([str(w) for w in ours], peers, args.rounds, args.threads)
            ratio = f"{found['torch'][0] / found['ours'][0]:.2f}x" if found["torch"] else "-"
            print(
                f"| {channels} channels, {edge}³, k={k} | {mode} | {1e3 * found['ours'][0]:.1f} | {ratio} |",
                flush=True,
            )
    if wanted("step"):
        print("\n| training step | ours, ms | conv3d network | ours, MiB | recomputing, MiB | conv3d network, MiB |")
        print("|---|---|---|---|---|---|")
    for edge, repeats, peer_repeats in STEPS if wanted("step") else []:
        ours = [args.ours, "step", "5", str(edge), str(repeats)]
        peers = {
            "recomputing": [*ours, "recompute"],
            "torch": [sys.executable, __file__, "--step", str(edge), str(peer_repeats), str(args.threads)],
        }
        found = measure(ours, peers, args.rounds, args.threads)
        mine, theirs = found["ours"], found["torch"]
        ratio, memory = (f"{theirs[0] / mine[0]:.1f}x", f"{theirs[1]:.0f}") if theirs else ("-", "-")
        print(
            f"| 5 layers of {FIELDS} or 144 channels, {edge}³, k=5 | {1e3 * mine[0]:.0f} | {ratio} "
            f"| {mine[1]:.0f} | {found['recomputing'][1]:.0f} | {memory} |",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        peer_step(*map(int, sys.argv[2:]))
    elif sys.argv[1:2] == ["--peer"]:
        kind, irreps, channels, k, edge, mode, repeats, threads = sys.argv[2:]
        peer(kind, irreps, int(channels), int(k), int(edge), mode, int(repeats), int(threads))
    else:
        main()
