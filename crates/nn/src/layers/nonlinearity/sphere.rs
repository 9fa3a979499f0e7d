use steer3d_ops::{GridTransform, grid_nonlinearity};
use steer3d_so3::quadrature::lebedev_50;
use steer3d_so3::{Irreps, Normalization, Parity, SphericalHarmonics};

use crate::error::fault;
use crate::layers::FieldLayer;
use crate::onnx::{OnnxField, OnnxGraph};
use crate::{Field, NnError, Pass};

/// Spherical-grid (Fourier) nonlinearity (Cohen et al. 2018, *Spherical CNNs*,
/// <https://arxiv.org/abs/1801.10130>; Cesa, Lang and Weiler 2022): copy u of every irrep l together are
/// the coefficients of a function on the sphere, which is sampled, passed through a smooth ReLU
/// ([`grid_nonlinearity`]) and transformed back.
///
/// The grid has 50 points, which the symmetries of the cube permute, so those commute with it exactly.
/// For other rotations what the nonlinearity makes above degree 11 - l is aliased.
#[derive(Debug, Clone)]
pub struct SphereNonlinearity {
    irreps: Irreps,
    transform: GridTransform,
}

/// Largest degree l for which the grid resolves products of two harmonics.
const LARGEST_DEGREE: usize = 5;

impl SphereNonlinearity {
    /// A nonlinearity on fields of type `irreps`.
    ///
    /// # Errors
    /// [`NnError::Config`] for degrees above 5, and for irreps whose parity is not that of the harmonics.
    pub fn new(irreps: &Irreps) -> Result<Self, NnError> {
        let unfit = |irrep: steer3d_so3::Irrep| {
            irrep.l > LARGEST_DEGREE
                || irrep.parity.is_some_and(|p| p != Parity::of_harmonics(irrep.l))
        };
        if let Some(block) = irreps.blocks().find(|b| unfit(b.irrep)) {
            let problem = format!(
                "fields of type {} are no function on the sphere; expected degrees up to {LARGEST_DEGREE} with the parity of the harmonics (0e, 1o, 2e, ...)",
                block.irrep
            );
            return fault("nonlinearity", problem);
        }
        let lmax = irreps.lmax();
        let (points, weights) = lebedev_50();
        let table = SphericalHarmonics::<f64>::new(lmax, Normalization::Component)
            .map_err(steer3d_so3::IrrepsError::from)?;
        let rows: Vec<Vec<f64>> =
            table.eval_batch(&points).chunks((lmax + 1).pow(2)).map(<[f64]>::to_vec).collect();
        // Coefficients of unit variance are values of unit variance.
        let scale = (lmax + 1) as f64;
        let times = |row: &Vec<f64>, factor: f64| row.iter().map(|y| y * factor).collect();
        let mean = |w: f64| w / (4.0 * std::f64::consts::PI);
        Ok(Self {
            irreps: irreps.clone(),
            transform: GridTransform {
                signals: signals(irreps),
                to_grid: rows.iter().map(|row| times(row, 1.0 / scale)).collect(),
                from_grid: rows
                    .iter()
                    .zip(weights)
                    .map(|(r, w)| times(r, scale * mean(w)))
                    .collect(),
            },
        })
    }
}

impl FieldLayer for SphereNonlinearity {
    fn irreps(&self) -> [&Irreps; 2] {
        [&self.irreps; 2]
    }

    fn forward_t(&self, field: &Field, _pass: Pass) -> Result<Field, NnError> {
        field.expect("spherical-grid nonlinearity", &self.irreps)?;
        field.with(grid_nonlinearity(field.values(), &self.transform)?)
    }

    fn folded(&self) -> Result<Box<dyn FieldLayer>, NnError> {
        Ok(Box::new(self.clone()))
    }

    fn export(&self, field: &OnnxField, graph: &mut OnnxGraph) -> Result<OnnxField, NnError> {
        let GridTransform { signals, to_grid, from_grid } = &self.transform;
        let points = to_grid.len();
        // Place on the grids of all signals, channel, and the element of the matrix.
        let entries = |matrix: &[Vec<f64>], factor: f64| -> Vec<(usize, usize, f64)> {
            let of_signal = |(signal, parts): (usize, &Vec<(usize, usize)>)| {
                let of_part = |&(channel, row): &(usize, usize)| {
                    let entry = move |(p, r): (usize, &Vec<f64>)| {
                        (signal * points + p, channel, factor * r[row])
                    };
                    matrix.iter().enumerate().map(entry).collect::<Vec<_>>()
                };
                parts.iter().flat_map(of_part).collect::<Vec<_>>()
            };
            signals.iter().enumerate().flat_map(of_signal).collect()
        };
        let shape = [signals.len() * points, self.irreps.dim()];
        let to_grid = graph.matrix(shape, entries(to_grid, 1.0))?;
        let from_grid = graph.matrix(shape, entries(from_grid, 0.5))?.t()?;
        let v = graph.mixed(&field.value, "to_grid", &to_grid)?;
        let one = graph.number(1.0);
        let root = graph.node("Mul", &[&v, &v], &[]);
        let root = graph.node("Add", &[&root, &one], &[]);
        let root = graph.node("Sqrt", &[&root], &[]);
        let sum = graph.node("Add", &[&v, &root], &[]);
        let twice = graph.node("Sub", &[&sum, &one], &[]);
        let value = graph.mixed(&twice, "from_grid", &from_grid)?;
        Ok(OnnxField { value, kind: field.kind.clone() })
    }
}

/// Channels and harmonics of each function.
fn signals(irreps: &Irreps) -> Vec<Vec<(usize, usize)>> {
    let mut signals: Vec<Vec<(usize, usize)>> = vec![];
    let mut copies = vec![0; irreps.lmax() + 1];
    for block in irreps.blocks() {
        let (l, dim) = (block.irrep.l, block.irrep.dim());
        for u in 0..block.mul {
            if copies[l] == signals.len() {
                signals.push(vec![]);
            }
            let components = (0..dim).map(|m| (block.offset + u * dim + m, l * l + m));
            signals[copies[l]].extend(components);
            copies[l] += 1;
        }
    }
    signals
}
