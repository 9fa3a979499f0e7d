import copy
import importlib.util
import io
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import steer3d
from steer3d import _native

torch = pytest.importorskip("torch")
layers = pytest.importorskip("steer3d.torch")

IN, OUT = "2x0+2x1", "2x0+1x1+1x2"
EXAMPLES = Path(__file__).parents[3] / "examples/python"


def field(irreps, size=6, dtype=torch.float64, n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, steer3d.Irreps(irreps).dim, size, size, size, generator=generator, dtype=dtype)


def conv(path="separable", dtype=torch.float64, **options):
    torch.manual_seed(1)
    return layers.SteerableConv3d(IN, OUT, 5, path=path, dtype=dtype, **options)


class Risen(layers.GaussianUpsample):
    """The up-sampling to twice the grid less one."""

    def forward(self, x, size=None):
        return super().forward(x, [2 * n - 1 for n in x.shape[2:]])


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
        "instance norm": (layers.FieldInstanceNorm(OUT, dtype=dtype), OUT),
        "dropout": (layers.FieldDropout(OUT, 0.3).eval(), OUT),
        "pool": (layers.GaussianPool(2), OUT),
        "upsample": (Risen(2), OUT),
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
    known = every_layer()
    norms = "batch norm", "batch norm, running", "batch norm, scaling", "instance norm"
    for layer, irreps in (known[name] for name in ("gate", "norm nonlinearity", "pool", "upsample", *norms)):
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


@pytest.mark.parametrize(
    "name", ["conv", "shells", "gate", "norm nonlinearity", "batch norm", "instance norm", "pool", "upsample"]
)
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
    assert torch.autograd.gradgradcheck(layers.GaussianPool(2), (field("1x0", 3, n=1).requires_grad_(),))


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


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_networks_train_alike(backend):
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    torch.manual_seed(0)
    network = small_network()
    compiled = torch.compile(copy.deepcopy(network), backend=backend, fullgraph=True)
    x = torch.randn(2, 1, 7, 7, 7)
    for module in (network, compiled):
        module.train()(x).square().sum().backward()
    for (name, a), b in zip(network.named_buffers(), compiled.buffers()):
        assert torch.allclose(a, b, rtol=1e-4), name
    for (name, a), b in zip(network.named_parameters(), compiled.parameters()):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-5 * float(a.grad.abs().max())), name


def test_batch_norm_counts_the_first_batches_alike():
    norm = layers.FieldBatchNorm(OUT)
    a, b = field(OUT, dtype=torch.float32), field(OUT, dtype=torch.float32, seed=1)
    mean, var = (sum(values) / 2 for values in zip(norm._statistics(a), norm._statistics(b)))
    norm(a)
    norm(b)
    assert torch.allclose(norm.running_var, var)
    assert torch.allclose(norm.running_mean, mean, atol=1e-6)


def test_running_statistics_go_on_where_they_were():
    norm, x = layers.FieldBatchNorm(OUT), field(OUT, dtype=torch.float32)
    for _ in range(3):
        norm(x)
    old = {name: value for name, value in norm.state_dict().items() if name != "num_batches_tracked"}
    for state, weight in ((norm.state_dict(), 1 / 4), (old, 0.1)):
        again = layers.FieldBatchNorm(OUT)
        again.load_state_dict(state)
        before, var = again.running_var.clone(), again._statistics(10 * x)[1]
        again(10 * x)
        assert torch.allclose(again.running_var, before.lerp(var, weight))
    network = layers.load_steer3d("adrenal")
    norms = [module for module in network.modules() if isinstance(module, layers.FieldBatchNorm)]
    before = [norm.running_var.clone() for norm in norms]
    network.train()(torch.rand(2, 1, 9, 9, 9))
    for norm, var in zip(norms, before):
        assert (norm.running_var / var).min() > 0.89


def test_an_instance_norm_is_a_batch_norm_of_each_item():
    norm, batch = layers.FieldInstanceNorm(OUT, dtype=torch.float64), layers.FieldBatchNorm(OUT, dtype=torch.float64)
    for layer in (norm, batch):
        layer.weight.data = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)
        layer.bias.data = torch.tensor([0.3, -0.2], dtype=torch.float64)
    x = field(OUT)
    expected = torch.cat([batch(item) for item in x.split(1)])
    assert torch.allclose(norm(x), expected, atol=1e-12)
    assert torch.equal(norm.eval()(x), norm.train()(x))


