"""Values made by scipy: writes scipy.npz. Needs numpy and scipy (1.17.1 was used).

points (12, 3)           unit vectors x, y, z
harmonics<l> (12, 2l+1)  scipy.special.sph_harm_y(l, m, polar angle from z, azimuth), complex as (re, im)
quaternions (6, 4)       Rotation.as_quat(canonical=True), scalar last
matrices (6, 3, 3)       Rotation.as_matrix()
yxy, zyz (6, 3)          Rotation.as_euler("YXY"), Rotation.as_euler("ZYZ")
rotvec (6, 3)            Rotation.as_rotvec()
"""
import numpy as np
from scipy.spatial.transform import Rotation
from scipy.special import sph_harm_y

rng = np.random.default_rng(3)
points = rng.normal(size=(12, 3))
points[:3] = np.eye(3)
points /= np.linalg.norm(points, axis=1, keepdims=True)
polar, azimuth = np.arccos(points[:, 2]), np.arctan2(points[:, 1], points[:, 0])
arrays = {"points": points}
for l in range(9):
    y = np.stack([sph_harm_y(l, m, polar, azimuth) for m in range(-l, l + 1)], axis=1)
    arrays[f"harmonics{l}"] = np.stack([y.real, y.imag], axis=-1)
rotations = Rotation.random(6, rng=rng)
arrays |= {
    "quaternions": rotations.as_quat(canonical=True),
    "matrices": rotations.as_matrix(),
    "yxy": rotations.as_euler("YXY"),
    "zyz": rotations.as_euler("ZYZ"),
    "rotvec": rotations.as_rotvec(),
}
np.savez_compressed("scipy.npz", **arrays)
