//! The families of kernels to choose from.

use serde::{Deserialize, Serialize};

use crate::harmonic::sample_radial_family;
use crate::{Grid, HarmonicFamily, HarmonicFunction, JetPlan, KernelError};

/// Which angular degrees J a radial shell at radius m admits: high degrees alias on the few taps near
/// the centre.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    fn admits(self, j: usize, radius: usize) -> bool {
        match self {
            Self::TwiceRadius => j <= 2 * radius,
            Self::TwiceRadiusPlusOne => j == 0 || (radius > 0 && j <= 2 * radius + 1),
            Self::None => true,
        }
    }
}

/// A kernel family with its parameters. Lengths are in the unit of the voxel size given to
/// [`crate::KernelBasis::new`], i.e. in voxels for cubic voxels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "family", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Family {
    /// exp(−(r−m)²/2σ²) Y_J at radii m = 0..=k/2 (Weiler et al. 2018, section 4.3).
    GaussianShells {
        /// Width σ of a shell; the paper has 0.6.
        sigma: f64,
        /// Which degrees a shell admits.
        #[serde(default)]
        cutoff: AngularCutoff,
    },
    /// Y_J(∇) Δⁿ of a Gaussian with J + 2n ≤ `order`, from fitted 1-D filters ([`JetPlan`]).
    GaussianJets {
        /// Highest derivative order N, at most k − 1.
        order: usize,
        /// Width σ of the Gaussian; `None` takes the fitted filters of this size and order.
        #[serde(default)]
        sigma: Option<f64>,
    },
}

impl Family {
    /// The paper's Gaussian shells: σ = 0.6, J ≤ 2m.
    pub fn shells() -> Self {
        Self::GaussianShells { sigma: 0.6, cutoff: AngularCutoff::TwiceRadius }
    }

    /// Gaussian jets of derivative order `order` with fitted filters.
    pub fn jets(order: usize) -> Self {
        Self::GaussianJets { order, sigma: None }
    }
}

impl HarmonicFamily for Family {
    fn sample(&self, grid: &Grid, jmax: usize) -> Result<Vec<HarmonicFunction>, KernelError> {
        match *self {
            Self::GaussianShells { sigma, cutoff } => {
                require_positive("sigma", sigma)?;
                let gaussian = |m: usize, r: f64| (-((r - m as f64) / sigma).powi(2) / 2.0).exp();
                let shells = grid.size() / 2 + 1;
                Ok(sample_radial_family(grid, jmax, shells, |j, m| cutoff.admits(j, m), gaussian))
            }
            Self::GaussianJets { order, sigma } => {
                if let Some(sigma) = sigma {
                    require_positive("sigma", sigma)?;
                }
                Ok(JetPlan::new(grid, order, sigma, jmax)?.sample())
            }
        }
    }
}

pub(crate) fn require_positive(name: &'static str, found: f64) -> Result<(), KernelError> {
    if found.is_finite() && found > 0.0 {
        return Ok(());
    }
    Err(KernelError::Parameter { name, found, expected: "a positive finite number".into() })
}
