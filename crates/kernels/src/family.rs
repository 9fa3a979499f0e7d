//! The families of kernels to choose from.
//!
//! All radial families multiply a function of r = |x| with the harmonics Y_J(x/r). Those with compact
//! support use the radius r_c = k/2 (in units of length, for example 2.5 for k = 5), the largest ball in
//! the kernel's cube.

use std::f64::consts::{FRAC_PI_2, PI};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use steer3d_so3::L_MAX;

use crate::harmonic::{sample_radial_family, unit_functions};
use crate::{HarmonicFamily, HarmonicFunction, JetPlan, KernelError, TapGrid};

/// The most radial functions that a family may have.
pub const MAX_FUNCTIONS: usize = 64;

/// Which angular degrees J a radial function centred at radius m (in voxels) admits: high degrees alias
/// on the few taps near the centre.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AngularCutoff {
    /// J ≤ 2m (Weiler et al. 2018, section 4.3).
    #[default]
    TwiceRadius,
    /// J ≤ 2m + 1 for m > 0 and J = 0 for m = 0, as the paper's published code has it.
    TwiceRadiusPlusOne,
    /// Every degree at every radius.
    None,
}

impl AngularCutoff {
    fn admits(self, j: usize, radius: f64) -> bool {
        // A radius such as 1 that was computed as 0.9999999 still admits J = 2.
        let twice = 2.0 * radius + 1e-9;
        match self {
            Self::TwiceRadius => j as f64 <= twice,
            Self::TwiceRadiusPlusOne => j == 0 || (radius > 0.0 && j as f64 <= twice + 1.0),
            Self::None => true,
        }
    }
}

/// Shape of the bumps of [`Family::SoftOneHot`] as functions of d = (r − r_i)/step (e3nn's
/// `soft_one_hot_linspace`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BumpShape {
    /// cos(πd/2) for |d| < 1.
    Cosine,
    /// exp(−d²).
    Gaussian,
    /// exp(−1/(1+d) − 1/(1−d)) for |d| < 1: smooth, with compact support.
    SmoothFinite,
}

impl BumpShape {
    fn value(self, d: f64) -> f64 {
        match self {
            Self::Gaussian => (-d * d).exp(),
            _ if d.abs() >= 1.0 => 0.0,
            Self::Cosine => (FRAC_PI_2 * d).cos(),
            Self::SmoothFinite => (-1.0 / (1.0 + d) - 1.0 / (1.0 - d)).exp(),
        }
    }
}

/// A kernel family with its parameters. Lengths are in the unit of the voxel size given to
/// [`crate::KernelBasis::new`], i.e. in voxels for cubic voxels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "family", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Family {
    /// exp(−(r−m)²/2σ²) Y_J at radii m = 0..=(k−1)/2 (Weiler et al. 2018, section 4.3).
    GaussianShells {
        /// Width σ of a shell; the paper has 0.6.
        sigma: f64,
        /// Which degrees a shell admits.
        #[serde(default)]
        cutoff: AngularCutoff,
    },
    /// Y_J(∇) p_n(Δ) of a Gaussian with J + 2n ≤ `order`, from separable filters ([`JetPlan`]).
    GaussianJets {
        /// Highest derivative order N, at most k − 1.
        order: usize,
        /// Width σ of the Gaussian; `None` takes the optimised filters of this size and order.
        #[serde(default)]
        sigma: Option<f64>,
    },
    /// √(2/r_c) sin(nπr/r_c)/r for n = 1..=`functions`, times the polynomial envelope of exponent
    /// p = 6 that takes it to zero at r_c with two derivatives (Gasteiger et al. 2020, "Directional
    /// message passing", eqs. 7 and 8), times Y_J.
    Bessel {
        /// Number of radial functions.
        functions: usize,
        /// Largest degree; `None` for all.
        #[serde(default)]
        max_degree: Option<usize>,
    },
    /// Bumps at the radii r_i = i r_c / `functions`, i = 0..`functions`, times Y_J; zero beyond r_c.
    SoftOneHot {
        /// Number of radial functions.
        functions: usize,
        /// Shape of a bump.
        shape: BumpShape,
        /// Which degrees a bump admits.
        #[serde(default)]
        cutoff: AngularCutoff,
    },
    /// One function for each of [`TapGrid::radii`]: Y_J/√n at the n taps of that radius and 0 elsewhere. With
    /// the weight √n f_J(r) of path (J, i), r = `radii()[i]`, the kernel is f_J(|x|) Y_J, so that a
    /// learned function f_J, for example a perceptron, gets its gradient through the weights. On other voxels f_J is
    /// interpolated linearly between the radii of those that the kernel was made for.
    Radii {
        /// Which degrees a radius admits.
        #[serde(default)]
        cutoff: AngularCutoff,
    },
}

