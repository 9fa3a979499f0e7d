//! Gaussian jets: solid harmonics of the partial derivatives of a Gaussian, from separable filters.
//!
//! b_{J,n} = Y_J(∇) Δⁿ G_σ transforms as Y_J, since Y_J(∇) is a spherical tensor operator and Δ and G_σ
//! are invariant. For J + 2n ≤ N these span all partial derivatives of order ≤ N of the Gaussian: the
//! *jets* ∂_x^a ∂_y^b ∂_z^c G_σ, products of three 1-D filters D^a, D^b, D^c of k taps each.
//!
//! # Filters
//! Sampling derivatives of a Gaussian on few taps breaks rotation equivariance. The filters are
//! fitted in the frequency domain instead: D^a minimises
//!
//! ∫_{−π}^{π} |H(θ) − (iw)^a exp(−σ²w²/2)|² exp(−s²w²) dθ,   w = θ/v,   H(θ) = Σ_j D^a\[j\] e^{ijθ}
//!
//! among filters of parity (−1)^a, with v the voxel edge and s the width of the fields in mind. σ and s
//! minimise the measured equivariance error; `docs/src/concepts/jets.md` has the figures.
//!
//! Since σ, s and w have units of length, a filter of another voxel edge v is fitted to the same derivative: only the
//! filters depend on the spacing of a volume ([`TapGrid::at_spacing`]), and what is made of jets does not. Frequencies
//! w beyond π, which voxels of edge 1 do not have, weigh as much as π, so that filters on finer voxels stay small there.
//! Coarser voxels hold smoother fields only, so their s is as many times as large as they are: it makes filters on voxels
//! twice as coarse 2 to 7 times as accurate.
//!
//! The functions of one degree are orthonormalised over the taps, in the order of n: b_{J,n} is then
//! Y_J(∇) p_n(Δ) G_σ with a polynomial p_n of degree n, which spans the same space.

use std::collections::BTreeMap;

use nalgebra::{DMatrix, DVector};
use steer3d_so3::{Normalization, clebsch_gordan, spherical_harmonics};

use crate::{HarmonicFunction, KernelError, TapGrid};

/// The highest derivative order supported.
pub const MAX_ORDER: usize = 8;

/// Band s of the fit where σ is given or no pair has been fitted, in units of length.
const DEFAULT_BAND: f64 = 1.3;

/// (k, N, σ, s): the fits of least equivariance error for cubic voxels, found by
/// `cargo run --release -p steer3d-kernels --example fit_jets` (its docs state the loss).
const FITTED: &[(usize, usize, f64, f64)] = &[
    (3, 1, 0.612, 1.027),
    (3, 2, 0.594, 1.187),
    (5, 1, 0.777, 1.126),
    (5, 2, 0.765, 1.140),
    (5, 3, 0.758, 1.155),
    (5, 4, 0.726, 1.186),
    (7, 1, 0.933, 1.253),
    (7, 2, 0.906, 1.181),
    (7, 3, 0.901, 1.161),
    (7, 4, 0.882, 1.170),
    (7, 5, 0.875, 1.189),
    (7, 6, 0.832, 1.194),
    (9, 1, 1.078, 1.213),
    (9, 2, 1.060, 1.240),
    (9, 3, 1.053, 1.229),
    (9, 4, 1.021, 1.194),
    (9, 5, 1.008, 1.186),
    (9, 6, 0.983, 1.184),
];

/// Everything a separable convolution needs: the response of one scalar channel to b_{J,n,M} is
///
/// Σ_entries value · (D^a along x, D^b along y, D^c along z of the channel),   (a, b, c) = `jets[jet]`.
#[derive(Debug, Clone, PartialEq)]
pub struct JetPlan {
    /// Highest derivative order N.
    pub order: usize,
    /// Taps per axis, k.
    pub size: usize,
    /// 1-D filters for x, y, z, each \[N+1, k\]; response(p) = Σ_j filter\[j\] f(p + j − k/2).
    pub taps: [Vec<f64>; 3],
    /// Derivative orders (a, b, c) along x, y, z, a + b + c ≤ N, by total order and then
    /// lexicographically.
    pub jets: Vec<[usize; 3]>,
    /// The harmonic functions as combinations of jets, ordered by J and then n.
    pub harmonics: Vec<JetHarmonic>,
}

/// One function b_{J,n} as a sparse combination of jets.
#[derive(Debug, Clone, PartialEq)]
pub struct JetHarmonic {
    /// Angular degree J.
    pub j: usize,
    /// Highest power n of the Laplacian: the function is Y_J(∇) p(Δ) G with a polynomial p of degree n.
    pub radial: usize,
    /// Nonzero coefficients, ordered by component and then jet, normalisation included.
    pub entries: Vec<JetCoefficient>,
}

