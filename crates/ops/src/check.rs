//! Argument checks shared by the operations.

use candle_core::{DType, Error, Result, Shape, Tensor};

/// An error that names the operation and what is wrong with its arguments.
pub(crate) fn invalid(op: &str, problem: impl std::fmt::Display) -> Error {
    Error::Msg(format!("{op}: {problem}")).bt()
}

/// The sizes N,C,D,H,W of a volume tensor.
///
/// # Errors
/// If the rank is not 5, a size is 0 or the elements are not f32, f64 or bf16.
pub(crate) fn volume_dims(op: &'static str, x: &Tensor) -> Result<[usize; 5]> {
    let dims: [usize; 5] = x.dims().try_into().map_err(|_| {
        invalid(op, format_args!("expected a tensor N,C,D,H,W of rank 5, got {:?}", x.dims()))
    })?;
    if dims.contains(&0) {
        return Err(invalid(op, format_args!("expected sizes of at least 1, got {dims:?}")));
    }
    if !matches!(x.dtype(), DType::F32 | DType::F64 | DType::BF16) {
        return Err(Error::UnsupportedDTypeForOp(x.dtype(), op).bt());
    }
    Ok(dims)
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
