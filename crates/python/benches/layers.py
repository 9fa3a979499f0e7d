"""Time and memory of `steer3d.torch.SteerableConv3d` beside the Rust layer, PyTorch's conv3d, e3nn and escnn.

    python crates/python/benches/layers.py [--threads 2] [--rounds 3]

16x0+16x1+16x2, 48³ voxels, k = 5, order 3, batch 1, float32. Each subject runs in a process of its own, by turns; a time is the
median of all calls, and the memory is what the process took at most beyond what it had after a call on 5³ voxels. conv3d has its
filter ready made. e3nn and escnn are left out where they are not installed.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time

FIELDS, CHANNELS, SIZE, ORDER, EDGE = "16x0+16x1+16x2", 144, 5, 3, 48
SUBJECTS = ["steer3d.torch", "rust", "conv3d", "e3nn", "escnn"]
CALLS = {"steer3d.torch": 5, "rust": 5}


def resident(peak):
    name = "VmHWM" if peak else "VmRSS"
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) / 1024


def torch_layer(subject):
    import torch

    if subject == "conv3d":
        weight = torch.nn.Parameter(torch.randn(CHANNELS, CHANNELS, SIZE, SIZE, SIZE))
        return lambda x: torch.nn.functional.conv3d(x, weight, padding=SIZE // 2)
    if subject == "steer3d.torch":
        from steer3d.torch import SteerableConv3d

        return SteerableConv3d(FIELDS, FIELDS, SIZE, order=ORDER)
    if subject == "e3nn":
        from e3nn.nn.models.v2104.voxel_convolution import Convolution
        from e3nn.o3 import Irreps

        irreps = "16x0e+16x1o+16x2e"
        return Convolution(irreps, irreps, Irreps.spherical_harmonics(4), diameter=SIZE, num_radial_basis=3)
    from escnn import gspaces, nn

    space = gspaces.rot3dOnR3()
    kind = nn.FieldType(space, [space.irrep(l) for l in (0, 1, 2) for _ in range(16)])
    layer = nn.R3Conv(kind, kind, kernel_size=SIZE, padding=SIZE // 2, bias=False)
    return lambda x: layer(nn.GeometricTensor(x, kind)).tensor


def measured(subject, both):
    """Seconds of each call, and MiB."""
    calls = CALLS.get(subject, 1)
    import numpy as np

    if subject == "rust":
        from steer3d import _native

        layer = _native.RustLayer(FIELDS, FIELDS, SIZE, ORDER, 1, 0)
        layer.seconds(np.zeros((1, CHANNELS, 5, 5, 5), np.float32), True, 1)
        before = resident(False)
        x = np.random.default_rng(0).standard_normal((1, CHANNELS, EDGE, EDGE, EDGE), np.float32)
        seconds = layer.seconds(x, both, calls + 1)[1:]
        # The copy of the input that NumPy has.
        return seconds, resident(True) - before - x.nbytes / 2**20
    import torch

    torch.set_num_threads(int(os.environ["RAYON_NUM_THREADS"]))
    layer = torch_layer(subject)
    layer(torch.randn(1, CHANNELS, 5, 5, 5, requires_grad=True)).sum().backward()
    before = resident(False)
    x = torch.randn(1, CHANNELS, EDGE, EDGE, EDGE, requires_grad=both)
    seconds = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        with torch.set_grad_enabled(both):
            out = layer(x)
            if both:
                out.sum().backward()
        seconds.append(time.perf_counter() - start)
        del out
        x.grad = None
    return seconds[1:], resident(True) - before


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=SUBJECTS, default=SUBJECTS)
    arguments = parser.parse_args()
    threads = str(arguments.threads)
    environment = {**os.environ, "RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
    subjects = [s for s in arguments.only if s not in ("e3nn", "escnn") or importlib.util.find_spec(s)]
    print("| layer | pass | ms | times the Rust layer | MiB |\n|---|---|---|---|---|")
    for both in (False, True):
        found = {subject: ([], 0.0) for subject in subjects}
        for _ in range(arguments.rounds):
            for subject in subjects:
                command = [sys.executable, __file__, "--one", subject, str(both)]
                out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
                *seconds, memory = map(float, out.split())
                found[subject] = (found[subject][0] + seconds, max(found[subject][1], memory))
        times = {subject: statistics.median(seconds) for subject, (seconds, _) in found.items()}
        for subject in subjects:
            ratio = times[subject] / times.get("rust", float("nan"))
            name = "forward and backward" if both else "forward"
            print(f"| {subject} | {name} | {1e3 * times[subject]:.0f} | {ratio:.2f} | {found[subject][1]:.0f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        seconds, memory = measured(sys.argv[2], sys.argv[3] == "True")
        print(*seconds, memory)
    else:
        main()
