//! The tensors by which a harmonic function becomes a kernel: κ\[o, i\](x) = √(2l_o+1) Σ_M T\[o, i, M\] b_M(x).

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use nalgebra::{DMatrix, DVector, Vector3};
use serde::{Deserialize, Serialize};
use steer3d_so3::cg::{CgEntry, couples};
use steer3d_so3::conventions::{polar_z_wigner_d, to_polar_z};
use steer3d_so3::{Irrep, Parity, Rotation, clebsch_gordan};

/// The rotations with which kernels commute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum KernelGroup {
    /// All rotations, SO(3). If irreps have parities mirrors as well, O(3).
    #[default]
    So3,
    /// The rotations about z, SO(2), for volumes that have an up and a down. If irreps have parities the mirrors in planes
    /// through the z axis as well, O(2). Fields keep their irreps of SO(3), whose restrictions kernels map to each other:
    /// there are several times as many kernels, and those of SO(3) are among them.
    So2,
}

/// The tensors T, entries by o, i and M, between two irreps and degree `j` that commute with the group: orthonormal, so
/// that in white noise each kernel responds alike.
pub(crate) fn tensors(group: KernelGroup, out: Irrep, input: Irrep, j: usize) -> Tensors {
    match group {
        KernelGroup::So3 if !admits(out, input, j) => Tensors::default(),
        KernelGroup::So3 => Arc::new(vec![clebsch_gordan(out.l, input.l, j).nonzeros().to_vec()]),
        KernelGroup::So2 => known_about_z(out, input, j),
    }
}

pub(crate) type Tensors = Arc<Vec<Vec<CgEntry>>>;

