import io
import pickle

import numpy as np
import pytest

import steer3d
from steer3d import _native

torch = pytest.importorskip("torch")
layers = pytest.importorskip("steer3d.torch")

IN, OUT = "2x0+2x1", "2x0+1x1+1x2"


def field(irreps, size=6, dtype=torch.float64, n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, steer3d.Irreps(irreps).dim, size, size, size, generator=generator, dtype=dtype)


def conv(path="separable", dtype=torch.float64, **options):
    torch.manual_seed(1)
    return layers.SteerableConv3d(IN, OUT, 5, path=path, dtype=dtype, **options)


def every_layer(dtype=torch.float64):
    """Layers, and the type of their input."""
    torch.manual_seed(0)
    norm = layers.FieldBatchNorm(OUT, dtype=dtype)
    norm.weight.data.uniform_(0.5, 1.5)
    relu = layers.NormNonlinearity(OUT, dtype=dtype)
    relu.bias.data.uniform_(-0.5, 0.5)
    return {
        "conv": (conv(dtype=dtype, bias=True), IN),
        "strided": (conv(dtype=dtype, stride=2), IN),
        "dense": (conv("dense", dtype=dtype, bias=True), IN),
        "shells": (layers.SteerableConv3d(IN, OUT, 3, family="gaussian_shells", dtype=dtype), IN),
        "gate": (layers.Gate(OUT), str(layers.Gate(OUT).irreps_in)),
        "norm nonlinearity": (relu, OUT),
        "batch norm": (norm, OUT),
        "batch norm, running": (layers.FieldBatchNorm(OUT, dtype=dtype).eval(), OUT),
        "batch norm, scaling": (layers.FieldBatchNorm(OUT, scaling_only=True, dtype=dtype), OUT),
        "dropout": (layers.FieldDropout(OUT, 0.3).eval(), OUT),
        "pool": (layers.GaussianPool(2), OUT),
        "invariant pool": (layers.InvariantPool("5x0"), "5x0"),
    }


@pytest.mark.parametrize("name", every_layer())
def test_gradients(name):
    layer, irreps = every_layer()[name]
    x = field(irreps, 3, n=1).requires_grad_()
    parameters = [p for p in layer.parameters()]
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *parameters))


@pytest.mark.parametrize("stride", [1, 2])
def test_same_bits_as_the_rust_layer(stride):
    rust = _native.RustLayer(IN, OUT, 5, 3, stride, 7)
    layer = conv(dtype=torch.float32, stride=stride)
    layer.weight.data = torch.from_numpy(rust.weight())
    x = field(IN, 9, torch.float32).requires_grad_()
    out = layer(x)
    assert np.array_equal(out.detach().numpy(), rust.forward(x.detach().numpy()))
    out.square().sum().backward()
    of_x, of_weight = rust.gradients(x.detach().numpy())
    assert np.array_equal(x.grad.numpy(), of_x)
    assert np.array_equal(layer.weight.grad.numpy(), of_weight)


def test_both_paths_agree():
    a, b = conv(bias=True), conv("dense", bias=True)
    b.load_state_dict(a.state_dict())
    a.bias.data.fill_(0.3)
    b.bias.data.fill_(0.3)
    assert torch.allclose(a(field(IN)), b(field(IN)), atol=1e-12)
    scaled = layers.FieldBatchNorm(OUT, scaling_only=True, dtype=torch.float64)
    known = every_layer()
    for layer, irreps in (*(known[name] for name in ("gate", "norm nonlinearity", "batch norm", "pool")), (scaled, OUT)):
        x = field(irreps)
        ours = layer(x)
        fits, layers._native_fits = layers._native_fits, lambda x: False
        try:
            assert torch.allclose(layer(x), ours, atol=1e-12)
        finally:
            layers._native_fits = fits


def cube_rotations():
    """Rotations of the cube, and as a map of arrays N,C,D,H,W."""
    for matrix in steer3d.point_group("cube"):
        yield matrix, lambda x, irreps, matrix=matrix: turned(x, irreps, matrix)


