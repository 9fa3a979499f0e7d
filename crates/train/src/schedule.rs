//! The learning rate over a training.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// A linear rise over `warm_up` of all steps to the learning rate, and then a decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// The learning rate itself.
    Constant {
        /// Share of all steps in which the rate rises from 0.
        #[serde(default)]
        warm_up: f64,
    },
    /// Half a cosine over the steps that are left (Loshchilov and Hutter 2017, SGDR, without
    /// restarts).
    Cosine {
        /// Share of all steps in which the rate rises from 0.
        #[serde(default = "tenth")]
        warm_up: f64,
        /// The rate at the end as a share of the learning rate.
        #[serde(default)]
        floor: f64,
    },
    /// The rate times `factor` for each epoch after the first `start`.
    Exponential {
        /// Share of all steps in which the rate rises from 0.
        #[serde(default)]
        warm_up: f64,
        /// Factor of an epoch.
        factor: f64,
        /// Epochs before the first decay.
        #[serde(default)]
        start: usize,
    },
    /// The rate times `factor` whenever the validation loss (the training loss where there are no
    /// validation items) has not fallen by a ten-thousandth for more than `patience` epochs.
    Plateau {
        /// Share of all steps in which the rate rises from 0.
        #[serde(default)]
        warm_up: f64,
        /// Factor of a reduction.
        factor: f64,
        /// Epochs without a fall that are borne.
        patience: usize,
    },
}

fn tenth() -> f64 {
    0.1
}

impl Default for Schedule {
    /// A cosine after a tenth of the steps.
    fn default() -> Self {
        Self::Cosine { warm_up: tenth(), floor: 0.0 }
    }
}

/// Where in a training a step is.
#[derive(Debug, Clone, Copy)]
pub struct SchedulePoint {
    /// Optimiser step, from 0.
    pub step: usize,
    /// Optimiser steps in all.
    pub steps: usize,
    /// Epoch, from 1.
    pub epoch: usize,
    /// Reductions by the plateau so far.
    pub reductions: i32,
}

impl Schedule {
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let fault = |field, value: f64, expected: &str| {
            Err(TrainError::settings(field, format!("expected {expected}, found {value}")))
        };
        let warm_up = self.warm_up();
        if !(0.0..=1.0).contains(&warm_up) {
            return fault("warm_up", warm_up, "a share of the steps from 0 to 1");
        }
        match *self {
            Self::Cosine { floor, .. } if !(0.0..=1.0).contains(&floor) => {
                fault("floor", floor, "a share of the learning rate from 0 to 1")
            }
            Self::Exponential { factor, .. } | Self::Plateau { factor, .. }
                if !(factor > 0.0 && factor <= 1.0) =>
            {
                fault("factor", factor, "above 0 and at most 1")
            }
            _ => Ok(()),
        }
    }

    fn warm_up(&self) -> f64 {
        match *self {
            Self::Constant { warm_up }
            | Self::Cosine { warm_up, .. }
            | Self::Exponential { warm_up, .. }
            | Self::Plateau { warm_up, .. } => warm_up,
        }
    }

    /// The learning rate of a step, whose peak is `rate`.
    pub fn rate(&self, rate: f64, point: SchedulePoint) -> f64 {
        let SchedulePoint { step, steps, epoch, reductions } = point;
        let warm_up = match self.warm_up() {
            0.0 => 0,
            share => ((steps as f64 * share) as usize).max(1),
        };
        if step < warm_up {
            return rate * (step + 1) as f64 / warm_up as f64;
        }
        match *self {
            Self::Constant { .. } => rate,
            Self::Cosine { floor, .. } => {
                let progress = (step - warm_up) as f64 / (steps - warm_up).max(1) as f64;
                let high = 0.5 * (1.0 + (PI * progress).cos());
                if floor == 0.0 { rate * high } else { rate * (floor + (1.0 - floor) * high) }
            }
            Self::Exponential { factor, start, .. } => {
                rate * factor.powf(epoch.saturating_sub(start) as f64)
            }
            Self::Plateau { factor, .. } => rate * factor.powi(reductions),
        }
    }
}

