//! Finds the width σ and band s of Gaussian jets with the least equivariance error, for every kernel
//! size and order, and prints the table `FITTED` of `src/jets.rs`.
//!
//! ```sh
//! cargo run --release -p steer3d-kernels --example fit_jets
//! ```
//!
//! The loss, minimised by Nelder-Mead, is the mean over the field widths 1.0 and 1.25 of ln(kernel-level
//! error, mean over the functions) + ln(error of the layer 8x0+4x1+2x2 -> 8x0+4x1+2x2), the closed forms
//! of the module `equivariance`. The errors at the optimum go to stderr.
#![allow(clippy::print_stdout, reason = "the table is the output")]

use std::error::Error;

use argmin::core::{CostFunction, Executor, State};
use argmin::solver::neldermead::NelderMead;
use steer3d_kernels::equivariance::{FieldSpectrum, ResponsePower, mixed_power};
use steer3d_kernels::jets::fit_filters;
use steer3d_kernels::{Family, JetPlan, KernelBasis, TapGrid};
use steer3d_so3::Irreps;

const WIDTHS: [f64; 2] = [1.0, 1.25];
const IRREPS: &str = "8x0+4x1+2x2";

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

struct Problem {
    size: usize,
    order: usize,
    spectra: Vec<FieldSpectrum>,
    /// Function index and weight of its power in the layer error.
    shares: Vec<(usize, f64)>,
}

impl Problem {
    fn new(size: usize, order: usize) -> Fallible<Self> {
        let irreps: Irreps = IRREPS.parse()?;
        let spectra = WIDTHS
            .iter()
            .map(|&w| FieldSpectrum::with_nodes(w, 14, 8))
            .collect::<Result<_, _>>()?;
        let grid = TapGrid::new(size, [1.0; 3])?;
        let plan = JetPlan::new(&grid, order, Some(1.0), order)?;
        let family = Family::GaussianJets { order, sigma: Some(1.0) };
        let basis = KernelBasis::with_family(&irreps, &irreps, grid, &family)?;
        let index = |j, n| plan.harmonics.iter().position(|h| (h.j, h.radial) == (j, n));
        let shares = basis
            .path_powers()
            .filter_map(|(path, share)| {
                Some((index(path.j, path.radial)?, share / (2 * path.j + 1) as f64))
            })
            .collect();
        Ok(Self { size, order, spectra, shares })
    }

    /// Kernel-level and layer-level error for each width.
    fn errors(&self, sigma: f64, band: f64) -> Vec<(f64, f64)> {
        let taps = fit_filters(self.size, self.order, sigma, band, 1.0);
        let plan = JetPlan::with_taps(
            self.size,
            self.order,
            [taps.clone(), taps.clone(), taps],
            self.order,
        );
        let degrees: Vec<usize> = plan.harmonics.iter().map(|h| h.j).collect();
        let errors = |spectrum: &FieldSpectrum| {
            let powers = spectrum.response_powers(&degrees, |w| plan.transform(w));
            let sum: f64 = powers.iter().map(ResponsePower::error).sum();
            let layer = mixed_power(self.shares.iter().map(|&(f, share)| (share, powers[f])));
            (sum / powers.len() as f64, layer.error())
        };
        self.spectra.iter().map(errors).collect()
    }

    fn loss(&self, sigma: f64, band: f64) -> f64 {
        let errors = self.errors(sigma, band);
        errors.iter().map(|(kernel, layer)| kernel.ln() + layer.ln()).sum::<f64>()
            / (2 * errors.len()) as f64
    }
}

struct TwoParameters<'a>(&'a Problem);

impl CostFunction for TwoParameters<'_> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, p: &Vec<f64>) -> Result<f64, argmin::core::Error> {
        Ok(self.0.loss(p[0], p[1]))
    }
}

fn optimise(size: usize, order: usize) -> Fallible<()> {
    let problem = Problem::new(size, order)?;
    let sigma = 0.33 * (size as f64).sqrt();
    let simplex = vec![vec![sigma, 1.3], vec![1.1 * sigma, 1.3], vec![sigma, 1.6]];
    let fit =
        Executor::new(TwoParameters(&problem), NelderMead::new(simplex).with_sd_tolerance(1e-4)?)
            .configure(|state| state.max_iters(60))
            .run()?;
    let best = fit.state.get_best_param().ok_or("no fit found")?;
    println!("    ({size}, {order}, {:.3}, {:.3}),", best[0], best[1]);
    eprintln!("k = {size}, N = {order}: (kernel, layer) {:.5?}", problem.errors(best[0], best[1]));
    Ok(())
}

fn main() -> Fallible<()> {
    for size in [3, 5, 7, 9] {
        for order in 1..size.min(7) {
            optimise(size, order)?;
        }
    }
    Ok(())
}
