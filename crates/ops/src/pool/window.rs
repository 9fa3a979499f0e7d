//! Cubic windows that a volume is cut into.

use candle_core::{Result, Tensor};

use crate::check::{Volume, invalid};

/// Windows of one edge length, the same distance apart along each axis.
#[derive(Clone, Copy)]
pub(super) struct Windows {
    /// Sizes of the input.
    pub(super) volume: Volume,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    /// Windows along D,H,W: (n + 2 padding - kernel) / stride + 1, rounded down.
    pub(super) out: [usize; 3],
}

impl Windows {
    pub(super) fn new(
        op: &'static str,
        x: &Tensor,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        let volume = Volume::of(op, x)?;
        if kernel == 0 || stride == 0 {
            let problem =
                format!("expected kernel and stride of at least 1, got {kernel}, {stride}");
            return Err(invalid(op, problem));
        }
        if padding > kernel / 2 {
            let problem = format!("expected a padding of at most half the kernel, got {padding}");
            return Err(invalid(op, problem));
        }
        let size = volume.size;
        if size.iter().any(|n| n + 2 * padding < kernel) {
            let problem = format!("kernel {kernel} is larger than {size:?} with padding {padding}");
            return Err(invalid(op, problem));
        }
        let out = size.map(|n| (n + 2 * padding - kernel) / stride + 1);
        Ok(Self { volume, kernel, stride, padding, out })
    }

    /// Sizes of the result.
    pub(super) fn result(&self) -> Volume {
        Volume { size: self.out, ..self.volume }
    }
}
