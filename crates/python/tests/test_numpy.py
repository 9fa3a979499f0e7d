import os
import subprocess
import sys

import numpy as np
import pytest

import steer3d
from steer3d import _evaluation, _native, _program


def test_irreps():
    irreps = steer3d.Irreps("16x0 + 8x1+2")
    assert str(irreps) == "16x0+8x1+1x2"
    assert (irreps.dim, irreps.num_fields) == (16 + 24 + 5, 25)
    assert irreps == steer3d.Irreps(irreps)
    assert irreps.blocks[1] == (8, "1", 16)


def test_harmonics_turn_by_wigner_d():
    rotation = steer3d.random_rotations(1, seed=3)[0]
    points = np.random.default_rng(1).normal(size=(5, 3))
    for l in range(5):
        part = slice(l * l, (l + 1) ** 2)
        turned = steer3d.harmonics(4, points @ rotation.T)[:, part]
        d = steer3d.wigner_d(l, rotation)
        assert np.abs(turned - steer3d.harmonics(4, points)[:, part] @ d.T).max() < 1e-12
    assert np.abs(steer3d.wigner_d(1, rotation) - rotation).max() < 1e-14


def test_clebsch_gordan_commute_with_rotations():
    c = steer3d.clebsch_gordan(1, 2, 3)
    a, b, d = (steer3d.wigner_d(l, steer3d.random_rotations(1, seed=5)[0]) for l in (1, 2, 3))
    assert np.abs(np.einsum("ijk,ia,jb,kc->abc", c, a, b, d) - c).max() < 1e-13
    assert np.abs(np.linalg.norm(c) - 1) < 1e-14
    assert not steer3d.clebsch_gordan(1, 1, 3).any()


def test_groups_and_grids():
    assert [len(steer3d.point_group(name)) for name in ("tetrahedron", "cube", "icosahedron")] == [12, 24, 60]
    assert steer3d.hopf_grid(1).shape == (72, 3, 3)
    even = steer3d.even_rotations(10)
    assert np.abs(even @ even.transpose(0, 2, 1) - np.eye(3)).max() < 1e-12


def test_filters_are_steerable():
    basis = steer3d.KernelBasis("2x0+1x1", "1x0+1x1", 5, order=2)
    filter = basis.filter(basis.initial_weights(seed=1))
    assert filter.shape == (4, 5, 5, 5, 5)
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    of = lambda irreps: np.block([[np.eye(irreps), np.zeros((irreps, 3))], [np.zeros((3, irreps)), quarter]])
    # K(R x) = D K(x) Dᵀ, where R takes x to y and y to -x.
    turned = np.einsum("oi,iczyx,cd->odzyx", of(1), filter, of(2).T)
    assert np.abs(filter[:, :, :, :, ::-1].transpose(0, 1, 2, 4, 3) - turned).max() < 1e-12


def test_volumes(tmp_path):
    values = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    volume = steer3d.Volume(values, voxel_size=(1.0, 2.0, 3.0))
    volume.write(tmp_path / "map.mrc")
    again = steer3d.read(tmp_path / "map.mrc")
    assert np.array_equal(again.values, values)
    assert np.allclose(again.voxel_size, (1, 2, 3))
    cube = steer3d.Volume(np.random.default_rng(0).normal(size=(5, 5, 5)))
    back = cube.rotate(steer3d.point_group("cube")[5]).rotate(steer3d.point_group("cube")[5].T)
    assert np.array_equal(back.values, cube.values)
    assert volume.resample(2.0).voxel_size == (2.0, 2.0, 2.0)
    assert cube.translate((1, 0, 0)).values[0, 0, 0, 1] == cube.values[0, 0, 0, 0]


def test_voxelise(tmp_path):
    volume = steer3d.voxelise([[0.0, 0, 0], [1, 0, 0]], (8, 9, 10), 1.0, channels=[0, 1])
    assert volume.values.shape == (2, 8, 9, 10)
    assert abs(volume.values.sum() - 2) < 1e-4
    (tmp_path / "t.off").write_text("OFF\n4 4 0\n0 0 0\n4 0 0\n0 4 0\n0 0 4\n3 0 2 1\n3 0 1 3\n3 0 3 2\n3 1 2 3\n")
    mesh = steer3d.read(tmp_path / "t.off")
    assert mesh.voxelise(9, 1.0).values.sum() > 0
    (tmp_path / "m.xyz").write_text("2\n\nC 0 0 0\nO 0 0 1.2\n")
    molecule = steer3d.read(tmp_path / "m.xyz")[0]
    assert molecule.elements.tolist() == [6, 8]


