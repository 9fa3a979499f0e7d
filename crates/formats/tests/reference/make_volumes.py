"""Makes volumes.npz, what other programs read from the files in ../data/volumes, and the files
`made_*` there.

Run in this folder with numpy, scipy, h5py, nibabel (MIT), mrcfile (BSD-3-Clause), gemmi (MPL-2.0)
and trimesh (MIT); the versions used are stored in the file. Of each volume it stores, in one
list, shape (C, D, H, W), voxel size and origin (x, y, z), sum, 40 places drawn with a seed, and the
values there.

- NIfTI: nibabel.as_closest_canonical. nibabel flips x where a file has neither sform nor qform
  code, which the standard does not ask for; for `minimal.nii.gz` the array is taken as stored.
- MRC: gemmi's grid of crystal axes; `made_*` by mrcfile. Skewed cells: the lattice that gemmi reads,
  resampled by scipy.ndimage with a cubic spline in mode "grid-constant".
- binvox: trimesh's array; voxel size and origin as the specification of binvox says.
"""

import gzip
from pathlib import Path

import gemmi
import h5py
import mrcfile
import nibabel
import numpy as np
import scipy
import trimesh
from scipy import ndimage
from trimesh.exchange.binvox import load_binvox

folder = Path("../data/volumes")
rng = np.random.default_rng(2014)
out = {}


def store(name, data, size, origin):
    data = np.asarray(data, "f8")
    data = data[None] if data.ndim == 3 else data
    places = rng.integers(0, data.size, 40)
    out[name] = np.concatenate(
        [data.shape, size, origin, [data.sum()], places, data.ravel()[places]]
    )


def nifti(name, scale=1.0):
    image = nibabel.as_closest_canonical(nibabel.load(folder / name))
    affine = image.affine * scale
    if image.dataobj.dtype.fields:
        data = np.stack([np.asarray(image.dataobj)[c] for c in image.dataobj.dtype.names])
    else:
        data = image.get_fdata()
        data = data.reshape(data.shape[:3] + (-1,), order="F")
        data = np.moveaxis(data, 3, 0)
    size = np.linalg.norm(affine[:3, :3], axis=0)
    store(name, data.transpose(0, 3, 2, 1), size, affine[:3, 3])


def make_nifti():
    turn = scipy.spatial.transform.Rotation.from_rotvec([0.2, -0.3, 0.1]).as_matrix()
    # x of the array runs to the left, y up, z forward, all slightly oblique.
    axes = turn @ np.array([[-1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]]) @ np.diag([1.5, 2.0, 3.0])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, [10.0, -20.0, 30.5]
    data = rng.integers(-100, 100, (4, 3, 5)).astype("i2")

    image = nibabel.Nifti1Image(data, affine)
    image.header.set_slope_inter(0.25, -3.0)
    image.header.set_xyzt_units("micron", "sec")
    image.to_filename(folder / "made_oblique.nii")

    image = nibabel.Nifti1Image(data.astype(">f8"), None, nibabel.Nifti1Header(endianness=">"))
    image.set_qform(affine, 1)
    image.set_sform(None, 0)
    image.to_filename(folder / "made_qform.nii")

    for dtype in ["u4", "u8", "f4"]:
        values = np.abs(data)[..., None, None] * np.arange(1, 7).reshape(2, 3)
        values = values.astype(dtype)
        image = nibabel.Nifti2Image(values, affine, dtype=dtype)
        image.to_filename(folder / f"made_5d_{dtype}.nii")


def lattice(name):
    """Values by z, y, x of the axes a, b, c, their steps as columns, and the first voxel's index."""
    grid_map = gemmi.read_ccp4_map(str(folder / name), setup=False)
    axes = [grid_map.header_i32(w) - 1 for w in (17, 18, 19)]
    start = np.zeros(3)
    start[axes] = [grid_map.header_i32(w) for w in (5, 6, 7)]
    stored = np.array(grid_map.grid, copy=True)  # columns, rows, sections
    data = stored.transpose(np.argsort(axes)).T
    sampling = [grid_map.header_i32(w) for w in (8, 9, 10)]
    cell = grid_map.grid.unit_cell
    return data, np.array(cell.orth.mat.tolist()) / sampling, start


def maps(name):
    data, steps, start = lattice(name)
    size, origin = np.diag(steps), steps @ start
    if np.allclose(steps, np.diag(size)):
        store(name, data, size, origin)
        return
    matrix = steps / size[:, None]
    reach = matrix * (np.array(data.shape)[::-1] - 1)
    low = np.floor(np.minimum(reach, 0).sum(1))
    lens = (np.ceil(np.maximum(reach, 0).sum(1) - 1e-9) - low).astype(int) + 1
    inverse = np.linalg.inv(matrix)
    data = ndimage.affine_transform(
        data.astype("f8"), inverse[::-1, ::-1], (inverse @ low)[::-1], tuple(lens[::-1]),
        order=3, mode="grid-constant",
    )
    store(name, data, size, origin + low * size)