def mixed_network(path):
    """A network of every layer, trained on nothing."""
    torch.manual_seed(0)
    gate = layers.Gate("2x0+2x1")
    return torch.nn.Sequential(
        layers.SteerableConv3d("1x0", gate.irreps_in, 3, bias=True, path=path),
        layers.FieldBatchNorm(gate.irreps_in),
        gate,
        layers.GaussianPool(2),
        layers.SteerableConv3d("2x0+2x1", "4x0+1x1", 3, path=path),
        Risen(2),
        layers.FieldInstanceNorm("4x0+1x1"),
        layers.NormNonlinearity("4x0+1x1"),
        layers.FieldDropout("4x0+1x1", 0.0),
        layers.SteerableConv3d("4x0+1x1", "4x0", 3, path=path),
        layers.InvariantPool("4x0"),
        torch.nn.Linear(4, 2),
    )


def answered(network, x, **autocast):
    """The answers of a network and the gradients of their squares, in one row each, in float32."""
    with torch.autocast("cpu", **autocast):
        answer = network(x)
    answer.float().square().sum().backward()
    return answer, torch.cat([parameter.grad.float().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("path", ["separable", "dense"])
def test_mixed_precision(path, dtype):
    x = torch.randn(3, 1, 9, 9, 9, generator=torch.Generator().manual_seed(0))
    expected = answered(mixed_network(path), x, enabled=False)
    mixed, narrow = mixed_network(path), mixed_network(path).to(dtype)
    found = answered(mixed, x, dtype=dtype)
    assert {parameter.dtype for parameter in mixed.parameters()} == {torch.float32}
    narrowly = answered(narrow, x.to(dtype), enabled=False)
    assert {tensor.dtype for tensor in narrow.state_dict().values()} == {dtype, torch.int64}
    assert narrowly[0].dtype == dtype
    for results in (found, narrowly):
        for a, b in zip(results, expected):
            assert (a.float() - b).norm() < 0.1 * b.norm()
    narrow.eval()(x.to(dtype))


def test_layers_keep_the_narrow_type():
    for name, (layer, irreps) in every_layer(torch.bfloat16).items():
        x = field(irreps, 5, torch.bfloat16)
        wide = copy.deepcopy(layer).float()(x.float())
        found = layer(x)
        assert found.dtype == torch.bfloat16, name
        assert (found.float() - wide).abs().max() <= 0.02 * wide.abs().max(), name


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_networks_under_autocast(backend):
    network, x = mixed_network("dense").eval(), torch.randn(1, 1, 9, 9, 9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        # The first call makes the bases of the kernels.
        expected = network(x)
        found = torch.compile(network, backend=backend, fullgraph=True)(x)
    assert torch.allclose(found, expected, atol=0.01)


def close(network, model, x):
    """Whether a module gives what a model of the Rust libraries does, features too."""
    with torch.no_grad():
        for found, expected in zip((network.features(x).numpy(), network(x).numpy()), model.forward(x.numpy())):
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", steer3d.builtin_models())
def test_model_files(name, tmp_path):
    model, network = steer3d.load(name), layers.load_steer3d(name)
    x = torch.rand(2, 1, *(min(n, 25) for n in model.card["dims"]))
    close(network, model._model, x)
    layers.save_steer3d(network, tmp_path / "model.safetensors")
    assert np.array_equal(steer3d.load(tmp_path / "model.safetensors")(x), model(x))


def block(fields, stride=1, **options):
    return {"fields": fields, "size": 3, "stride": stride, **options}


NETWORKS = {
    "residual": {
        "blocks": [
            block("2x0+2x1"),
            block("2x0+2x1", residual=True, repeat=2),
            block("2x1+3x0+1x2", 2, residual=True, hidden="2x0+1x1+1x2"),
            block("6x0", residual=True),
        ],
        "head_norm": True,
    },
    "U-Net": {
        "blocks": [block("2x0+1x1"), block("2x0+2x1", 2), block("4x0+2x1+1x2", 2), block("4x0+1x1", repeat=2)],
        "decoder": [block("2x0+2x1", residual=True), block("3x0+1x1")],
        "deep_supervision": True,
        "head": "voxels",
    },
    "half a U-Net": {
        "blocks": [block("2x0+1x1", 2), block("2x0+2x1", 3)],
        "decoder": [block("3x0+2x1")],
        "head": "voxels",
        "nonlinearity": "norm",
    },
    "vector": {"blocks": [block("3x0+2x1", 2)], "head": {"field": {"irreps": "2x1", "pooled": True}}},
    "field": {"blocks": [block("3x0+2x1", 2)], "decoder": [block("3x0+1x1")], "head": {"field": {"irreps": "1x0+1x1"}}},
    "instance norm": {"blocks": [block("2x0+1x1", 2), block("4x0+1x1", residual=True), block("4x0")], "norm": "instance"},
    "instance norm, kept zero": {"blocks": [block("2x0+1x1"), block("4x0")], "norm": "instance", "keep_zero": True},
    "mirrors": {"input": "1x0e", "blocks": [block("2x0e+1x0o+2x1o", 2), block("2x0e+1x0o")]},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_every_form(name, tmp_path):
    changes = NETWORKS[name]
    card = copy.deepcopy(steer3d.load("adrenal").card)
    classes = 0 if isinstance(changes.get("head"), dict) else 3
    card["model"].update({"classes": classes, "dropout": 0.2, **changes})
    torch.manual_seed(3)
    network = layers.SteerableNetwork(card)
    for _ in range(3):
        network(torch.rand(2, 1, 9, 9, 9))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    layers.save_steer3d(network.eval(), tmp_path / "model.safetensors")
    model = _native.Network(tmp_path / "model.safetensors")
    for size in ((9, 9, 9), (8, 10, 7)):
        close(network, model, torch.rand(2, 1, *size))
    answers = network.forward_supervised(x := torch.rand(2, 1, 9, 8, 10))
    assert torch.equal(answers[0], network(x))
    assert [answer.shape for answer in answers[1:]] == [answers[0].shape] * bool(changes.get("deep_supervision"))
    again = layers.load_steer3d(tmp_path / "model.safetensors")
    x = torch.rand(1, 1, 8, 9, 10)
    assert torch.equal(again(x), network(x))


def test_other_networks_are_refused():
    card = copy.deepcopy(steer3d.load("adrenal").card)
    card["model"]["nonlinearity"] = "sphere"
    with pytest.raises(steer3d.Steer3dError, match="sphere"):
        layers.SteerableNetwork(card)
    with pytest.raises(steer3d.Steer3dError, match="plain"):
        layers.SteerableNetwork({"model": {"kind": "plain"}})
    card["model"].update({"nonlinearity": "gate", "group": "so2"})
    with pytest.raises(steer3d.Steer3dError, match="group so3.*found one of the group so2"):
        layers.SteerableNetwork(card)
    card["model"].update({"group": "so3", "norm": "layer"})
    with pytest.raises(steer3d.Steer3dError, match="norm layer"):
        layers.SteerableNetwork(card)


def test_a_module_is_measured(data, protocol):
    network = torch.nn.Sequential(layers.SteerableConv3d("1x0", "2x0", 3), layers.InvariantPool("2x0"))
    report = steer3d.evaluate(network, data, protocol, name="mine", progress=False)
    assert report.value("consistency", "cube", model="mine") == 1.0
    assert network.training


def small_network():
    gate = layers.Gate("2x0+2x1")
    return torch.nn.Sequential(
        layers.SteerableConv3d("1x0", gate.irreps_in, 3, path="separable"),
        layers.FieldBatchNorm(gate.irreps_in),
        gate,
        layers.GaussianPool(2),
        layers.SteerableConv3d("2x0+2x1", "4x0", 3, path="separable"),
        layers.InvariantPool("4x0"),
        torch.nn.Linear(4, 2),
    )


@pytest.mark.parametrize("dynamo", [True, False])
def test_onnx(dynamo, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    if dynamo:
        pytest.importorskip("onnxscript")
    network = layers.load_steer3d("cath-class")
    x, path = torch.rand(2, 1, 16, 16, 16), tmp_path / "network.onnx"
    torch.onnx.export(network, (x,), path, dynamo=dynamo, input_names=["x"])
    answer = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})[0]
    expected = network(x).detach().numpy()
    assert np.abs(answer - expected).max() < 1e-4 * np.abs(expected).max()


class Items(torch.utils.data.Dataset):
    """The items of a dataset, read and turned in a worker, through a layer."""

    def __init__(self, data, layer):
        self.data, self.layer = data, layer

    def __len__(self):
        return len(self.data)

    def __getitem__(self, item):
        volume = steer3d.Volume(self.data[item].values).rotate(steer3d.random_rotations(1, seed=item)[0])
        with torch.no_grad():
            return self.layer(torch.from_numpy(volume.values)[None])[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_data_loader(data, start):
    items = Items(data, layers.SteerableConv3d("1x0", "2x0+1x1", 3, path="separable"))
    expected = torch.stack([items[i] for i in range(len(items))])
    loader = torch.utils.data.DataLoader(items, batch_size=3, num_workers=2, multiprocessing_context=start, timeout=120)
    assert torch.equal(torch.cat(list(loader)), expected)


def train_a_part(rank, network, x, meeting, out):
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    parallel = torch.nn.parallel.DistributedDataParallel(network)
    parallel(x[rank::2]).square().mean().backward()
    if rank == 0:
        torch.save([p.grad for p in network.parameters()], out)
    torch.distributed.destroy_process_group()


def test_processes_share_a_batch(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(layers.SteerableConv3d("1x0", "2x0", 3, path="separable"), layers.InvariantPool("2x0"))
    x, out = torch.randn(4, 1, 5, 5, 5), tmp_path / "gradients.pt"
    torch.multiprocessing.spawn(train_a_part, (network, x, tmp_path / "meeting", out), nprocs=2)
    network(x).square().mean().backward()
    for expected, found in zip(network.parameters(), torch.load(out)):
        assert torch.allclose(expected.grad, found, rtol=1e-5)
    replicated = torch.nn.DataParallel(network)
    assert torch.equal(replicated(x), network(x))


def test_equivariance_of_a_layer_is_that_of_the_program():
    layer = layers.SteerableConv3d("4x0+2x1+1x2", "4x0+2x1+1x2", 5, order=3)
    settings = {"size": 17, "rotations": 3, "fields": 4, "seed": 5}
    initial = steer3d.KernelBasis(layer.irreps_in, layer.irreps_out, 5, order=3).initial_weights(5)
    layer.weight.data = torch.from_numpy(initial).float()
    survey = steer3d.program(
        "equivariance", irreps=layer.irreps_in, families="jets:3", subjects="convolution", seeds=1, **settings
    )
    found, expected = steer3d.equivariance(layer, **settings), survey["measured"][0]
    for name in ("centre", "resampled", "cube"):
        assert getattr(found, name) == pytest.approx(expected[name], rel=1e-6), name
    assert found.centre < 0.01 and found.cube < 1e-5
    dense = torch.nn.Conv3d(4, 4, 3, padding=1)
    assert steer3d.equivariance(dense, "4x0", "4x0", **settings).resampled > 0.1


def field_type(group, *fields, basis=None):
    """What `irreps_of_escnn` asks of a `FieldType` of escnn; each field is the names of its irreps."""

    def field(names):
        size = sum(2 * name[-1] + 1 for name in names)
        change = np.eye(size) if basis is None else basis
        return SimpleNamespace(name=str(names), irreps=names, size=size, change_of_basis=change)

    return SimpleNamespace(fibergroup=SimpleNamespace(name=group), representations=tuple(map(field, fields)))


def test_field_types_of_escnn():
    so3 = field_type("SO(3)", *[[(0,)]] * 16, *[[(1,)]] * 8, [(2,)], [(0,), (1,)])
    assert str(layers.irreps_of_escnn(so3)) == "16x0+8x1+1x2+1x0+1x1"
    o3 = field_type("O(3)", [(0, 0)], [(1, 0)], [(1, 1)], [(1, 1)], [(0, 2)])
    assert str(layers.irreps_of_escnn(o3)) == "1x0e+1x0o+2x1o+1x2e"


def test_field_types_of_the_true_escnn():
    escnn, nn = pytest.importorskip("escnn"), pytest.importorskip("escnn.nn")
    for space, expected in ((escnn.gspaces.rot3dOnR3(), "2x0+3x1"), (escnn.gspaces.flipRot3dOnR3(), "2x0e+3x1o")):
        name = [(0,), (1,)] if expected == "2x0+3x1" else [(0, 0), (1, 1)]
        scalar, vector = (space.fibergroup.irrep(*irrep) for irrep in name)
        given = nn.FieldType(space, [scalar] * 2 + [vector] * 3)
        assert str(layers.irreps_of_escnn(given)) == expected
        with pytest.raises(ValueError, match="basis"):
            layers.irreps_of_escnn(nn.FieldType(space, [vector.tensor(vector)]))


@pytest.mark.parametrize(("name", "needs"), [("lightning_training", "lightning"), ("monai_transforms", "monai")])
def test_examples_with_other_libraries(name, needs, data, capsys):
    pytest.importorskip(needs)
    place = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(place)
    place.loader.exec_module(example)
    example.main(data.path, epochs=1)
    assert "consistency" in capsys.readouterr().out


@pytest.mark.parametrize("answers", ["voxels", "values"])
def test_a_module_that_answers_otherwise_is_measured(answers, protocol, tmp_path):
    rng = np.random.default_rng(0)
    volumes, vectors = rng.random((12, 9, 9, 9), np.float32), rng.normal(size=(12, 3))
    if answers == "voxels":
        given, out = {"voxel_labels": (volumes > 0.5).astype(np.uint8)}, "2x0"
        network = layers.SteerableConv3d("1x0", out, 3)
    else:
        given, out = {"targets": vectors, "target_irreps": "1x1"}, "1x1"
        network = torch.nn.Sequential(layers.SteerableConv3d("1x0", out, 3), Means())
    data = steer3d.write_dataset(tmp_path / "data.h5", volumes, progress=False, **given)
    report = steer3d.evaluate(network, data, protocol, answers=answers, name="mine", progress=False)
    assert set(report.results["model"]) == {"mine"}
    assert len(report.predictions["answer"]) > 0


class Means(torch.nn.Module):
    """The mean over space of every channel."""

    def forward(self, x):
        return x.mean((2, 3, 4))


BAD = [
    (lambda: layers.SteerableConv3d("1x0", "1x1", 4), ValueError, "odd"),
    (lambda: layers.SteerableConv3d("1x", "1x1", 5), ValueError, "irreps"),
    (lambda: layers.SteerableConv3d("1x0", "1x1", 5, path="fast"), ValueError, "separable"),
    (lambda: layers.SteerableConv3d("1x0", "1x1", 5, stride=0), ValueError, "stride"),
    (lambda: layers.SteerableConv3d("1x0", "1x1", -5), ValueError, "kernel_size.*-5"),
    (lambda: layers.SteerableConv3d("1x0", "1x1", 5, stride=1.5), TypeError, "stride.*whole"),
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
    (lambda: layers.GaussianPool(-2), ValueError, "stride.*-2"),
    (lambda: layers.FieldBatchNorm(IN)(field(IN, dtype=torch.bfloat16)), TypeError, "FieldBatchNorm.*autocast"),
    (lambda: layers.irreps_of_escnn("16x0"), TypeError, "field_type.*str"),
    (lambda: layers.irreps_of_escnn(field_type("SO(2)", [(0,), (1,)])), ValueError, "SO.2"),
    (lambda: layers.irreps_of_escnn(field_type("SO(3)", [(0,), (1,)], basis=-np.eye(4))), ValueError, "basis"),
    (lambda: layers.GaussianPool(2, -1.0), ValueError, "sigma"),
    (lambda: layers.GaussianUpsample(2)(field("1x0"), (9, 9, 9)), ValueError, r"\[5, 5, 5\]"),
    (lambda: layers.Gate("1x0")(field("2x0")), ValueError, "1 channels"),
    (lambda: layers.save_steer3d(conv(), "x"), TypeError, "SteerableNetwork"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, kind, text = BAD[case]
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", every_layer())
def test_a_gpu_gives_the_same(name):
    layer, irreps = every_layer()[name]
    other, results = copy.deepcopy(layer).cuda(), []
    for module, device in ((layer, "cpu"), (other, "cuda")):
        x = field(irreps).to(device).requires_grad_()
        out = module(x)
        out.square().sum().backward()
        results.append([out, x.grad, *(parameter.grad for parameter in module.parameters())])
    for expected, found in zip(*results):
        assert torch.allclose(expected, found.cpu(), atol=1e-10)


def test_memory_that_is_not_contiguous():
    x = field(IN).permute(0, 1, 4, 3, 2)
    assert torch.equal(conv()(x), conv()(x.contiguous()))
    y = x.detach().clone(memory_format=torch.channels_last_3d)
    assert torch.equal(conv()(y), conv()(x.contiguous()))