/// One nonzero of a [`JetHarmonic`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JetCoefficient {
    /// Component index M + J in 0..2J+1.
    pub component: usize,
    /// Index into [`JetPlan::jets`].
    pub jet: usize,
    /// Coefficient.
    pub value: f64,
}

impl JetPlan {
    /// Jets up to `order` on the taps of `grid`, harmonics up to degree min(`order`, `jmax`), which are made
    /// orthonormal on the taps that `grid` is [made for](TapGrid::made_for).
    /// `sigma` is the width of the Gaussian; `None` takes the fitted value for that kernel size.
    ///
    /// # Errors
    /// If `order` exceeds k − 1, since k taps carry no more than k independent filters, or
    /// [`MAX_ORDER`].
    pub fn new(
        grid: &TapGrid,
        order: usize,
        sigma: Option<f64>,
        jmax: usize,
    ) -> Result<Self, KernelError> {
        let made_for = grid.made_for();
        let size = made_for.size();
        let max_order = (size - 1).min(MAX_ORDER);
        if order > max_order {
            return Err(KernelError::Parameter {
                name: "order",
                found: order as f64,
                expected: format!("at most {max_order} for kernel size {size}"),
            });
        }
        let (sigma, band) =
            sigma.map_or_else(|| fit_parameters(size, order), |sigma| (sigma, DEFAULT_BAND));
        let fit = |grid: &TapGrid| {
            [0, 1, 2].map(|axis| {
                let [edge, known] = [grid, &made_for].map(|grid| grid.voxel_size()[axis]);
                let band = band * (edge / known).max(1.0);
                fit_filters(grid.size(), order, sigma, band, edge)
            })
        };
        let plan = Self::with_taps(size, order, fit(&made_for), jmax);
        if *grid == made_for {
            return Ok(plan);
        }
        Ok(Self { size: grid.size(), taps: fit(grid), ..plan })
    }

    /// Jets of given filters for x, y, z, each \[order+1, size\] with filter a of parity (−1)^a.
    ///
    /// # Panics
    /// If a filter set does not have (order+1) · size taps.
    pub fn with_taps(size: usize, order: usize, taps: [Vec<f64>; 3], jmax: usize) -> Self {
        assert!(
            taps.iter().all(|t| t.len() == (order + 1) * size),
            "{order}+1 filters of {size} taps"
        );
        let jets = jets_up_to(order);
        let harmonics = harmonics_of_jets(&jets, order, jmax);
        let mut plan = Self { order, size, taps, jets, harmonics };
        plan.orthonormalize();
        plan
    }

    /// Fourier transforms Σ_x b(x) e^{iθ·x} of all harmonic functions at θ = (x, y, z) radians per
    /// voxel, concatenated, without the factor i that functions of odd degree have.
    pub fn transform(&self, theta: [f64; 3]) -> Vec<f64> {
        let [x, y, z] = [0, 1, 2].map(|axis| self.filter_transforms(axis, theta[axis]));
        let jets: Vec<f64> = self.jets.iter().map(|&[a, b, c]| x[a] * y[b] * z[c]).collect();
        let mut values = Vec::new();
        for harmonic in &self.harmonics {
            let start = values.len();
            values.resize(start + 2 * harmonic.j + 1, 0.0);
            for entry in &harmonic.entries {
                // Every two odd filters contribute i² = −1.
                let odd = self.jets[entry.jet].iter().filter(|a| *a % 2 == 1).count();
                let sign = if odd < 2 { 1.0 } else { -1.0 };
                values[start + entry.component] += sign * entry.value * jets[entry.jet];
            }
        }
        values
    }

    /// Transforms of the filters of one axis: the cosine sums of even, the sine sums of odd ones.
    fn filter_transforms(&self, axis: usize, theta: f64) -> Vec<f64> {
        let half = (self.size / 2) as f64;
        let phases: Vec<(f64, f64)> =
            (0..self.size).map(|t| (theta * (t as f64 - half)).sin_cos()).collect();
        let sum = |(a, filter): (usize, &[f64])| {
            let terms = filter.iter().zip(&phases);
            if a % 2 == 0 {
                terms.map(|(h, p)| h * p.1).sum()
            } else {
                terms.map(|(h, p)| h * p.0).sum()
            }
        };
        self.taps[axis].chunks_exact(self.size).enumerate().map(sum).collect()
    }

    /// The harmonic functions on all k³ taps.
    pub fn sample(&self) -> Vec<HarmonicFunction> {
        let jets: Vec<Vec<f64>> = self.jets.iter().map(|&jet| self.sample_jet(jet)).collect();
        self.harmonics.iter().map(|h| self.sample_harmonic(h, &jets)).collect()
    }