/// How long the loss has not fallen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plateau {
    lowest: Option<f64>,
    waiting: usize,
    pub(crate) reductions: i32,
}

impl Plateau {
    /// Takes the loss of an epoch into account.
    pub(crate) fn observe(&mut self, schedule: &Schedule, loss: f64) {
        let Schedule::Plateau { patience, .. } = *schedule else { return };
        if self.lowest.is_none_or(|lowest| loss < lowest * (1.0 - 1e-4)) {
            self.lowest = Some(loss);
            self.waiting = 0;
        } else {
            self.waiting += 1;
        }
        if self.waiting > patience {
            self.waiting = 0;
            self.reductions += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, steps: usize) -> Vec<f64> {
        let at = |step| SchedulePoint { step, steps, epoch: 1 + step / 2, reductions: 0 };
        (0..steps).map(|step| schedule.rate(0.5, at(step))).collect()
    }

    #[test]
    fn a_cosine_rises_to_the_peak_and_falls_to_the_floor() {
        let found = rates(Schedule::Cosine { warm_up: 0.2, floor: 0.1 }, 20);
        for step in 0..4 {
            assert!((found[step] - 0.125 * (step + 1) as f64).abs() < 1e-12);
        }
        for step in 4..20 {
            let half = 0.5 * (1.0 + (PI * (step - 4) as f64 / 16.0).cos());
            assert!((found[step] - 0.5 * (0.1 + 0.9 * half)).abs() < 1e-12);
        }
        // At 12 of 4..20 the cosine is through half of its way.
        assert!((found[12] - 0.5 * 0.55).abs() < 1e-12);
        let point = SchedulePoint { step: 20, steps: 20, epoch: 1, reductions: 0 };
        let end = Schedule::Cosine { warm_up: 0.2, floor: 0.1 }.rate(0.5, point);
        assert!((end - 0.05).abs() < 1e-12);
    }

    #[test]
    fn an_exponential_starts_after_its_epochs() {
        let schedule = Schedule::Exponential { warm_up: 0.0, factor: 0.94, start: 40 };
        let rate =
            |epoch| schedule.rate(0.01, SchedulePoint { step: 1, steps: 10, epoch, reductions: 0 });
        assert_eq!((rate(1), rate(40)), (0.01, 0.01));
        for epoch in [41, 50, 100] {
            let expected = 0.01 * 0.94f64.powi(epoch - 40);
            assert!((rate(epoch as usize) - expected).abs() < 1e-15);
        }
    }

    #[test]
    fn a_constant_stays_after_its_warm_up() {
        let expected = [0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5, 0.5];
        assert_eq!(rates(Schedule::Constant { warm_up: 0.5 }, 8), expected);
        assert_eq!(rates(Schedule::Constant { warm_up: 0.0 }, 3), [0.5; 3]);
    }

    #[test]
    fn a_plateau_reduces_after_more_than_its_patience() {
        let schedule = Schedule::Plateau { warm_up: 0.0, factor: 0.1, patience: 2 };
        let mut plateau = Plateau::default();
        // As ReduceLROnPlateau of PyTorch 2.15. Falls at 1.0 and 0.9; 0.89995 is no fall by a ten-thousandth.
        let losses = [1.0, 0.9, 0.95, 0.89995, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8];
        let mut found = vec![];
        for loss in losses {
            plateau.observe(&schedule, loss);
            found.push(plateau.reductions);
        }
        assert_eq!(found, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3]);
        let point = SchedulePoint { step: 0, steps: 1, epoch: 1, reductions: 2 };
        assert!((schedule.rate(1.0, point) - 0.01).abs() < 1e-15);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let message = |s: Schedule| s.check().unwrap_err().to_string();
        assert!(message(Schedule::Constant { warm_up: -0.1 }).contains("warm_up"));
        assert!(message(Schedule::Cosine { warm_up: 0.1, floor: 2.0 }).contains("floor"));
        let zero = Schedule::Plateau { warm_up: 0.0, factor: 0.0, patience: 1 };
        assert!(message(zero).contains("factor"));
        assert!(Schedule::default().check().is_ok());
    }
}