impl Family {
    /// The paper's Gaussian shells: σ = 0.6, J ≤ 2m.
    pub fn shells() -> Self {
        Self::GaussianShells { sigma: 0.6, cutoff: AngularCutoff::TwiceRadius }
    }

    /// Gaussian jets of derivative order `order` with optimised filters.
    pub fn jets(order: usize) -> Self {
        Self::GaussianJets { order, sigma: None }
    }

    /// At most how many functions of one degree it has on the taps of `grid`, and their largest degree.
    pub(crate) fn extent(&self, grid: &TapGrid) -> (usize, usize) {
        match *self {
            Self::GaussianShells { .. } => (grid.made_for().size() / 2 + 1, L_MAX),
            Self::GaussianJets { order, .. } => (order / 2 + 1, order),
            Self::Bessel { functions, max_degree } => (functions, max_degree.unwrap_or(L_MAX)),
            Self::SoftOneHot { functions, .. } => (functions, L_MAX),
            Self::Radii { .. } => (grid.made_for().radii().len(), L_MAX),
        }
    }
}

/// The short forms `shells`, `jets:ORDER`, `bessel:FUNCTIONS`, `cosine:FUNCTIONS` and `radii`, with the
/// default values of everything else.
impl FromStr for Family {
    type Err = KernelError;

    fn from_str(text: &str) -> Result<Self, KernelError> {
        let unknown = || KernelError::FamilyName { found: text.into() };
        let (name, number) = match text.split_once(':') {
            Some((name, number)) => (name, Some(number.parse().map_err(|_| unknown())?)),
            None => (text, None),
        };
        match (name, number) {
            ("shells", None) => Ok(Self::shells()),
            ("jets", Some(order)) => Ok(Self::jets(order)),
            ("bessel", Some(functions)) => Ok(Self::Bessel { functions, max_degree: None }),
            ("cosine", Some(functions)) => Ok(Self::SoftOneHot {
                functions,
                shape: BumpShape::Cosine,
                cutoff: AngularCutoff::default(),
            }),
            ("radii", None) => Ok(Self::Radii { cutoff: AngularCutoff::default() }),
            _ => Err(unknown()),
        }
    }
}

impl HarmonicFamily for Family {
    fn sample(&self, grid: &TapGrid, jmax: usize) -> Result<Vec<HarmonicFunction>, KernelError> {
        let radius = grid.radius();
        match *self {
            Self::GaussianShells { sigma, cutoff } => {
                require_positive("sigma", sigma)?;
                let gaussian = |m: usize, r: f64| (-((r - m as f64) / sigma).powi(2) / 2.0).exp();
                let admits = |j, m| cutoff.admits(j, m as f64);
                sample_radial_family(grid, jmax, grid.made_for().size() / 2 + 1, admits, gaussian)
            }
            Self::GaussianJets { order, sigma } => {
                if let Some(sigma) = sigma {
                    require_positive("sigma", sigma)?;
                }
                Ok(JetPlan::new(grid, order, sigma, jmax)?.sample())
            }
            Self::Bessel { functions, max_degree } => {
                require_functions(functions)?;
                let bessel = |n: usize, r: f64| bessel(n + 1, r / radius);
                let admits = |j, _| max_degree.is_none_or(|max| j <= max);
                sample_radial_family(grid, jmax, functions, admits, bessel)
            }
            Self::SoftOneHot { functions, shape, cutoff } => {
                require_functions(functions)?;
                let step = radius / functions as f64;
                let bump = |i: usize, r: f64| {
                    if r < radius { shape.value(r / step - i as f64) } else { 0.0 }
                };
                let admits = |j, i| cutoff.admits(j, i as f64 * step);
                sample_radial_family(grid, jmax, functions, admits, bump)
            }
            Self::Radii { cutoff } => {
                let radii = grid.made_for().radii();
                let hat = |i: usize, r: f64| if r > radius { 0.0 } else { hat(&radii, i, r) };
                let admits = |j, i| cutoff.admits(j, radii[i]);
                sample_radial_family(grid, jmax, radii.len(), admits, hat)
            }
        }
    }
}