    /// Orthonormalises the functions of each degree over the taps, by Gram and Schmidt in the order of
    /// n, and drops those that vanish or depend on the others.
    fn orthonormalize(&mut self) {
        let functions = self.sample();
        let mut kept: Vec<(JetHarmonic, HarmonicFunction)> = Vec::new();
        for (mut harmonic, mut function) in
            std::mem::take(&mut self.harmonics).into_iter().zip(functions)
        {
            let Some(scale) = function.white_noise_scale() else { continue };
            combine(&mut harmonic, &mut function, scale, &kept);
            // What is left of a unit function may be small, but not rounding.
            let Some(scale) = function.white_noise_scale().filter(|s| *s < 1e6) else { continue };
            combine(&mut harmonic, &mut function, scale, &[]);
            kept.push((harmonic, function));
        }
        self.harmonics = kept.into_iter().map(|(harmonic, _)| harmonic).collect();
    }

    fn sample_jet(&self, jet: [usize; 3]) -> Vec<f64> {
        let k = self.size;
        let [x, y, z] = [0, 1, 2].map(|axis| &self.taps[axis][jet[axis] * k..][..k]);
        let plane: Vec<f64> = y.iter().flat_map(|b| x.iter().map(move |a| a * b)).collect();
        z.iter().flat_map(|c| plane.iter().map(move |v| v * c)).collect()
    }

    fn sample_harmonic(&self, harmonic: &JetHarmonic, jets: &[Vec<f64>]) -> HarmonicFunction {
        let num_taps = self.size.pow(3);
        let mut samples = vec![0.0; (2 * harmonic.j + 1) * num_taps];
        for entry in &harmonic.entries {
            let target = &mut samples[entry.component * num_taps..][..num_taps];
            for (t, v) in target.iter_mut().zip(&jets[entry.jet]) {
                *t += entry.value * v;
            }
        }
        HarmonicFunction { j: harmonic.j, radial: harmonic.radial, samples }
    }
}

/// Scales a function and subtracts its components along the unit functions `kept` of its degree.
fn combine(
    harmonic: &mut JetHarmonic,
    function: &mut HarmonicFunction,
    scale: f64,
    kept: &[(JetHarmonic, HarmonicFunction)],
) {
    function.samples.iter_mut().for_each(|v| *v *= scale);
    let mut values: BTreeMap<(usize, usize), f64> =
        harmonic.entries.iter().map(|e| ((e.component, e.jet), e.value * scale)).collect();
    for (other, unit) in kept.iter().filter(|(h, _)| h.j == harmonic.j) {
        let overlap = (function.samples.iter().zip(&unit.samples)).map(|(a, b)| a * b).sum::<f64>()
            / (2 * harmonic.j + 1) as f64;
        for (v, u) in function.samples.iter_mut().zip(&unit.samples) {
            *v -= overlap * u;
        }
        for e in &other.entries {
            *values.entry((e.component, e.jet)).or_insert(0.0) -= overlap * e.value;
        }
    }
    harmonic.entries = values
        .into_iter()
        .map(|((component, jet), value)| JetCoefficient { component, jet, value })
        .collect();
}

/// Width σ and band s for a kernel size and order: from [`FITTED`], else by the rule it follows.
fn fit_parameters(size: usize, order: usize) -> (f64, f64) {
    let fitted = FITTED.iter().find(|f| (f.0, f.1) == (size, order));
    fitted.map_or((0.33 * (size as f64).sqrt(), DEFAULT_BAND), |f| (f.2, f.3))
}

/// The least-squares filters D^0..D^order of the module docs on `size` taps at distance `edge`,
/// \[order+1, size\], for a Gaussian of width `sigma` and fields of width `band`.
pub fn fit_filters(size: usize, order: usize, sigma: f64, band: f64, edge: f64) -> Vec<f64> {
    (0..=order).flat_map(|a| fit_filter(size, a, sigma, band, edge)).collect()
}

fn fit_filter(size: usize, a: usize, sigma: f64, band: f64, edge: f64) -> Vec<f64> {
    const INTERVALS: usize = 1024;
    let half = size / 2;
    // Half of the filter is free: H(θ) = Σ_j c_j φ_j(θ) with φ = cos for even a, sin for odd a.
    let first = a % 2;
    let free = half + 1 - first;
    let phi = |j: usize, theta: f64| {
        if first == 0 { (j as f64 * theta).cos() } else { ((j + 1) as f64 * theta).sin() }
    };
    let sign = if a % 4 < 2 { 1.0 } else { -1.0 };
    let mut normal = DMatrix::zeros(free, free);
    let mut rhs = DVector::zeros(free);
    for step in 0..=INTERVALS {
        let simpson = match step {
            0 | INTERVALS => 1.0,
            s if s % 2 == 1 => 4.0,
            _ => 2.0,
        };
        let theta = std::f64::consts::PI * step as f64 / INTERVALS as f64;
        let w = theta / edge;
        let weight = simpson * (-(band * w.min(std::f64::consts::PI)).powi(2)).exp();
        let target = sign * w.powi(a as i32) * (-(sigma * w).powi(2) / 2.0).exp();
        let row = DVector::from_fn(free, |j, _| phi(j, theta));
        normal.ger(weight, &row, &row, 1.0);
        rhs.axpy(weight * target, &row, 1.0);
    }
    let solution = normal.svd(true, true).solve(&rhs, 1e-14).expect("both factors were asked for");
    let mut filter = vec![0.0; size];
    for j in first..=half {
        let c = solution[j - first];
        if j == 0 {
            filter[half] = c;
        } else {
            filter[half + j] = c / 2.0;
            filter[half - j] = if first == 0 { c / 2.0 } else { -c / 2.0 };
        }
    }
    filter
}