def make_mrc():
    data = rng.integers(0, 100, (6, 4, 5))
    for mode, dtype in [(0, "i1"), (1, ">i2"), (2, ">f4"), (6, "<u2"), (12, "<f2")]:
        name = f"made_mode{mode}.mrc"
        with mrcfile.new(folder / name, overwrite=True) as file:
            file.set_data((data - 50).astype(dtype) if mode != 6 else data.astype(dtype) * 600)
            file.voxel_size = (1.5, 2.5, 3.5)
            file.header.origin = (1.0, -2.0, 0.5)
            file.set_extended_header(np.frombuffer(b"x" * 80, "V80"))
            stored = file.data.copy()
        store(name, stored, [1.5, 2.5, 3.5], [1.0, -2.0, 0.5])
    with mrcfile.new(folder / "made_stack.mrc", overwrite=True) as file:
        file.set_data(data.reshape(3, 2, 4, 5).astype("f4"))
    store("made_stack.mrc", data.reshape(3, 2, 4, 5), [1.0] * 3, [0.0] * 3)


def make_hdf5():
    """Arrays that must be read and arrays that must be refused."""
    data = rng.integers(-100, 100, (3, 4, 5))
    (folder / "made_outside.raw").write_bytes(bytes(480))
    with h5py.File(folder / "made_arrays.h5", "w") as file:
        for dtype in ["i1", ">i2", "<u4", ">f4", "f8", "f2"]:
            name = "entry/" + dtype.strip("<>")
            file.create_dataset(name, data=np.abs(data).astype(dtype))
            store(f"made_arrays.h5:{name}", np.abs(data), [1.0] * 3, [-2.0, -1.5, -1.0])
        four = np.stack([data, -data])
        file.create_dataset("entry/four", data=four, chunks=(1, 3, 4, 5), compression="gzip",
                            shuffle=True, fletcher32=True)
        store("made_arrays.h5:entry/four", four, [1.0] * 3, [-2.0, -1.5, -1.0])
        file.create_dataset("entry/bool", data=data > 0)
        store("made_arrays.h5:entry/bool", data > 0, [1.0] * 3, [-2.0, -1.5, -1.0])
        file.create_dataset("bad/nan", data=np.full((1, 1, 2), np.nan))
        file.create_dataset("bad/huge", (1 << 20, 1 << 20, 1 << 20), "f8")
        file.create_dataset("bad/chunk", (1, 1, 1), "u1", chunks=(1 << 10, 1 << 10, 1 << 10),
                            maxshape=(None, None, None))
        file.create_dataset("bad/complex", (2, 2, 2), "c8")
        file.create_dataset("bad/text", data=np.full((2, 2, 2), b"abc"))
        file.create_dataset("bad/flat", data=data[0])
        file.create_dataset("bad/empty", (0, 2, 2), "f4")
        file.create_dataset("bad/lzf", data=data, chunks=(3, 4, 5), compression="lzf")
        file.create_dataset("bad/external", (3, 4, 5), "f8", external="made_outside.raw")
        layout = h5py.VirtualLayout((3, 4, 5), "f8")
        layout[:] = h5py.VirtualSource("made_target.h5", "data", (3, 4, 5))
        file.create_virtual_dataset("bad/virtual", layout)
        file["bad/link"] = h5py.ExternalLink("made_target.h5", "data")
    with h5py.File(folder / "made_target.h5", "w") as file:
        file.create_dataset("data", data=data.astype("f8"))



def binvox(name):
    # trimesh cannot tell the file's own translate and scale from its convention.
    grid = load_binvox(open(folder / name, "rb"))
    corner, scale = np.array([-0.265511, -0.331878, -0.263364]), 0.663756
    size = scale / max(grid.shape)
    store(name, np.array(grid.matrix).T, [size] * 3, corner + size / 2)


make_nifti()
for name in ["standard.nii.gz", "example_nifti2.nii.gz", "functional.nii.gz",
             "reoriented_anat_moved.nii.gz", "float64.nii", "int64.nii", "int8.nii", "uint16.nii",
             "rgb.nii", "made_qform.nii", "made_5d_u4.nii", "made_5d_u8.nii", "made_5d_f4.nii"]:
    nifti(name)
nifti("made_oblique.nii", 1e-3)
minimal = np.asarray(nibabel.load(folder / "minimal.nii.gz").dataobj)
store("minimal.nii.gz", minimal.T, [3.0] * 3, [0.0] * 3)
for name in ["5i55_tiny.ccp4", "1pfe_asu.msk.gz", "emd_3197.map.gz", "iota_yzx.ccp4.gz"]:
    maps(name)
make_mrc()
make_hdf5()
store("h5repack_int32le_3d.h5:dset", h5py.File(folder / "h5repack_int32le_3d.h5")["dset"][:],
      [1.0] * 3, [-3.5] * 3)
for name in ["valid_be_f4.npy.gz", "valid_fortran.npy.gz"]:
    store(name, np.load(gzip.open(folder / name)), [1.0] * 3, [-13.5] * 3)
binvox("chair_model.binvox")
versions = ", ".join(f"{m.__name__} {m.__version__}" for m in
                     [np, scipy, h5py, nibabel, mrcfile, gemmi, trimesh])
np.savez_compressed("volumes.npz", versions=np.array([versions.encode()]), **out)
print(versions)