def test_dataset(data):
    assert len(data) == 12
    assert data.class_names == ["short", "long"]
    item = data[3]
    assert (item.label, item.values.shape) == (1, (1, 9, 9, 9))
    assert np.array_equal(data.read([3, 4])[0], item.values)
    assert sum(len(labels) for _, labels in data.batches("train", 4)) == len(data.indices("train"))
    assert len(list(data)) == 12
    assert [item.id for item in data] == data.ids
    assert [item.split for item in data] == data.splits
    assert [item.label for item in data] == data.labels.tolist()


def test_an_item_takes_no_copy_of_all_names(data):
    class Alone:
        """A native dataset that gives no lists."""

        def __len__(self):
            return len(data)

        def __getattr__(self, name):
            assert name not in ("ids", "labels", "splits"), name
            return getattr(_native.Dataset(data.path), name)

    alone = steer3d.Dataset(data.path)
    alone._data = Alone()
    assert alone[3].id == data.ids[3]


def test_columns_of_numbers_are_told_by_their_names():
    text = "section,item,label,score,answer,value,parameter\n0012,1e10,2,0.5,7,NaN,\n0013,,3,1,8,1,45\n"
    table = _evaluation._columns(text)
    assert (table["section"], table["item"], table["label"]) == (["0012", "0013"], ["1e10", ""], ["2", "3"])
    assert (table["score"], table["parameter"], table["answer"]) == ([0.5, 1.0], [None, 45.0], ["7", "8"])
    assert np.isnan(table["value"][0])


def test_progress_of_the_program():
    lines = "label: 3/10  (eta 2s)\nlabel: 9/10 an item: 1/2 (eta 0s)\nsteer3d: error: it is broken\n"
    code = f"import sys; sys.stderr.write({lines!r}); print('x' * 100_000); sys.exit(2)"
    told = []
    done, result, errors = _program._run([sys.executable, "-c", code], lambda *now: told.append(now))
    assert (done, result, errors) == (2, "x" * 100_000 + "\n", "steer3d: error: it is broken\n")
    assert told == [("label", 3, 10, ""), ("label", 9, 10, "an item: 1/2")]
    assert _program._run([sys.executable, "-c", code], None)[2] == lines

    def stop(*now):
        raise ZeroDivisionError("this one")

    with pytest.raises(ZeroDivisionError, match="this one"):
        _program._run([sys.executable, "-c", code], stop)
    with pytest.raises(steer3d.Steer3dError, match="^nothing"):
        steer3d.build_dataset("nothing", "nothing.h5", progress=lambda *now: None)