fn jets_up_to(order: usize) -> Vec<[usize; 3]> {
    let mut jets = Vec::new();
    for total in 0..=order {
        for a in (0..=total).rev() {
            jets.extend((0..=total - a).rev().map(|b| [a, b, total - a - b]));
        }
    }
    jets
}

fn harmonics_of_jets(jets: &[[usize; 3]], order: usize, jmax: usize) -> Vec<JetHarmonic> {
    let index: BTreeMap<[usize; 3], usize> = jets.iter().copied().zip(0..).collect();
    let mut harmonics = Vec::new();
    for (j, mut components) in solid_harmonics(jmax.min(order)).into_iter().enumerate() {
        for n in 0..=(order - j) / 2 {
            if n > 0 {
                components.iter_mut().for_each(|p| *p = times_squared_radius(p));
            }
            let entries = components
                .iter()
                .enumerate()
                .flat_map(|(component, polynomial)| {
                    polynomial.iter().map(move |(jet, &value)| (component, jet, value))
                })
                .map(|(component, jet, value)| JetCoefficient { component, jet: index[jet], value })
                .collect();
            harmonics.push(JetHarmonic { j, radial: n, entries });
        }
    }
    harmonics
}

/// Coefficient of x^a y^b z^c under the key \[a, b, c\].
type Polynomial = BTreeMap<[usize; 3], f64>;

/// The solid harmonics r^l Y_l as polynomials, one vector of 2l+1 for each l ≤ `lmax`, component
/// normalisation. Y_l is the part of degree l of Y_{l−1} ⊗ Y_1.
fn solid_harmonics(lmax: usize) -> Vec<Vec<Polynomial>> {
    let mut all = vec![vec![Polynomial::from([([0; 3], 1.0)])]];
    for l in 1..=lmax {
        let cg = clebsch_gordan(l, l - 1, 1);
        let product: Vec<Polynomial> = (0..=2 * l)
            .map(|m| {
                let mut sum = Polynomial::new();
                for (a, factor) in all[l - 1].iter().enumerate() {
                    for axis in 0..3 {
                        add_scaled(&mut sum, &shifted(factor, axis, 1), cg.get(m, a, axis));
                    }
                }
                sum
            })
            .collect();
        all.push(with_sphere_values(l, product));
    }
    all
}

/// Scales `product`, proportional to r^l Y_l, to component normalisation and drops rounding.
fn with_sphere_values(l: usize, product: Vec<Polynomial>) -> Vec<Polynomial> {
    let point = [0.48, 0.6, 0.64];
    let expected = &spherical_harmonics(l, point, Normalization::Component)[l * l..];
    let found: Vec<f64> = product.iter().map(|p| evaluate(p, point)).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let scale = dot(expected, &found) / dot(&found, &found);
    product
        .into_iter()
        .map(|p| {
            p.into_iter().map(|(e, c)| (e, c * scale)).filter(|(_, c)| c.abs() > 1e-12).collect()
        })
        .collect()
}

fn evaluate(polynomial: &Polynomial, point: [f64; 3]) -> f64 {
    let power = |e: &[usize; 3]| (0..3).map(|i| point[i].powi(e[i] as i32)).product::<f64>();
    polynomial.iter().map(|(e, c)| c * power(e)).sum()
}

fn times_squared_radius(polynomial: &Polynomial) -> Polynomial {
    let mut sum = Polynomial::new();
    for axis in 0..3 {
        add_scaled(&mut sum, &shifted(polynomial, axis, 2), 1.0);
    }
    sum
}

fn shifted(polynomial: &Polynomial, axis: usize, by: usize) -> Polynomial {
    let shift = |mut e: [usize; 3]| {
        e[axis] += by;
        e
    };
    polynomial.iter().map(|(&e, &c)| (shift(e), c)).collect()
}

fn add_scaled(sum: &mut Polynomial, term: &Polynomial, scale: f64) {
    for (&exponents, c) in term {
        *sum.entry(exponents).or_insert(0.0) += scale * c;
    }
}