/// A family whose functions are cut to the ball of radius `radius` (units of length), as e3nn and escnn
/// cut the corners of their kernels.
#[derive(Debug, Clone, PartialEq)]
pub struct BallMask<F> {
    /// The family to cut.
    pub family: F,
    /// Taps farther than this from the centre are zero.
    pub radius: f64,
}

impl<F: HarmonicFamily> HarmonicFamily for BallMask<F> {
    fn sample(&self, grid: &TapGrid, jmax: usize) -> Result<Vec<HarmonicFunction>, KernelError> {
        require_positive("radius", self.radius)?;
        let cut = |grid: &TapGrid| -> Result<Vec<HarmonicFunction>, KernelError> {
            let squares = |p: &[f64; 3]| p.iter().map(|c| c * c).sum::<f64>();
            let inside = |p: &[f64; 3]| squares(p) <= self.radius * self.radius;
            let inside: Vec<bool> = grid.positions().iter().map(inside).collect();
            let mut functions = self.family.sample(grid, jmax)?;
            for function in &mut functions {
                for (value, inside) in function.samples.iter_mut().zip(inside.iter().cycle()) {
                    *value *= f64::from(*inside);
                }
            }
            Ok(functions)
        };
        Ok(unit_functions(&cut(&grid.made_for())?, cut(grid)?, 1.0))
    }
}

/// 1 at the i-th of the ascending `radii`, the first of which is 0, and 0 at the others: linear between them, constant
/// beyond the last.
fn hat(radii: &[f64], i: usize, r: f64) -> f64 {
    // Distances of taps are equal to rounding.
    if let Some(at) = radii.iter().position(|radius| (radius - r).abs() < 1e-9) {
        return f64::from(at == i);
    }
    let above = radii.partition_point(|radius| *radius < r);
    let (below, Some(next)) = (radii[above - 1], radii.get(above)) else {
        return f64::from(i + 1 == above);
    };
    let share = (r - below) / (next - below);
    if i == above {
        share
    } else if i + 1 == above {
        1.0 - share
    } else {
        0.0
    }
}

/// √2 sin(nπx)/x times the envelope 1 − 28x⁶ + 48x⁷ − 21x⁸, zero for x ≥ 1.
fn bessel(n: usize, x: f64) -> f64 {
    if x >= 1.0 {
        return 0.0;
    }
    let n = n as f64;
    let sinc = if x == 0.0 { n * PI } else { (n * PI * x).sin() / x };
    std::f64::consts::SQRT_2 * sinc * (1.0 - 28.0 * x.powi(6) + 48.0 * x.powi(7) - 21.0 * x.powi(8))
}

fn require_functions(found: usize) -> Result<(), KernelError> {
    if (1..=MAX_FUNCTIONS).contains(&found) {
        return Ok(());
    }
    let expected = format!("between 1 and {MAX_FUNCTIONS}");
    Err(KernelError::Parameter { name: "functions", found: found as f64, expected })
}

pub(crate) fn require_positive(name: &'static str, found: f64) -> Result<(), KernelError> {
    if found.is_finite() && found > 0.0 {
        return Ok(());
    }
    Err(KernelError::Parameter { name, found, expected: "a positive finite number".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_short_names() {
        assert_eq!("shells".parse(), Ok(Family::shells()));
        assert_eq!("jets:3".parse(), Ok(Family::jets(3)));
        let bessel = Family::Bessel { functions: 2, max_degree: None };
        assert_eq!("bessel:2".parse(), Ok(bessel));
        for text in ["", "jets", "jets:x", "jets:-1", "shells:2", "spline"] {
            let error = text.parse::<Family>().unwrap_err().to_string();
            assert!(
                error.contains("jets:ORDER") && error.contains(&format!("`{text}`")),
                "{error}"
            );
        }
    }
}
