//! Argument checks shared by the operations.

use candle_core::{DType, Error, Result, Shape, Tensor};

/// An error that names the operation and what is wrong with its arguments.
pub(crate) fn invalid(op: &str, problem: impl std::fmt::Display) -> Error {
    Error::Msg(format!("{op}: {problem}")).bt()
}

/// The sizes of a tensor N,C,D,H,W.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    /// D,H,W.
    pub(crate) size: [usize; 3],
}

impl Volume {
    /// Those of `x`.
    ///
    /// # Errors
    /// If the rank is not 5, a size is 0 or the elements are not f32, f64 or bf16.
    pub(crate) fn of(op: &'static str, x: &Tensor) -> Result<Self> {
        let &[batch, channels, d, h, w] = x.dims() else {
            let problem = format!("expected a tensor N,C,D,H,W of rank 5, got {:?}", x.dims());
            return Err(invalid(op, problem));
        };
        if x.dims().contains(&0) {
            let problem = format!("expected sizes of at least 1, got {:?}", x.dims());
            return Err(invalid(op, problem));
        }
        if !matches!(x.dtype(), DType::F32 | DType::F64 | DType::BF16) {
            return Err(Error::UnsupportedDTypeForOp(x.dtype(), op).bt());
        }
        Ok(Self { batch, channels, size: [d, h, w] })
    }

    /// Voxels of a channel.
    pub(crate) fn voxels(&self) -> usize {
        self.size.iter().product()
    }

    /// Channels of all items.
    pub(crate) fn rows(&self) -> usize {
        self.batch * self.channels
    }

    pub(crate) fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    pub(crate) fn dims(&self) -> [usize; 5] {
        let [d, h, w] = self.size;
        [self.batch, self.channels, d, h, w]
    }

    pub(crate) fn shape(&self) -> Shape {
        self.dims().to_vec().into()
    }
}

/// Checks that the argument called `name` has the shape `expected` and the element type of `x`.
pub(crate) fn expect_argument(
    op: &'static str,
    name: &str,
    argument: &Tensor,
    expected: &[usize],
    x: &Tensor,
) -> Result<()> {
    if argument.dims() != expected {
        return Err(Error::UnexpectedShape {
            msg: format!("{op}: wrong shape of {name}"),
            expected: Shape::from(expected),
            got: argument.shape().clone(),
        }
        .bt());
    }
    if argument.dtype() != x.dtype() {
        return Err(Error::DTypeMismatchBinaryOp { lhs: x.dtype(), rhs: argument.dtype(), op }.bt());
    }
    Ok(())
}
