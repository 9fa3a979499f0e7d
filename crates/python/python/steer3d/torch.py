"""Steerable layers for PyTorch: fields are tensors N,C,D,H,W whose channels are those of `steer3d.Irreps`.

On the CPU, convolutions of Gaussian jets, nonlinearities, norms and pools compute with the kernels of steer3d, in float32 or float64,
on the memory of the tensors, without copies, and with as many threads as the variable RAYON_NUM_THREADS says (all, if it is
not set). On other devices, and with `path="dense"`, everything is plain PyTorch: `conv3d` with the filter that the
weights give. Both give the same numbers up to rounding. Gradients of gradients are those of the dense path only.

Under `torch.autocast` `conv3d` gives the narrower type, which layers with parameters take and bring to that of the parameters.
A network after `.bfloat16()` or `.half()` takes and gives that type; sums, but those of `conv3d`, are taken in float32.
"""

import functools
import itertools
import json
import math
import os

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from . import _native
from ._arrays import count, triple
from ._kernels import family_table
from ._models import Model
from ._native import Irreps, Steer3dError

__all__ = [
    "FieldBatchNorm",
    "FieldDropout",
    "FieldInstanceNorm",
    "Gate",
    "GaussianPool",
    "GaussianUpsample",
    "InvariantPool",
    "NormNonlinearity",
    "SteerableConv3d",
    "SteerableNetwork",
    "irreps_of_escnn",
    "load_steer3d",
    "save_steer3d",
]

# Time of a multiply-add of the separable path over one of the dense path, as in the Rust layers.
_SEPARABLE_COST = 3
# The batches of running statistics whose number is not stored: so many that the next counts with the least weight.
_MANY_BATCHES = 1 << 30
# Types in which no sums are taken.
_NARROW = (torch.bfloat16, torch.float16)
_REFUSED = "steer3d computes no gradients of gradients on this path: take path='dense', or do without create_graph"


@functools.lru_cache(maxsize=256)
def _basis(kernel):
    irreps_in, irreps_out, size, family, voxel_size = json.loads(kernel)
    return _native.KernelBasis(irreps_in, irreps_out, size, family, voxel_size)


@functools.lru_cache(maxsize=256)
def _separable(kernel):
    """The convolution of a kernel without a filter and its multiply-adds, or `None`."""
    return _basis(kernel).separable()


def _array(tensor):
    return tensor.detach().contiguous().numpy()


def _strided(x, stride):
    return [(n - 1) // stride + 1 for n in x.shape[2:]]


# Each operation is opaque for torch.compile: the fake one gives the shape, the other the numbers. `torch.library.custom_op` would
# import the compiler at the first call.
_LIBRARY = torch.library.Library("steer3d", "DEF")


def _operation(function):
    name, schema = function.__name__[1:], torch.library.infer_schema(function, mutates_args=())
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, function, "CPU")
    return getattr(torch.ops.steer3d, name)


def _fake(operation):
    return torch.library.register_fake(operation.default.name(), lib=_LIBRARY)


def _differentiable(operation, backward, context=None):
    torch.library.register_autograd(operation.default.name(), backward, setup_context=context, lib=_LIBRARY)


@_operation
def _conv(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, kernel: str, channels: int, stride: int
) -> torch.Tensor:
    bias = None if bias is None else _array(bias)
    return torch.from_numpy(_separable(kernel)[0].forward(_array(x), _array(weight), bias, stride))


@_fake(_conv)
def _(x, weight, bias, kernel, channels, stride):
    return x.new_empty([x.shape[0], channels, *_strided(x, stride)])


@_operation
def _conv_gradients(
    x: torch.Tensor, weight: torch.Tensor, grad: torch.Tensor, kernel: str, stride: int, both: bool
) -> torch.Tensor:
    """The gradients of x and of the weights, one after the other, or that of the weights."""
    weight = _array(weight) if both else None
    return torch.from_numpy(_separable(kernel)[0].gradients(_array(x), weight, _array(grad), stride))


@_fake(_conv_gradients)
def _(x, weight, grad, kernel, stride, both):
    return x.new_empty([weight.numel() + (x.numel() if both else 0)])


@_operation
def _gate(x: torch.Tensor, scalars: int, gated: str, channels: int) -> torch.Tensor:
    return torch.from_numpy(_native.gate(_array(x), scalars, gated))


@_fake(_gate)
def _(x, scalars, gated, channels):
    return x.new_empty([x.shape[0], channels, *x.shape[2:]])


@_operation
def _gate_gradient(x: torch.Tensor, grad: torch.Tensor, scalars: int, gated: str) -> torch.Tensor:
    return torch.from_numpy(_native.gate_gradient(_array(x), scalars, gated, _array(grad)))


@_fake(_gate_gradient)
def _(x, grad, scalars, gated):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_operation
def _norm_relu(x: torch.Tensor, bias: torch.Tensor, irreps: str) -> torch.Tensor:
    return torch.from_numpy(_native.norm_relu(_array(x), irreps, _array(bias)))


@_fake(_norm_relu)
def _(x, bias, irreps):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_operation
def _norm_relu_gradients(
    x: torch.Tensor, bias: torch.Tensor, grad: torch.Tensor, irreps: str
) -> tuple[torch.Tensor, torch.Tensor]:
    of_x, of_bias = _native.norm_relu_gradients(_array(x), irreps, _array(bias), _array(grad))
    return torch.from_numpy(of_x), torch.from_numpy(of_bias)