MEMORY = """
import resource, sys
import numpy as np
import steer3d
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
calls = {
    "voxelise": lambda: steer3d.voxelise([[0.0, 0, 0]], 640, 1.0),
    "harmonics": lambda: steer3d.harmonics(20, np.ones((1_000_000, 3))),
    "wigner_d": lambda: steer3d.wigner_d(20, np.broadcast_to(np.eye(3), (100_000, 3, 3))),
    "rotations": lambda: steer3d.even_rotations(1 << 24),
    "resample": lambda: steer3d.Volume(np.ones((64, 64, 64))).resample(0.1),
    "read": lambda: steer3d.Dataset(sys.argv[1]).read([0] * 600_000),
}
for name, call in calls.items():
    try:
        call()
    except MemoryError as error:
        print(name, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no limit of the address space")
def test_results_larger_than_the_memory(data):
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEMORY, data.path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert [line.split()[0] for line in told] == ["voxelise", "harmonics", "wigner_d", "rotations", "resample", "read"]
    assert all("MiB" in line for line in told), told


@pytest.mark.parametrize("subject", ["convolution", "gate"])
def test_equivariance_is_that_of_the_program(subject):
    fields, settings = "3x0+2x1+1x2", {"size": 17, "rotations": 3, "fields": 4, "seed": 5}
    given, out = fields, fields
    if subject == "gate":
        given, out, scalars, gated = _native.gate_types(fields)
        layer = lambda x: _native.gate(x, scalars, gated)
    else:
        basis = _native.KernelBasis(fields, fields, 5, '{"family": "gaussian_jets", "order": 3}', [1.0] * 3)
        weights = basis.initial_weights(5, "conv").astype(np.float32)
        layer = lambda x: basis.separable()[0].forward(x, weights, None, 1)
    options = {"irreps": fields, "families": "jets:3", "subjects": subject, "seeds": 1}
    expected = steer3d.program("equivariance", **options, **settings)["measured"][0]
    found = steer3d.equivariance(layer, given, out, **settings)
    for name in ("centre", "resampled", "cube"):
        assert getattr(found, name) == pytest.approx(expected[name], rel=1e-6, abs=1e-12), name
    assert found.cube < 1e-5


def test_equivariance_of_what_is_not():
    mixed = lambda x: x[:, ::-1].copy()
    assert steer3d.equivariance(mixed, "1x0+1x1", size=9, rotations=2, fields=2, centre_size=9).cube > 0.1

    def broken(x):
        raise ZeroDivisionError("this one")

    with pytest.raises(ZeroDivisionError, match="this one"):
        steer3d.equivariance(broken, "1x0")


def test_a_forked_process_computes_on_threads_of_its_own():
    code = '''
import os, sys
import numpy as np
import steer3d
points = np.random.default_rng(0).normal(size=(100_000, 3))
expected = steer3d.harmonics(4, points)
for depth in range(2):  # a child, and a child of it
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status))
    assert np.array_equal(steer3d.harmonics(4, points), expected)
os._exit(0)
'''
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


BAD = [
    (lambda: steer3d.Irreps("3y1"), ValueError, "column 2"),
    (lambda: steer3d.harmonics(40, [[0, 0, 1]]), ValueError, "20"),
    (lambda: steer3d.harmonics(-1, [[0, 0, 1]]), ValueError, "lmax.*at least 0.*-1"),
    (lambda: steer3d.wigner_d(-1, np.eye(3)), ValueError, "l: .*-1"),
    (lambda: steer3d.clebsch_gordan(1, 2, -1), ValueError, "l3.*-1"),
    (lambda: steer3d.random_rotations(-1), ValueError, "n: .*-1"),
    (lambda: steer3d.random_rotations(1.5), TypeError, "n: .*whole.*1.5"),
    (lambda: steer3d.random_rotations(1, seed=2**64), ValueError, "seed"),
    (lambda: steer3d.even_rotations(-1), ValueError, "n: .*-1"),
    (lambda: steer3d.hopf_grid(-1), ValueError, "nside.*-1"),
    (lambda: steer3d.KernelBasis("1x0", "1x0", -5), ValueError, "size.*-5"),
    (lambda: steer3d.train("/nowhere/exp.toml", seed=-1), ValueError, "seed.*-1"),
    (lambda: steer3d.equivariance(lambda x: x, "1x0", centre_size=-1), ValueError, "centre_size.*-1"),
    (lambda: steer3d.voxelise([[0, 0, 0]], -8, 1.0), ValueError, "size.*-8"),
    (lambda: steer3d.voxelise([[0, 0, 0]], (8, 8), 1.0), ValueError, "size.*D, H, W.*2"),
    (lambda: steer3d.voxelise([[0, 0, 0]], 8.5, 1.0), TypeError, "size.*whole"),
    (lambda: steer3d.voxelise([[0, 0, 0]], 8, 1.0, channels=[-1]), ValueError, "channels.*0 to 65535.*-1"),
    (lambda: steer3d.voxelise([[0, 0, 0]], 8, 1.0, channels=[70000]), ValueError, "channels.*70000"),
    (lambda: steer3d.voxelise([[0, 0, 0]], 8, 1.0, channels=[0.5]), TypeError, "channels.*whole.*float64"),
    (lambda: steer3d.Mesh(np.eye(3), [[0, 1, -2]]).voxelise(8, 1.0), ValueError, "triangles.*-2"),
    (lambda: steer3d.load("adrenal").predict("x.mrc", rotations=-1), ValueError, "rotations.*-1"),
    (lambda: steer3d.load("secondary-structure").predict("x.mrc", window=-1), ValueError, "window.*-1"),
    (lambda: steer3d.load("secondary-structure").predict("x.mrc", window=(8, 8)), ValueError, "window.*D, H, W"),
    (lambda: steer3d.load("secondary-structure").predict("x.mrc", map_format="tif"), ValueError, "map_format.*nii.*tif"),
    (lambda: steer3d.load("adrenal").predict(np.zeros((1, 1, 9, 9, 9)), window=9), TypeError, "window.*files"),
    (lambda: steer3d.load("adrenal").predict(np.zeros((1, 1, 9, 9, 9)), native_voxels=True), TypeError, "native_voxels"),
    (lambda: steer3d.load("adrenal").predict("x.mrc", native_voxels=True), ValueError, "native_voxels.*labels voxels"),
    (lambda: steer3d.harmonics(2, [[0, 0]]), ValueError, r"\(n, 3\)"),
    (lambda: steer3d.harmonics(2, ["a"]), (TypeError, ValueError), "points"),
    (lambda: steer3d.wigner_d(1, np.ones((3, 3))), ValueError, "rotation|orthogonal"),
    (lambda: steer3d.clebsch_gordan(1, 2, 33), ValueError, "20"),
    (lambda: steer3d.point_group("dodecahedron"), ValueError, "icosahedron"),
    (lambda: steer3d.KernelBasis("1x0", "1x1", 4), ValueError, "odd"),
    (lambda: steer3d.KernelBasis("1x0", "1x0", 5, family="gauss"), ValueError, "gauss"),
    (lambda: steer3d.KernelBasis("1x0", "1x0", 5).filter([1.0]), ValueError, "weight"),
    (lambda: steer3d.read("/nowhere/a.pdb"), FileNotFoundError, "/nowhere/a.pdb"),
    (lambda: steer3d.Dataset("/nowhere/a.h5"), FileNotFoundError, "/nowhere/a.h5"),
    (lambda: steer3d.load("cath-clas"), ValueError, "cath-class"),
    (lambda: steer3d.Volume(np.ones((2, 2))), ValueError, "C,D,H,W"),
    (lambda: steer3d.Volume(np.full((2, 2, 2), np.nan)).rotate(np.eye(3)), ValueError, "NaN|finite"),
    (lambda: steer3d.voxelise([[0, 0, 0]], 8, -1.0), ValueError, "voxel"),
    (lambda: steer3d.evaluate("adrenal", "x.h5"), FileNotFoundError, "x.h5"),
    (lambda: steer3d.train("/nowhere/exp.toml"), FileNotFoundError, "exp.toml"),
    (lambda: steer3d.load("adrenal").forward(np.zeros((1, 2, 9, 9, 9))), ValueError, "channels"),
    (lambda: steer3d.load("adrenal").forward(np.zeros((9, 9))), ValueError, "N,C,D,H,W"),
    (lambda: steer3d.equivariance(lambda x: x), TypeError, "irreps_in"),
    (lambda: steer3d.equivariance("layer", "1x0"), TypeError, "callable"),
    (lambda: steer3d.equivariance(lambda x: x, "1x0", size=10), ValueError, "size.*9, 13"),
    (lambda: steer3d.equivariance(lambda x: x[:, :, 1:], "1x0", fields=2), ValueError, "even|central voxel|shape|grid"),
    (lambda: steer3d.equivariance(lambda x: 0 * x, "1x0"), ValueError, "zeros"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, kind, text = BAD[case]
    with pytest.raises(kind, match=text):
        call()


def test_neither_numpy_nor_torch_is_imported():
    code = "import sys, steer3d; steer3d.Irreps('1x0'); print([m for m in ('numpy', 'torch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_program(tmp_path):
    def run(*words):
        return subprocess.run([sys.executable, "-m", "steer3d", *words], capture_output=True, text=True, check=False)

    assert run("--version").stdout.split()[1] == steer3d.__version__
    assert run("info", "2x0+1x1").returncode == 0
    wrong = run("eval", "nothing.safetensors", "nothing.h5")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert run("nonsense").returncode == 2
    with pytest.raises(steer3d.Steer3dError, match="nothing"):
        steer3d.program("info", "nothing")
