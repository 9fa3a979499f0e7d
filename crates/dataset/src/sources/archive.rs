//! Arrays of archives, checked.

use steer3d_formats::npz::{Npz, NpzError};

/// Largest number of classes that an archive makes.
const MAX_CLASSES: usize = 1 << 16;

pub(crate) fn wrong(npz: &Npz, key: &str, expected: &str, found: &str) -> NpzError {
    npz.error(key, (expected.to_owned(), found.to_owned()))
}

/// `count` integers, stored with shape (N) or (N, 1), that all satisfy `accepts`.
pub(crate) fn integers(
    npz: &mut Npz,
    key: &str,
    count: usize,
    accepts: impl Fn(i64) -> bool,
) -> Result<Vec<i64>, NpzError> {
    let expected = format!("shape ({count}) or ({count}, 1)");
    let array = npz.read_shaped(key, &expected, |s| s == [count] || s == [count, 1])?;
    let Some(values) = array.to_i64() else {
        return Err(wrong(npz, key, "integers", "another dtype"));
    };
    match values.iter().position(|&value| !accepts(value)) {
        None => Ok(values),
        Some(i) => {
            let found = format!("value {i} is {}", values[i]);
            Err(wrong(npz, key, "values within their range", &found))
        }
    }
}

/// Labels below [`MAX_CLASSES`].
pub(crate) fn labels(npz: &mut Npz, key: &str, count: usize) -> Result<Vec<u32>, NpzError> {
    let values = integers(npz, key, count, |label| (0..MAX_CLASSES as i64).contains(&label))?;
    Ok(values.into_iter().map(|label| label as u32).collect())
}