def turned(x, irreps, matrix):
    irreps = steer3d.Irreps(irreps)
    n = x.shape[-1]
    axis = np.arange(n) - (n - 1) / 2
    z, y, x_ = np.meshgrid(axis, axis, axis, indexing="ij")
    source = np.stack([x_, y, z], -1) @ matrix
    index = np.rint(source + (n - 1) / 2).astype(int)
    moved = x[:, :, index[..., 2], index[..., 1], index[..., 0]]
    parts = []
    for start, dim, _ in irreps.fields:
        d = torch.from_numpy(steer3d.wigner_d((dim - 1) // 2, matrix)).to(x.dtype)
        parts.append(torch.einsum("ab,nbzyx->nazyx", d, moved[:, start : start + dim]))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("name", ["conv", "shells", "gate", "norm nonlinearity", "batch norm", "pool"])
def test_layers_commute_with_the_rotations_of_the_cube(name):
    layer, irreps = every_layer()[name]
    layer.eval()
    out = {"conv": OUT, "shells": OUT, "gate": str(layers.Gate(OUT).irreps_out)}.get(name, irreps)
    x = field(irreps, 6, n=1)
    for matrix in steer3d.point_group("cube"):
        with torch.no_grad():
            assert torch.allclose(layer(turned(x, irreps, matrix)), turned(layer(x), out, matrix), atol=1e-12)


def test_double_backward_is_refused():
    layer, x = conv(), field(IN).requires_grad_()
    grad = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="gradients of gradients"):
        grad.sum().backward()
    dense = conv("dense")
    grad = torch.autograd.grad(dense(x).square().sum(), x, create_graph=True)[0]
    grad.sum().backward()


def test_state_and_pickles():
    layer, x = conv(bias=True), field(IN)
    other = conv(bias=True)
    other.weight.data.zero_()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    layer.filter()
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), layer(x))
    for layer, irreps in every_layer().values():
        again = pickle.loads(pickle.dumps(layer)).eval()
        assert torch.equal(again(field(irreps)), layer.eval()(field(irreps)))


def test_operations_are_opaque():
    x, layer = field(IN, 5, torch.float32), conv(dtype=torch.float32)
    arguments = (x, layer.weight, None, layer.kernel, layer.irreps_out.dim, 1)
    torch.library.opcheck(layers._conv.default, arguments, test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), layer(x))


def test_batch_norm_counts_the_first_batches_alike():
    norm = layers.FieldBatchNorm(OUT)
    a, b = field(OUT, dtype=torch.float32), field(OUT, dtype=torch.float32, seed=1)
    mean, var = (sum(values) / 2 for values in zip(norm._statistics(a), norm._statistics(b)))
    norm(a)
    norm(b)
    assert torch.allclose(norm.running_var, var)
    assert torch.allclose(norm.running_mean, mean, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in steer3d.builtin_models() if name != "secondary-structure"])
def test_model_files(name, tmp_path):
    model, network = steer3d.load(name), layers.load_steer3d(name)
    x = torch.rand(2, 1, *model.card["dims"])
    with torch.no_grad():
        difference = np.abs(network(x).numpy() - model(x)).max()
    assert difference < 1e-4 * np.abs(model(x)).max()
    layers.save_steer3d(network, tmp_path / "model.safetensors")
    assert np.array_equal(steer3d.load(tmp_path / "model.safetensors")(x), model(x))


def test_a_network_that_labels_voxels_is_refused():
    with pytest.raises(steer3d.Steer3dError):
        layers.load_steer3d("secondary-structure")


def test_a_module_is_measured(data, protocol):
    network = torch.nn.Sequential(layers.SteerableConv3d("1x0", "2x0", 3), layers.InvariantPool("2x0"))
    report = steer3d.evaluate(network, data, protocol, name="mine", progress=False)
    assert report.value("consistency", "cube", model="mine") == 1.0
    assert network.training


BAD = [
    (lambda: layers.SteerableConv3d("1x0", "1x1", 4), ValueError, "odd"),
    (lambda: layers.SteerableConv3d("1x", "1x1", 5), ValueError, "irreps"),
    (lambda: layers.SteerableConv3d("1x0", "1x1", 5, path="fast"), ValueError, "separable"),
    (lambda: layers.SteerableConv3d("1x0", "1x1", 5, stride=0), ValueError, "stride"),
    (lambda: layers.SteerableConv3d("1x0", "1x1", 5, path="separable", family="gaussian_shells"), ValueError, "jets"),
    (lambda: conv()(field("1x0")), ValueError, "8 channels"),
    (lambda: conv()(field(IN)[0]), ValueError, "N,C,D,H,W"),
    (lambda: conv()(field(IN).float()), TypeError, "float64"),
    (lambda: conv()(field(IN).long()), TypeError, "floating"),
    (lambda: conv()(field(IN).numpy()), TypeError, "tensor"),
    (lambda: conv()(field(IN).to("meta")), ValueError, "meta"),
    (lambda: layers.InvariantPool("1x1"), ValueError, "64x0"),
    (lambda: layers.FieldDropout("1x1", 1.0), ValueError, "probability"),
    (lambda: layers.GaussianPool(0), ValueError, "stride"),
    (lambda: layers.GaussianPool(2, -1.0), ValueError, "sigma"),
    (lambda: layers.Gate("1x0")(field("2x0")), ValueError, "1 channels"),
    (lambda: layers.save_steer3d(conv(), "x"), TypeError, "SteerableNetwork"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, kind, text = BAD[case]
    with pytest.raises(kind, match=text):
        call()


def test_memory_that_is_not_contiguous():
    x = field(IN).permute(0, 1, 4, 3, 2)
    assert torch.equal(conv()(x), conv()(x.contiguous()))
    y = x.detach().clone(memory_format=torch.channels_last_3d)
    assert torch.equal(conv()(y), conv()(x.contiguous()))