/// [`about_z`], computed on first use and shared afterwards: every path of a kernel asks for it.
fn known_about_z(out: Irrep, input: Irrep, j: usize) -> Tensors {
    type Known = Mutex<HashMap<(Irrep, Irrep, usize), Tensors>>;
    static KNOWN: LazyLock<Known> = LazyLock::new(Known::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry((out, input, j)).or_insert_with(|| Arc::new(about_z(out, input, j))).clone()
}

/// How many tensors there are at most, whatever the parities.
pub(crate) fn count(group: KernelGroup, l_out: usize, l_in: usize, j: usize) -> usize {
    match group {
        KernelGroup::So3 => usize::from(couples(l_out, l_in, j)),
        // Complex components m_o + m_i + M = 0.
        KernelGroup::So2 => {
            let [a, b, c] = [l_out, l_in, j].map(|l| l as i64);
            let pairs = (-a..=a).flat_map(|m| (-b..=b).map(move |n| m + n));
            pairs.filter(|sum| sum.abs() <= c).count()
        }
    }
}

/// The selection rules of SO(3) or O(3).
fn admits(out: Irrep, input: Irrep, j: usize) -> bool {
    let parity = sign(out, input, j).is_none_or(|sign| sign > 0.0);
    couples(out.l, input.l, j) && parity
}

/// What an inversion multiplies a tensor by, where irreps have parities.
fn sign(out: Irrep, input: Irrep, j: usize) -> Option<f64> {
    Some(out.parity?.sign() * input.parity?.sign() * Parity::of_harmonics(j).sign())
}

/// With the harmonics about z a rotation mixes components ±m alone, so tensors have entries at ±m_o, ±m_i and ±M.
fn about_z(out: Irrep, input: Irrep, j: usize) -> Vec<Vec<CgEntry>> {
    let degrees = [out.l, input.l, j];
    let count = 2 * degrees.iter().sum::<usize>() + 1;
    let turn = |k: usize| std::f64::consts::TAU * k as f64 / count as f64;
    let rotations = (0..count).map(|k| Rotation::from_axis_angle(&Vector3::z_axis(), turn(k)));
    let of = |rotation: &Rotation| degrees.map(|l| polar_z_wigner_d(l, rotation));
    let mut elements: Vec<_> = rotations.map(|rotation| (1.0, of(&rotation))).collect();
    if let Some(sign) = sign(out, input, j) {
        // The mirror y to -y is an inversion after half a turn about y.
        let half = of(&Rotation::from_axis_angle(&Vector3::y_axis(), std::f64::consts::PI));
        let mirrored =
            |(_, d): &(f64, [DMatrix<f64>; 3])| (sign, [0, 1, 2].map(|i| &d[i] * &half[i]));
        elements.extend(elements.iter().map(mirrored).collect::<Vec<_>>());
    }
    let bases = degrees.map(to_polar_z);
    let mut found = vec![];
    for m_o in 0..=out.l {
        for m_i in 0..=input.l {
            for m_j in 0..=j {
                let places = places(degrees, [m_o, m_i, m_j]);
                for tensor in invariants(&elements, &places) {
                    found.push(in_our_basis(degrees, &bases, &places, &tensor));
                }
            }
        }
    }
    found
}

/// The components (o, i, M) of orders ±m.
fn places(degrees: [usize; 3], orders: [usize; 3]) -> Vec<[usize; 3]> {
    let both = |axis: usize| {
        let (l, m) = (degrees[axis], orders[axis]);
        (l - m..=l + m).step_by((2 * m).max(1))
    };
    both(0).flat_map(|o| both(1).flat_map(move |i| both(2).map(move |k| [o, i, k]))).collect()
}

/// An orthonormal basis of what the mean over the elements leaves.
fn invariants(elements: &[(f64, [DMatrix<f64>; 3])], places: &[[usize; 3]]) -> Vec<DVector<f64>> {
    let mean = |to: &[usize; 3], from: &[usize; 3]| {
        let of = |(sign, d): &(f64, [DMatrix<f64>; 3])| {
            sign * (0..3).map(|axis| d[axis][(to[axis], from[axis])]).product::<f64>()
        };
        elements.iter().map(of).sum::<f64>() / elements.len() as f64
    };
    let mut basis: Vec<DVector<f64>> = vec![];
    for from in places {
        let column = DVector::from_iterator(places.len(), places.iter().map(|to| mean(to, from)));
        let rest = basis.iter().fold(column, |rest, known| &rest - known * known.dot(&rest));
        // Projections have lengths of at least 1/√8, or are rounding.
        if rest.norm() > 1e-6 {
            basis.push(rest.normalize());
        }
    }
    basis
}

fn in_our_basis(
    degrees: [usize; 3],
    bases: &[DMatrix<f64>; 3],
    places: &[[usize; 3]],
    tensor: &DVector<f64>,
) -> Vec<CgEntry> {
    let [outs, ins, orders] = degrees.map(|l| 2 * l + 1);
    let mut entries = vec![];
    for i in 0..outs {
        for j in 0..ins {
            for k in 0..orders {
                let term = |(place, value): (&[usize; 3], &f64)| {
                    value
                        * bases[0][(place[0], i)]
                        * bases[1][(place[1], j)]
                        * bases[2][(place[2], k)]
                };
                let value = places.iter().zip(tensor.iter()).map(term).sum::<f64>();
                if value.abs() > 1e-12 {
                    entries.push(CgEntry { i, j, k, value });
                }
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use steer3d_so3::{Stream, random_rotations, wigner_d};

    use super::*;

    fn dense(entries: &[CgEntry], degrees: [usize; 3]) -> Vec<f64> {
        let [a, b, c] = degrees.map(|l| 2 * l + 1);
        let mut tensor = vec![0.0; a * b * c];
        entries.iter().for_each(|e| tensor[(e.i * b + e.j) * c + e.k] = e.value);
        tensor
    }

    /// Σ D_o\[o', o\] D_i\[i', i\] D_j\[k', k\] T\[o, i, k\].
    fn turned(tensor: &[f64], degrees: [usize; 3], rotation: &Rotation) -> Vec<f64> {
        let d = degrees.map(|l| wigner_d(l, rotation));
        let all = d[0].kronecker(&d[1]).kronecker(&d[2]);
        (all * DVector::from_column_slice(tensor)).as_slice().to_vec()
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn tensors_about_z_are_all_that_commute_with_it() {
        let so3 = |l| Irrep::so3(l);
        let mut stream = Stream::new(1, "angles", &[]);
        for degrees in [[0, 0, 0], [0, 0, 2], [1, 0, 1], [1, 1, 1], [2, 1, 2], [2, 2, 4], [3, 1, 0]]
        {
            let [l_out, l_in, j] = degrees;
            let all = tensors(KernelGroup::So2, so3(l_out), so3(l_in), j);
            assert_eq!(all.len(), count(KernelGroup::So2, l_out, l_in, j), "{degrees:?}");
            let all: Vec<_> = all.iter().map(|entries| dense(entries, degrees)).collect();
            let angle = stream.uniform();
            let about_z = Rotation::from_axis_angle(&Vector3::z_axis(), angle);
            for (a, tensor) in all.iter().enumerate() {
                for (b, other) in all.iter().enumerate() {
                    assert!((dot(tensor, other) - f64::from(u8::from(a == b))).abs() < 1e-12);
                }
                let image = turned(tensor, degrees, &about_z);
                let gap = image.iter().zip(tensor).map(|(a, b)| (a - b).abs());
                assert!(gap.fold(0.0, f64::max) < 1e-12, "{degrees:?}");
            }
            // That of SO(3) is among their sums.
            for entries in tensors(KernelGroup::So3, so3(l_out), so3(l_in), j).iter() {
                let tensor = dense(entries, degrees);
                let inside: f64 = all.iter().map(|known| dot(known, &tensor).powi(2)).sum();
                assert!((inside - dot(&tensor, &tensor)).abs() < 1e-12, "{degrees:?}");
            }
        }
        // Some of them do not commute with other rotations.
        let tensor = dense(&tensors(KernelGroup::So2, so3(0), so3(0), 2)[0], [0, 0, 2]);
        assert!(dot(&turned(&tensor, [0, 0, 2], &random_rotations(1, 3)[0]), &tensor) < 0.99);
    }

    #[test]
    fn with_parities_mirrors_commute_too() {
        let (even, odd) = (Parity::Even, Parity::Odd);
        for (out, input, j) in [
            ((1, even), (0, even), 1),
            ((1, odd), (0, even), 1),
            ((1, odd), (1, even), 2),
            ((2, even), (1, odd), 1),
        ] {
            let [out, input] = [out, input].map(|(l, parity)| Irrep::o3(l, parity));
            let degrees = [out.l, input.l, j];
            let with = tensors(KernelGroup::So2, out, input, j);
            let without = tensors(KernelGroup::So2, Irrep::so3(out.l), Irrep::so3(input.l), j);
            let other = Parity::product(input.parity.unwrap(), Parity::Odd);
            let mirrored = Irrep::o3(input.l, other);
            let rest = tensors(KernelGroup::So2, out, mirrored, j);
            assert_eq!(with.len() + rest.len(), without.len(), "{out} {input} {j}");
            let half = Rotation::from_axis_angle(&Vector3::y_axis(), std::f64::consts::PI);
            for entries in with.iter() {
                let tensor = dense(entries, degrees);
                let sign = sign(out, input, j).unwrap();
                let image = turned(&tensor, degrees, &half);
                let gap = image.iter().zip(&tensor).map(|(a, b)| (sign * a - b).abs());
                assert!(gap.fold(0.0, f64::max) < 1e-12);
            }
        }
    }
}
