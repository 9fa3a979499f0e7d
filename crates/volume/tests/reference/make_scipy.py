"""Makes scipy.npz: volumes turned and moved by scipy.ndimage, which is under BSD-3-Clause.

Run in this folder with numpy and scipy; the versions used are stored in the file. Arrays are
z, y, x; `rotation` acts on columns x, y, z; `shift` is x, y, z in voxels.

- `margin_*`: 10 x 10 x 10 normal random numbers in the middle of 26 x 26 x 26 zeros, mode
  "constant"; the 14 x 14 x 14 values in the middle of the result.
- `full_*`: 9 x 10 x 11 normal random numbers, mode "grid-constant" (zeros beyond the faces,
  interpolated to); the whole result.
- `affine_*`: `full` through the map `affine` (3 x 4, from a position x, y, z in the source to one in
  the result, both from the first voxel's centre), which enlarges by about 1.3, turns and shears, on
  11 x 12 x 13 voxels, mode "grid-constant".
"""

import numpy as np
import scipy
from scipy import ndimage
from scipy.spatial.transform import Rotation

rng = np.random.default_rng(20180607)
rotation = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix()
shift = np.array([0.3, -1.6, 0.5])
block = rng.standard_normal((10, 10, 10)).astype("f4")
full = rng.standard_normal((9, 10, 11)).astype("f4")


def turned(volume, order, mode):
    matrix = rotation.T[::-1, ::-1]  # to the source, in z, y, x
    centre = (np.array(volume.shape) - 1) / 2
    return ndimage.affine_transform(
        volume.astype("f8"), matrix, centre - matrix @ centre, order=order, mode=mode
    )


def moved(volume, order, mode):
    return ndimage.shift(volume.astype("f8"), shift[::-1], order=order, mode=mode)


def middle(volume):
    return volume[6:-6, 6:-6, 6:-6]


margin = np.pad(block, 8)
out = {"rotation": rotation, "shift": shift, "block": block, "full": full}
for order in (1, 3):
    out[f"margin_turned_{order}"] = middle(turned(margin, order, "constant")).astype("f4")
    out[f"margin_moved_{order}"] = middle(moved(margin, order, "constant")).astype("f4")
    out[f"full_turned_{order}"] = turned(full, order, "grid-constant").astype("f4")
    out[f"full_moved_{order}"] = moved(full, order, "grid-constant").astype("f4")
matrix = rotation @ np.array([[1.3, 0.2, 0.0], [0.0, 1.4, -0.1], [0.0, 0.0, 1.25]])
offset = np.array([6.2, 5.1, 5.3]) - matrix @ np.array([5.0, 4.5, 4.0])
out["affine"] = np.hstack([matrix, offset[:, None]])
for order in (1, 3):
    back = np.linalg.inv(matrix)[::-1, ::-1]
    out[f"affine_{order}"] = ndimage.affine_transform(
        full.astype("f8"), back, -back @ offset[::-1], (11, 12, 13), order=order,
        mode="grid-constant",
    ).astype("f4")
versions = f"numpy {np.__version__}, scipy {scipy.__version__}"
np.savez_compressed("scipy.npz", versions=np.array([versions.encode()]), **out)
print(versions)
