"""Values in 60-digit arithmetic: writes high_precision.npz. Needs numpy and mpmath (1.4.1 was used).

The formulas are the textbook ones (Rodrigues/associated Legendre sums, Wigner's and Racah's sums)
and share nothing with the recurrences of the crate. Arrays:

points (24, 3)          f64 vectors x, y, z, none of unit length; the harmonics are of their directions
harmonics (24, 41)      component-normalised Y_20
angles (4, 3)           e3nn's Euler angles alpha, beta, gamma
matrices (4, 3, 3)      R_y(alpha) R_x(beta) R_y(gamma)
wigner_d (4, 41, 41)    D_20
threej_arguments (n, 6) l1 l2 l3 m1 m2 m3
threej (n,)             the 3j symbols
"""
import random

import mpmath as mp
import numpy as np

mp.mp.dps = 60
L = 20
f = mp.factorial


def legendre_over_sine(l, m, z):
    """P_l^m(z) / (1 - z^2)^(m/2) without Condon-Shortley sign: the m-th derivative of P_l."""
    total = mp.mpf(0)
    for k in range((l - m) // 2 + 1):
        total += (-1) ** k * f(2 * l - 2 * k) / (f(k) * f(l - k) * f(l - 2 * k - m)) * z ** (l - 2 * k - m)
    return total / 2**l


def harmonics(l, point):
    x, y, z = (mp.mpf(float(c)) for c in point)
    r = mp.sqrt(x * x + y * y + z * z)
    x, y, z = x / r, y / r, z / r
    row = [mp.mpf(0)] * (2 * l + 1)
    for m in range(l + 1):
        power = mp.mpc(z, x) ** m
        q = mp.sqrt((2 * l + 1) * (2 if m else 1) * f(l - m) / f(l + m)) * legendre_over_sine(l, m, y)
        row[l - m] = q * power.imag
        row[l + m] = q * power.real
    return row


def small_d(l, m, k, beta):
    c, s = mp.cos(beta / 2), mp.sin(beta / 2)
    total = mp.mpf(0)
    for i in range(max(0, k - m), min(l + k, l - m) + 1):
        total += (-1) ** (m - k + i) * c ** (2 * l + k - m - 2 * i) * s ** (m - k + 2 * i) / (
            f(l + k - i) * f(i) * f(m - k + i) * f(l - m - i))
    return mp.sqrt(f(l + m) * f(l - m) * f(l + k) * f(l - k)) * total


def wigner_d(l, alpha, beta, gamma):
    n = 2 * l + 1
    d = mp.matrix(n, n)
    for m in range(-l, l + 1):
        for k in range(-l, l + 1):
            d[l + m, l + k] = mp.expj(-m * alpha) * small_d(l, m, k, beta) * mp.expj(-k * gamma)
    # Y_real = U Y_complex and Y_complex(R v) = conj(D(R)) Y_complex(v).
    u = mp.matrix(n, n)
    u[l, l] = 1
    h = 1 / mp.sqrt(2)
    for m in range(1, l + 1):
        u[l + m, l + m], u[l + m, l - m] = (-1) ** m * h, h
        u[l - m, l + m], u[l - m, l - m] = -1j * (-1) ** m * h, 1j * h
    real = u * d.conjugate() * u.transpose_conj()
    assert max(abs(v.imag) for v in real) < mp.mpf(10) ** -40
    return real.apply(mp.re)


def three_j(l1, l2, l3, m1, m2, m3):
    if m1 + m2 + m3 or not abs(l1 - l2) <= l3 <= l1 + l2:
        return mp.mpf(0)
    low, high = max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2)
    total = sum((mp.mpf((-1) ** k) / (f(k) * f(l1 + l2 - l3 - k) * f(l1 - m1 - k) * f(l2 + m2 - k)
                 * f(l3 - l2 + m1 + k) * f(l3 - l1 - m2 + k)) for k in range(low, high + 1)), mp.mpf(0))
    delta = f(l1 + l2 - l3) * f(l1 - l2 + l3) * f(l2 + l3 - l1) / f(l1 + l2 + l3 + 1)
    root = f(l1 + m1) * f(l1 - m1) * f(l2 + m2) * f(l2 - m2) * f(l3 + m3) * f(l3 - m3)
    return (-1) ** (l1 - l2 - m3) * mp.sqrt(delta * root) * total


rng = random.Random(20)
points = [[rng.gauss(0, 1) for _ in range(3)] for _ in range(16)]
points += [[1, 0, 0], [0, 1, 0], [0, 0, -1], [1e-9, 1, 1e-9], [1e-3, -1, 0], [1, 1, 1], [1e-200, 2e-200, 1e-200],
           [1e200, -1e200, 3e200]]
angles = [[0.3, 1.1, -2.0], [2.5, 1e-7, 0.4], [-1.0, np.pi - 1e-5, 3.0], [rng.uniform(-3, 3), 2.2, -0.7]]


def rotation(a, b, c):
    y = lambda t: mp.matrix([[mp.cos(t), 0, mp.sin(t)], [0, 1, 0], [-mp.sin(t), 0, mp.cos(t)]])
    x = lambda t: mp.matrix([[1, 0, 0], [0, mp.cos(t), -mp.sin(t)], [0, mp.sin(t), mp.cos(t)]])
    return y(a) * x(b) * y(c)


arguments = []
while len(arguments) < 400:
    l1, l2, l3 = (rng.randint(0, L) for _ in range(3))
    m1, m2 = rng.randint(-l1, l1), rng.randint(-l2, l2)
    if abs(l1 - l2) <= l3 <= l1 + l2 and abs(m1 + m2) <= l3:
        arguments.append([l1, l2, l3, m1, m2, -m1 - m2])

exact = [[mp.mpf(float(t)) for t in row] for row in angles]
to_f64 = lambda matrix: np.array([[float(v) for v in row] for row in matrix.tolist()])
np.savez_compressed(
    "high_precision.npz",
    points=np.array(points),
    harmonics=np.array([[float(v) for v in harmonics(L, p)] for p in points]),
    angles=np.array(angles),
    matrices=np.array([to_f64(rotation(*row)) for row in exact]),
    wigner_d=np.array([to_f64(wigner_d(L, *row)) for row in exact]),
    threej_arguments=np.array(arguments, dtype=float),
    threej=np.array([float(three_j(*row)) for row in arguments]),
)
