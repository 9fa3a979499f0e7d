"""Times PyTorch's conv3d of 144 channels on the GPU, for the table of README (section "On a GPU"): 64^3 voxels, batch 8,
milliseconds forward, and forward and backward, with and without TF32. Needs torch with CUDA.
"""

import time

import torch
from torch.nn.functional import conv3d


def milliseconds(call, repeats=3):
    call()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)[repeats // 2]


def measure(k, tf32):
    torch.backends.cudnn.allow_tf32 = tf32
    x = torch.randn(8, 144, 64, 64, 64, device="cuda", requires_grad=True)
    w = torch.randn(144, 144, k, k, k, device="cuda", requires_grad=True)
    grad = torch.ones_like(x)

    def forward():
        with torch.no_grad():
            conv3d(x, w, padding=k // 2)

    def both():
        x.grad = w.grad = None
        conv3d(x, w, padding=k // 2).backward(grad)

    return milliseconds(forward), milliseconds(both)


print(torch.__version__, torch.backends.cudnn.version(), torch.cuda.get_device_name())
for k, tf32 in [(5, True), (5, False), (7, True)]:
    forward, both = measure(k, tf32)
    print(f"k={k} {'TF32' if tf32 else 'float32'}: forward {forward:.1f}, with backward {both:.1f} ms", flush=True)