@_fake(_norm_relu_gradients)
def _(x, bias, grad, irreps):
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(bias)


@_operation
def _field_statistics(x: torch.Tensor, irreps: str, fields: int) -> torch.Tensor:
    """The means of all fields, 0 of those that are not scalars, then their variances."""
    return torch.from_numpy(_native.field_statistics(_array(x), irreps))


@_fake(_field_statistics)
def _(x, irreps, fields):
    return x.new_empty([2 * fields])


@_operation
def _field_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    statistics: torch.Tensor,
    irreps: str,
    eps: float,
    from_batch: bool,
) -> torch.Tensor:
    arrays = map(_array, (x, weight, bias, statistics))
    return torch.from_numpy(_native.field_norm(*arrays, irreps, eps))


@_fake(_field_norm)
def _(x, weight, bias, statistics, irreps, eps, from_batch):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_operation
def _field_norm_gradients(
    x: torch.Tensor,
    weight: torch.Tensor,
    grad: torch.Tensor,
    statistics: torch.Tensor,
    irreps: str,
    eps: float,
    from_batch: bool,
    biases: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    arrays = map(_array, (x, weight, grad, statistics))
    of_x, small = _native.field_norm_gradients(*arrays, irreps, eps, from_batch)
    return torch.from_numpy(of_x), torch.from_numpy(small)


@_fake(_field_norm_gradients)
def _(x, weight, grad, statistics, irreps, eps, from_batch, biases):
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty([weight.numel() + biases])


@_operation
def _pool(x: torch.Tensor, stride: int, sigma: float) -> torch.Tensor:
    return torch.from_numpy(_native.gaussian_pool(_array(x), stride, sigma))


@_fake(_pool)
def _(x, stride, sigma):
    return x.new_empty([*x.shape[:2], *_strided(x, stride)])


@_operation
def _pool_gradient(grad: torch.Tensor, sizes: list[int], stride: int, sigma: float) -> torch.Tensor:
    return torch.from_numpy(_native.gaussian_pool_gradient(sizes, stride, sigma, _array(grad)))


@_fake(_pool_gradient)
def _(grad, sizes, stride, sigma):
    return grad.new_empty(sizes)


def _conv_context(ctx, inputs, output):
    x, weight, bias, ctx.kernel, _, ctx.stride = inputs
    ctx.save_for_backward(x, weight)


def _conv_backward(ctx, grad):
    x, weight = ctx.saved_tensors
    of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
    gradients = [None] * 6
    if of_x or of_weight:
        both = _conv_gradients(x, weight, grad, ctx.kernel, ctx.stride, of_x)
        before = x.numel() if of_x else 0
        gradients[1] = both.narrow(0, before, weight.numel())
        if of_x:
            gradients[0] = both.narrow(0, 0, before).view(x.shape)
    if of_bias:
        gradients[2] = grad.sum((0, 2, 3, 4))
    return tuple(gradients)


def _gate_context(ctx, inputs, output):
    x, ctx.scalars, ctx.gated, _ = inputs
    ctx.save_for_backward(x)


def _gate_backward(ctx, grad):
    return _gate_gradient(ctx.saved_tensors[0], grad, ctx.scalars, ctx.gated), None, None, None


def _norm_context(ctx, inputs, output):
    x, bias, ctx.irreps = inputs
    ctx.save_for_backward(x, bias)


def _norm_backward(ctx, grad):
    return *_norm_relu_gradients(*ctx.saved_tensors, grad, ctx.irreps), None


def _field_context(ctx, inputs, output):
    x, weight, bias, statistics, *ctx.settings = inputs
    ctx.biases = bias.numel()
    ctx.save_for_backward(x, weight, statistics)


def _field_backward(ctx, grad):
    x, weight, statistics = ctx.saved_tensors
    of_x, small = _field_norm_gradients(x, weight, grad, statistics, *ctx.settings, ctx.biases)
    fields = weight.numel()
    of_weight, of_bias = small.split([fields, ctx.biases])
    return of_x, of_weight, of_bias, None, None, None, None


def _pool_context(ctx, inputs, output):
    x, ctx.stride, ctx.sigma = inputs
    ctx.sizes = list(x.shape)


def _pool_backward(ctx, grad):
    return _pool_gradient(grad, ctx.sizes, ctx.stride, ctx.sigma), None, None


def _pool_gradient_context(ctx, inputs, output):
    _, _, ctx.stride, ctx.sigma = inputs


def _pool_gradient_backward(ctx, grad):
    return _pool(grad, ctx.stride, ctx.sigma), None, None, None


def _refuse(ctx, *grads):
    raise RuntimeError(_REFUSED)


_differentiable(_conv, _conv_backward, _conv_context)
_differentiable(_gate, _gate_backward, _gate_context)
_differentiable(_norm_relu, _norm_backward, _norm_context)
_differentiable(_field_norm, _field_backward, _field_context)
_differentiable(_pool, _pool_backward, _pool_context)
_differentiable(_pool_gradient, _pool_gradient_backward, _pool_gradient_context)
for _once in (_conv_gradients, _gate_gradient, _norm_relu_gradients, _field_norm_gradients):
    _differentiable(_once, _refuse)


def _check(layer, x, irreps):
    """Raises where `x` is no field of type `irreps`."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{layer}: expected a tensor N,C,D,H,W, found {type(x).__name__}")
    if x.dim() != 5:
        raise ValueError(f"{layer}: expected a tensor N,C,D,H,W, found shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{layer}: expected a tensor of floating point numbers, found {x.dtype}")
    if x.shape[1] != irreps.dim:
        raise ValueError(f"{layer}: expected {irreps.dim} channels for irreps {irreps}, found {x.shape[1]}")


def _same(layer, x, parameter):
    """`x`, under autocast in the type of the parameters; raises where it is elsewhere or of another type."""
    if x.device != parameter.device:
        expected = f"a tensor on {parameter.device}, as the parameters"
        raise ValueError(f"{layer}: expected {expected}, found one on {x.device}; move one of them")
    if x.dtype == parameter.dtype:
        return x
    if torch.is_autocast_enabled(x.device.type):
        return x.to(parameter.dtype)
    expected = f"a tensor of {parameter.dtype}, as the parameters"
    raise TypeError(f"{layer}: expected {expected}, found {x.dtype}; convert one of them, or use torch.autocast")


def _wide(x):
    """A tensor, if any, in a type in which sums are taken: float32 in place of a narrower one."""
    return x.float() if x is not None and x.dtype in _NARROW else x


def _native_fits(x):
    """Whether steer3d's kernels take a tensor that is made wide: on the CPU, and not on the way to another program."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64, *_NARROW):
        return False
    return not (torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting())


def _fields_of_channels(irreps):
    """The index of the field of each channel."""
    return [i for i, (_, dim, _) in enumerate(irreps.fields) for _ in range(dim)]


class SteerableConv3d(nn.Module):
    """Convolution with kernels K(R x) = D_out(R) K(x) D_in(R)ᵀ, so that it commutes with rotations.

    Args:
        irreps_in, irreps_out: types of the fields, such as "16x0+16x1+16x2".
        kernel_size: odd, in voxels; the volume is padded by `kernel_size // 2` zeros.
        order: highest derivative of the Gaussian jets that kernels are made of, below `kernel_size`; 3, or the highest, if left
            out.
        stride: every how many voxels there is an output. Rotations of the cube commute with a stride above 1 on odd grids
            only; a `GaussianPool` after stride 1 commutes on all.
        voxel_size: edges of a voxel, a number or x, y, z.
        bias: whether a learned number is added to every invariant channel.
        family: another kernel family than jets, such as "gaussian_shells" or `{"family": "bessel", "functions": 3}`.
        path: "separable" (no filter; CPU, jets), "dense" (PyTorch's conv3d), or "auto", the one of fewer operations.

    Input N,C_in,D,H,W, output N,C_out,D',H',W' with D' = (D - 1) // stride + 1. Weights are drawn by PyTorch's generator, and
    give unit variance for white noise.

    Raises `Steer3dError` for wrong irreps, sizes or families, `ValueError` and `TypeError` for a wrong input.
    """

    def __init__(
        self,
        irreps_in,
        irreps_out,
        kernel_size: int = 5,
        order: int | None = None,
        stride: int = 1,
        voxel_size=1.0,
        bias: bool = False,
        family=None,
        path: str = "auto",
        device=None,
        dtype=None,
    ):
        super().__init__()
        self.irreps_in, self.irreps_out = Irreps(irreps_in), Irreps(irreps_out)
        self.kernel_size, self.stride = kernel_size, stride = count("kernel_size", kernel_size), count("stride", stride, 1)
        table = [str(self.irreps_in), str(self.irreps_out), kernel_size, family_table(order, family, kernel_size)]
        self.kernel = json.dumps([*table, triple("voxel_size", voxel_size)])
        self.path = self._path(path)
        seed = int(torch.randint(2**62, ()))
        initial = torch.from_numpy(_basis(self.kernel).initial_weights(seed, "conv"))
        dtype = dtype or torch.get_default_dtype()
        self.weight = nn.Parameter(initial.to(device, dtype))
        invariant = [start for start, _, invariant in self.irreps_out.fields if invariant]
        self._invariant = invariant
        biased = bias and invariant
        self.bias = nn.Parameter(torch.zeros(len(invariant), device=device, dtype=dtype)) if biased else None
        self._samples = {}

    def _path(self, path):
        found = _separable(self.kernel)
        if path not in ("auto", "separable", "dense"):
            raise ValueError(f"path: expected auto, separable or dense, found {path!r}")
        if path == "separable" and found is None:
            raise ValueError("path: the separable path needs Gaussian jets; take path='dense'")
        if path != "auto":
            return path
        dense = self.irreps_in.dim * self.irreps_out.dim * self.kernel_size**3
        return "separable" if found and _SEPARABLE_COST * found[1] < dense else "dense"

    def __getstate__(self):
        return {**super().__getstate__(), "_samples": {}}

    def filter(self) -> torch.Tensor:
        """The dense filter (C_out, C_in, k, k, k), taps z, y, x, differentiable in the weights."""
        weight, k = _wide(self.weight), self.kernel_size
        filter = weight.new_zeros(self.irreps_out.dim, self.irreps_in.dim, k**3)
        for (offset, o, i), (mul_out, mul_in), (dim_out, dim_in), samples in self._pairs(weight):
            paths, rows = samples.shape[0], mul_out * mul_in
            block = weight[offset : offset + rows * paths].view(rows, paths) @ samples
            block = block.view(mul_out, mul_in, dim_out, dim_in, k**3).transpose(1, 2)
            block = block.reshape(mul_out * dim_out, mul_in * dim_in, k**3)
            filter[o : o + block.shape[0], i : i + block.shape[1]] = block
        return filter.view(*filter.shape[:2], k, k, k).to(self.weight.dtype)

    def _pairs(self, weight):
        key = (weight.device, weight.dtype)
        if key not in self._samples:
            pairs = _basis(self.kernel).pairs()
            self._samples[key] = [(*pair[:3], torch.from_numpy(pair[3]).to(*key)) for pair in pairs]
        return self._samples[key]

    def _bias(self):
        if self.bias is None:
            return None
        return self.bias.new_zeros(self.irreps_out.dim).index_copy(
            0, torch.tensor(self._invariant, device=self.bias.device), self.bias
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution of a field N,C_in,D,H,W."""
        _check("SteerableConv3d", x, self.irreps_in)
        x = _same("SteerableConv3d", x, self.weight)
        if self.path == "separable" and _native_fits(x):
            operands = map(_wide, (x, self.weight, self._bias()))
            return _conv(*operands, self.kernel, self.irreps_out.dim, self.stride).to(x.dtype)
        padding = self.kernel_size // 2
        return functional.conv3d(x, self.filter(), self._bias(), stride=self.stride, padding=padding)

    def extra_repr(self):
        return f"{self.irreps_in} -> {self.irreps_out}, kernel_size={self.kernel_size}, stride={self.stride}, path={self.path}"


class Gate(nn.Module):
    """ReLU of invariant channels; every other field times the sigmoid of a scalar of its own.

    `irreps` is the type of the result. `irreps_in` has the invariant channels, one gate for each other field, and these fields;
    `irreps_out` the invariant channels and the other fields.
    """

    def __init__(self, irreps):
        super().__init__()
        given, out, self.scalars, self.gated = _native.gate_types(irreps)
        self.irreps_in, self.irreps_out = Irreps(given), Irreps(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The gate of a field of type `irreps_in`."""
        _check("Gate", x, self.irreps_in)
        if self.gated is None:
            return functional.relu(x)
        if _native_fits(x):
            return _gate(_wide(x), self.scalars, self.gated, self.irreps_out.dim).to(x.dtype)
        gated = Irreps(self.gated)
        scalars, gates, fields = x.split([self.scalars, gated.num_fields, gated.dim], 1)
        index = torch.tensor(_fields_of_channels(gated), device=x.device)
        return torch.cat([functional.relu(scalars), fields * torch.sigmoid(gates).index_select(1, index)], 1)

    def extra_repr(self):
        return f"{self.irreps_in} -> {self.irreps_out}"


class NormNonlinearity(nn.Module):
    """Every field f becomes f relu(|f| + b) / (|f| + 1e-6), with a learned b for each field that begins at 0."""

    def __init__(self, irreps, device=None, dtype=None):
        super().__init__()
        self.irreps = Irreps(irreps)
        self._type = str(self.irreps)
        self.bias = nn.Parameter(torch.zeros(self.irreps.num_fields, device=device, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The nonlinearity of a field of type `irreps`."""
        _check("NormNonlinearity", x, self.irreps)
        x = _same("NormNonlinearity", x, self.bias)
        return self._of(_wide(x), _wide(self.bias)).to(x.dtype)

    def _of(self, x, bias):
        if _native_fits(x):
            return _norm_relu(x, bias, self._type)
        index = torch.tensor(_fields_of_channels(self.irreps), device=x.device)
        sums = x.new_zeros(x.shape[0], self.irreps.num_fields, *x.shape[2:]).index_add(1, index, x * x)
        # The gradient of the norm of 0 is taken as 0.
        norm = torch.where(sums > 0, sums, 1.0).sqrt() * (sums > 0)
        factor = functional.relu(norm + bias.view(-1, 1, 1, 1)) / (norm + 1e-6)
        return x * factor.index_select(1, index)

    def extra_repr(self):
        return str(self.irreps)


class _FieldNorm(nn.Module):
    """What norms of fields share: a factor for each field, a summand for each that is shifted, and how both are used."""

    def __init__(self, irreps, scaling_only, eps, device, dtype):
        super().__init__()
        self.irreps, self.eps = Irreps(irreps), eps
        fields = self.irreps.fields
        shifted = [i for i, (_, _, invariant) in enumerate(fields) if invariant and not scaling_only]
        self._fields, self._shifted = _fields_of_channels(self.irreps), shifted
        self._channels = [fields[i][0] for i in shifted]
        # Where nothing is shifted, scalars are normalised as pseudoscalars are.
        blocks = [(mul, irrep.rstrip("eo")) for mul, irrep, _ in self.irreps.blocks]
        scaled = "+".join(f"{mul}x{l}{'o' if l == '0' else 'e'}" for mul, l in blocks)
        self._normalised_as = scaled if scaling_only else str(self.irreps)
        given = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.ones(len(fields), **given))
        self.bias = nn.Parameter(torch.zeros(len(shifted), **given)) if shifted else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The normalised field."""
        name = type(self).__name__
        _check(name, x, self.irreps)
        x = _same(name, x, self.weight)
        return self._normalised(_wide(x)).to(x.dtype)

    def _statistics(self, x):
        """Means of the shifted channels (`None` without any) and variances of the fields of a batch."""
        if not _native_fits(x):
            return self._plain_statistics(x)
        mean, var = _field_statistics(x.detach(), self._normalised_as, len(self.weight)).split(len(self.weight))
        return mean.index_select(0, self._places(x)) if self._shifted else None, var

    def _plain_statistics(self, x):
        channels, mean, centred = torch.tensor(self._channels, dtype=torch.long, device=x.device), None, x
        if self._shifted:
            mean = x.index_select(1, channels).mean((0, 2, 3, 4))
            shift = x.new_zeros(self.irreps.dim).index_copy(0, channels, mean)
            centred = x - shift.view(-1, 1, 1, 1)
        square = centred.square().mean((0, 2, 3, 4))
        index = torch.tensor(self._fields, device=x.device)
        share = x.new_tensor([1.0 / dim for _, dim, _ in self.irreps.fields])
        return mean, square.new_zeros(len(share)).index_add(0, index, square) * share

    def _by(self, x, mean, var, from_batch):
        """The field normalised by such statistics, which are those of `x` itself where they are `from_batch`."""
        weight, bias = _wide(self.weight), _wide(self.bias)
        if not _native_fits(x):
            return self._plain_by(x, mean, var, weight, bias)
        means = var.new_zeros(len(var))
        if self._shifted:
            means = means.index_copy(0, self._places(x), mean)
        bias = weight.new_empty(0) if bias is None else bias
        return _field_norm(x, weight, bias, torch.cat([means, var]), self._normalised_as, self.eps, from_batch)

    def _places(self, x):
        return torch.tensor(self._shifted, dtype=torch.long, device=x.device)

    def _plain_by(self, x, mean, var, weight, bias):
        index = torch.tensor(self._fields, device=x.device)
        scale = weight / torch.sqrt(var + self.eps)
        factor = scale.index_select(0, index).view(-1, 1, 1, 1)
        if not self._shifted:
            return x * factor
        shifted, channels = torch.tensor([self._shifted, self._channels], device=x.device)
        shift = bias - scale.index_select(0, shifted) * mean
        shift = shift.new_zeros(self.irreps.dim).index_copy(0, channels, shift)
        return x * factor + shift.view(-1, 1, 1, 1)

    def extra_repr(self):
        return str(self.irreps)


class FieldBatchNorm(_FieldNorm):
    """Batch norm of fields: invariant channels are standardised, other fields divided by the root of the mean of |f|² / (2 l + 1).

    Args:
        irreps: type of the fields.
        scaling_only: whether invariant channels, too, are only divided, without a mean or a bias.
        eps: added to the variances.
        momentum: weight of a batch in the running statistics; the first batches count alike.

    Statistics are those of the batch when training, else the running ones. Variances divide by the count, in the running
    statistics too. `num_batches_tracked` is the number of batches in these; a state without it, such as one of an older
    version, counts as one of many batches.
    """

    def __init__(self, irreps, scaling_only: bool = False, eps: float = 1e-5, momentum: float = 0.1, device=None, dtype=None):
        super().__init__(irreps, scaling_only, eps, device, dtype)
        self.momentum = momentum
        self.register_buffer("running_mean", None if self.bias is None else torch.zeros_like(self.bias.detach()))
        self.register_buffer("running_var", torch.ones_like(self.weight.detach()))
        self.register_buffer("num_batches_tracked", torch.tensor(0, device=device))

    def _normalised(self, x):
        if not self.training:
            return self._by(x, _wide(self.running_mean), _wide(self.running_var), False)
        mean, var = self._statistics(x)
        self._track(mean, var)
        return self._by(x, mean, var, True)

    @torch.no_grad()
    def _track(self, mean, var):
        self.num_batches_tracked += 1
        # A tensor, since compilers would have to know a number.
        weight = (1.0 / self.num_batches_tracked.to(var.dtype)).clamp(min=self.momentum)
        self.running_var.copy_(_wide(self.running_var).lerp(var, weight))
        if self._shifted:
            self.running_mean.copy_(_wide(self.running_mean).lerp(mean, weight))

    def _load_from_state_dict(self, state, prefix, *others):
        if prefix + "running_var" in state:
            state.setdefault(prefix + "num_batches_tracked", torch.tensor(_MANY_BATCHES))
        super()._load_from_state_dict(state, prefix, *others)


class FieldInstanceNorm(_FieldNorm):
    """A `FieldBatchNorm` by the statistics of each item of a batch alone, when training and when not.

    Args:
        irreps: type of the fields.
        scaling_only: whether invariant channels, too, are only divided, without a mean or a bias.
        eps: added to the variances.
    """

    def __init__(self, irreps, scaling_only: bool = False, eps: float = 1e-5, device=None, dtype=None):
        super().__init__(irreps, scaling_only, eps, device, dtype)

    def _normalised(self, x):
        return torch.cat([self._by(item, *self._statistics(item), True) for item in x.split(1)])


class FieldDropout(nn.Module):
    """Drops whole fields, all components and voxels together, when training; what is kept is divided by the share kept."""

    def __init__(self, irreps, p: float = 0.1):
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"p: expected a probability from 0 to below 1, found {p}")
        self.irreps, self.p = Irreps(irreps), p
        self._fields = _fields_of_channels(self.irreps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The field, with some fields zero."""
        _check("FieldDropout", x, self.irreps)
        if not self.training or self.p == 0.0:
            return x
        kept = x.new_empty(x.shape[0], self.irreps.num_fields).bernoulli_(1.0 - self.p) / (1.0 - self.p)
        index = torch.tensor(self._fields, device=x.device)
        return x * kept.index_select(1, index)[:, :, None, None, None]

    def extra_repr(self):
        return f"{self.irreps}, p={self.p}"


class _Gaussian(nn.Module):
    def __init__(self, stride: int = 2, sigma: float | None = None):
        super().__init__()
        self.stride = stride = count("stride", stride, 1)
        self.sigma = 0.6 * stride if sigma is None else sigma
        _native.gaussian_filter(1, stride, self.sigma)

    def _check(self, x):
        if x.dim() != 5:
            raise ValueError(f"{type(self).__name__}: expected a tensor N,C,D,H,W, found shape {tuple(x.shape)}")

    def _filter(self, x, axis, size):
        """The filter along an axis of `size` voxels, the step, and the voxels that it reaches beyond either end."""
        taps, start = _native.gaussian_filter(size, self.stride, self.sigma)
        after = (size - 1) // self.stride * self.stride + start + len(taps) - size
        shape, step = [1, 1, 1], [1, 1, 1]
        shape[axis - 2], step[axis - 2] = len(taps), self.stride
        return x.new_tensor(taps).view(1, 1, *shape), step, (-start, after)

    def extra_repr(self):
        return f"stride={self.stride}, sigma={self.sigma}"


class GaussianPool(_Gaussian):
    """Antialiased subsampling: a Gaussian blur, then every `stride`-th voxel, symmetric about the centre.

    `sigma` is the width of the Gaussian in voxels, 0.6 strides if left out. Works on fields of any type, and commutes with the
    rotations of the cube.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The pooled field N,C,D',H',W', D' = (D - 1) // stride + 1."""
        self._check(x)
        return self._pooled(_wide(x)).to(x.dtype)

    def _pooled(self, x):
        if _native_fits(x):
            return _pool(x, self.stride, self.sigma)
        for axis in (2, 3, 4):
            x = self._along(x, axis)
        return x

    def _along(self, x, axis):
        filter, step, reach = self._filter(x, axis, x.shape[axis])
        padding = [0] * 6
        padding[2 * (4 - axis) : 2 * (4 - axis) + 2] = reach
        flat = functional.pad(x, padding).flatten(0, 1)[:, None]
        return functional.conv3d(flat, filter, stride=step).unflatten(0, x.shape[:2])[:, :, 0]


class GaussianUpsample(_Gaussian):
    """The way back to the grid that a `GaussianPool` of this `stride` and `sigma` was given: stride³ times its adjoint.

    Away from the border a constant field stays constant to 0.5 %. Works on fields of any type, and commutes with the rotations of
    the cube.
    """

    def forward(self, x: torch.Tensor, size) -> torch.Tensor:
        """The field N,C,D,H,W on a grid of `size` = D,H,W for one N,C,D',H',W' with D' = (D - 1) // stride + 1."""
        self._check(x)
        expected = [(n - 1) // self.stride + 1 for n in size]
        if list(x.shape[2:]) != expected:
            found = list(x.shape[2:])
            raise ValueError(f"GaussianUpsample: expected a grid of {expected} for {list(size)}, found {found}")
        return self._risen(_wide(x), size).to(x.dtype)

    def _risen(self, x, size):
        if _native_fits(x):
            return _pool_gradient(x, [*x.shape[:2], *size], self.stride, self.sigma) * self.stride**3
        for axis in (2, 3, 4):
            x = self._along(x, axis, size[axis - 2])
        return x

    def _along(self, x, axis, size):
        filter, step, (before, _) = self._filter(x, axis, size)
        risen = functional.conv_transpose3d(x.flatten(0, 1)[:, None], self.stride * filter, stride=step)
        return risen.narrow(axis, before, size).unflatten(0, x.shape[:2])[:, :, 0]


class InvariantPool(nn.Module):
    """Mean over space of a field of scalars and pseudoscalars: N,C,D,H,W to N,C."""

    def __init__(self, irreps):
        super().__init__()
        self.irreps = Irreps(irreps)
        if any(dim > 1 for _, dim, _ in self.irreps.fields):
            raise ValueError(f"irreps: expected scalars and pseudoscalars only, such as 64x0, found {self.irreps}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The means of the channels."""
        _check("InvariantPool", x, self.irreps)
        return x.mean((2, 3, 4))


def _norm(irreps, config):
    layer = FieldInstanceNorm if config.get("norm") == "instance" else FieldBatchNorm
    return layer(irreps, config["keep_zero"])


class _Layer(nn.Module):
    """Convolution, norm, nonlinearity, pool and dropout."""

    def __init__(self, given, fields, size, stride, config):
        super().__init__()
        if config["nonlinearity"] == "gate":
            self.nonlinearity = Gate(fields)
            middle, self.irreps_out = self.nonlinearity.irreps_in, self.nonlinearity.irreps_out
        else:
            middle = self.irreps_out = Irreps(fields)
            self.nonlinearity = NormNonlinearity(middle)
        shortest = min(config["voxel_size"])
        voxel_size = [edge / shortest for edge in config["voxel_size"]]
        self.conv = SteerableConv3d(given, middle, size, voxel_size=voxel_size, family=config["kernel"])
        self.norm = _norm(middle, config)
        self.pool = GaussianPool(stride) if stride > 1 else nn.Identity()
        self.dropout = FieldDropout(self.irreps_out, config["dropout"])

    def forward(self, x):
        return self.dropout(self.pool(self.nonlinearity(self.norm(self.conv(x)))))


def _pointwise(layer, given, out, **options):
    return layer(given, out, 1, family="gaussian_shells", **options)


class _Skip(SteerableConv3d):
    """The way past the layers of a residual block to another type or grid: a linear map of each voxel, and a norm."""

    def normalised(self, config):
        self.norm = _norm(self.irreps_out, config)
        return self

    def forward(self, x):
        return self.norm(super().forward(x))


class _Residual(nn.Module):
    """Two layers, and what they are given."""

    def __init__(self, given, block, stride, config):
        super().__init__()
        first = _Layer(given, block.get("hidden") or block["fields"], block["size"], stride, config)
        last = _Layer(first.irreps_out, block["fields"], block["size"], 1, config)
        self.layers = nn.Sequential(first, last)
        self.irreps_out = last.irreps_out
        self.pool = GaussianPool(stride) if stride > 1 else nn.Identity()
        changes = stride > 1 or given != self.irreps_out
        self.skip = _pointwise(_Skip, given, self.irreps_out).normalised(config) if changes else nn.Identity()

    def forward(self, x):
        return self.skip(self.pool(x)) + self.layers(x)


def _block(given, block, config):
    """The module of a block, which may be several, and the type that it gives."""
    parts = []
    for repeat in range(block.get("repeat", 1)):
        stride = block["stride"] if repeat == 0 else 1
        if block.get("residual"):
            parts.append(_Residual(given, block, stride, config))
        else:
            parts.append(_Layer(given, block["fields"], block["size"], stride, config))
        given = parts[-1].irreps_out
    return (parts[0] if len(parts) == 1 else nn.Sequential(*parts)), given


def _beside(a, b):
    """The type of the channels of a field and then those of another; blocks of one irrep that meet are one."""
    blocks = [(mul, irrep) for mul, irrep, _ in a.blocks]
    rest = [(mul, irrep) for mul, irrep, _ in b.blocks]
    if blocks and rest and blocks[-1][1] == rest[0][1]:
        blocks[-1] = (blocks[-1][0] + rest.pop(0)[0], blocks[-1][1])
    return Irreps("+".join(f"{mul}x{irrep}" for mul, irrep in blocks + rest))


class _Head(nn.Module):
    """A linear layer whose weight is (inputs, outputs), as in a model file."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class SteerableNetwork(nn.Module):
    """A steerable network of a model file: blocks, residual or not, the way up of a U-Net, and a head.

    `card` is the card of the file. Volumes N,C,D,H,W give logits or values (N, K), with a head of voxels logits (N, K, D, H, W),
    with one of a field that is not pooled this field (N, C', D, H, W).
    """

    def __init__(self, card: dict):
        super().__init__()
        config = card["model"]
        unlike = _unlike(config)
        if unlike:
            expected = "a steerable network of the group so3, of gates or norm nonlinearities"
            raise Steer3dError(f"model: expected {expected}, found {unlike}; steer3d.load computes other networks")
        self.card, self.input_scale = card, config["input_scale"]
        self.irreps_in = given = Irreps(config["input"])
        self.blocks, self.decoder = nn.ModuleList(), nn.ModuleList()
        # The strides on the way down, and what was given to the blocks that have them.
        strided = []
        for block in config["blocks"]:
            if block["stride"] > 1:
                strided.append((block["stride"], given))
            module, given = _block(given, block, config)
            self.blocks.append(module)
        self._strides = [block["stride"] for block in config["blocks"]]
        self.upsamples, levels = nn.ModuleList(), []
        for block in config.get("decoder", []):
            levels.append(given)
            stride, beside = strided.pop()
            self.upsamples.append(GaussianUpsample(stride))
            module, given = _block(_beside(given, beside), block, config)
            self.decoder.append(module)
        head = config.get("head", "classes")
        self.head_norm = FieldBatchNorm(given, eps=1e-2) if config["head_norm"] else None
        if head in ("classes", "scalars"):
            self._pooled, self.head = True, _Head(given.dim, config["classes"])
            return
        scalar = "0e" if str(given).endswith(("e", "o")) else "0"
        field = {} if head == "voxels" else head["field"]
        self._pooled, out = field.get("pooled", False), field.get("irreps", f"{config['classes']}x{scalar}")
        self.head = _pointwise(SteerableConv3d, given, out, bias=True)
        if config.get("deep_supervision"):
            heads = [_pointwise(SteerableConv3d, level, out, bias=True) for level in levels[1:]]
            self.supervision = nn.ModuleList(heads)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the head is given: the means (N, F) of the last block's channels, or its field where the head is not pooled."""
        return self._run(x, [])[0]

    def forward_supervised(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What `forward` gives and, with deep supervision, what the heads of the decoder's blocks give on the same grid, finest
        first."""
        x, levels = self._run(x, getattr(self, "supervision", []))
        return [self._answer(x), *reversed(levels)]

    def _run(self, x, heads):
        """What the head is given, and what `heads` give for the blocks of the decoder."""
        x, kept, levels = x * self.input_scale, [], []
        for stride, block in zip(self._strides, self.blocks):
            if stride > 1:
                kept.append(x)
            x = block(x)
        for i, (upsample, block) in enumerate(zip(self.upsamples, self.decoder)):
            before = kept.pop()
            if 0 < i <= len(heads):
                levels.append(heads[i - 1](x))
            levels = [upsample(level, before.shape[2:]) for level in levels]
            x = block(torch.cat([upsample(x, before.shape[2:]), before], 1))
        return x.mean((2, 3, 4)) if self._pooled else x, levels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, values or fields of volumes."""
        return self._answer(self.features(x))

    def _answer(self, x):
        if self.head_norm is not None:
            x = _voxelwise(self.head_norm, x)
        return _voxelwise(self.head, x) if self._pooled and not isinstance(self.head, _Head) else self.head(x)


def _voxelwise(layer, x):
    """What a layer of fields makes of vectors N,C."""
    return layer(x[:, :, None, None, None])[:, :, 0, 0, 0]


def _unlike(config):
    """What a `SteerableNetwork` cannot be."""
    if config.get("kind") != "steerable":
        return f"a network of kind {config.get('kind')}"
    if config.get("group", "so3") != "so3":
        return f"one of the group {config['group']}"
    if config.get("norm", "batch") not in ("batch", "instance"):
        return f"the norm {config['norm']}"
    if config["nonlinearity"] not in ("gate", "norm"):
        return f"the nonlinearity {config['nonlinearity']}"
    return None


def load_steer3d(model) -> SteerableNetwork:
    """The network of a model file (.safetensors), a name of `steer3d.builtin_models` or a `steer3d.Model`, with its weights.

    Its running statistics count as those of many batches. Raises `Steer3dError` for a network that is no `SteerableNetwork`.
    """
    stored = _stored(model)
    network = SteerableNetwork(json.loads(stored.card()))
    weights = {name: torch.from_numpy(values) for name, values in stored.tensors()}
    network.load_state_dict(weights)
    return network.eval()


def _stored(model):
    """The card and tensors of a model; those of a file whatever its head gives."""
    if isinstance(model, Model):
        return model._model
    path = os.fspath(model)
    return _native.Network(path) if os.path.isfile(path) else _native.Model(path)


def save_steer3d(network: SteerableNetwork, path) -> None:
    """Writes a network as a model file, which `steer3d predict`, `steer3d eval` and `load` take."""
    if not isinstance(network, SteerableNetwork):
        raise TypeError(f"network: expected a SteerableNetwork, found {type(network).__name__}")
    state = network.state_dict().items()
    tensors = [(name, np.ascontiguousarray(value.detach().cpu().float().numpy())) for name, value in state]
    _native.save_model(os.fspath(path), json.dumps(network.card), tensors)


def irreps_of_escnn(field_type) -> Irreps:
    """The irreps of a `FieldType` of escnn over SO(3) or O(3), whose fields are irreps or direct sums of irreps.

    Channels keep their order: neighbouring fields of one irrep are one term. Bases are not compared: for l > 0 those of escnn
    are others, so that fields cannot be taken over as they are.

    Raises `TypeError` for what is no field type, and `ValueError` for another group or a field in another basis than that of
    irreps, such as a tensor product.
    """
    try:
        group, fields = field_type.fibergroup.name, field_type.representations
    except AttributeError as error:
        raise TypeError(f"field_type: expected a FieldType of escnn, found {type(field_type).__name__}") from error
    if group not in ("SO(3)", "O(3)"):
        known = "gspaces.rot3dOnR3() or gspaces.flipRot3dOnR3()"
        raise ValueError(f"field_type: expected fields of SO(3) or O(3), found some of {group}; take {known}")
    irreps = [_irrep_of_escnn(name) for field in fields for name in _irreps_of_field(field)]
    return Irreps("+".join(f"{len(list(same))}x{irrep}" for irrep, same in itertools.groupby(irreps)))


def _irreps_of_field(field):
    if not np.allclose(field.change_of_basis, np.eye(field.size)):
        problem = "expected irreps or direct sums of them"
        raise ValueError(f"field_type: {problem}, found {field.name}, which has another basis; take its irreps instead")
    return field.irreps


def _irrep_of_escnn(name):
    """The irrep of a name (l,) of SO(3), or (j, l) of O(3), where j = 1 is odd under the inversion."""
    *odd, l = name
    return f"{l}{'eo'[odd[0]]}" if odd else f"{l}"
