//! What an epoch goes over.

use std::array::from_fn;

use steer3d_dataset::{Dataset, Sample};
use steer3d_nn::window_starts;

use crate::config::PatchConfig;
use crate::error::TrainError;

/// Most boxes of an epoch.
const MAX_BOXES: usize = 1 << 24;

/// Each of `items`, or where boxes overlap all boxes that cover each of them.
///
/// # Errors
/// [`TrainError::Settings`] for a volume that is smaller than a box, and for too many boxes.
pub(crate) fn of_epoch(
    dataset: &Dataset,
    items: &[usize],
    patch: Option<PatchConfig>,
) -> Result<Vec<Sample>, TrainError> {
    let Some(PatchConfig { size, overlap: Some(overlap), .. }) = patch else {
        return Ok(items.iter().map(|&item| item.into()).collect());
    };
    let mut samples = vec![];
    for &item in items {
        let (dims, id) = (dataset.grid(item).dims(), &dataset.ids()[item]);
        let starts = starts(dims, id, size, overlap, MAX_BOXES - samples.len())?;
        let sample = |(number, first)| Sample { item, number, first: Some(first) };
        samples.extend((0..).zip(boxes(&starts)).map(sample));
    }
    Ok(samples)
}

/// Where boxes of a volume begin along each axis, if there are at most `most`.
fn starts(
    dims: [usize; 3],
    id: &str,
    size: [usize; 3],
    overlap: f64,
    most: usize,
) -> Result<[Vec<usize>; 3], TrainError> {
    if (0..3).any(|axis| size[axis] > dims[axis]) {
        let problem = format!(
            "expected at most the {dims:?} voxels of {id}, found {size:?}; take smaller boxes, or leave overlap out"
        );
        return Err(TrainError::settings("patch.size", problem));
    }
    let starts: [_; 3] = from_fn(|axis| window_starts(dims[axis], size[axis], overlap));
    if starts.iter().map(Vec::len).product::<usize>() > most {
        let problem = format!(
            "expected at most {MAX_BOXES} boxes in an epoch, found more with {id}; take larger boxes or a smaller overlap"
        );
        return Err(TrainError::settings("patch.overlap", problem));
    }
    Ok(starts)
}

/// The first voxels z, y, x of the boxes that begin at these along each axis.
fn boxes([zs, ys, xs]: &[Vec<usize>; 3]) -> impl Iterator<Item = [isize; 3]> {
    let row = move |z: usize, y: usize| xs.iter().map(move |&x| [z, y, x].map(|at| at as isize));
    zs.iter().flat_map(move |&z| ys.iter().flat_map(move |&y| row(z, y)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_cover_every_voxel_of_odd_volumes_and_overlap() {
        for (dims, size) in [([7, 11, 5], [3, 4, 5]), ([5; 3], [5; 3]), ([13, 9, 17], [6, 1, 4])] {
            for overlap in [0.0, 0.25, 0.5, 0.9] {
                let starts = starts(dims, "a", size, overlap, MAX_BOXES).unwrap();
                let mut seen = vec![0; dims.iter().product()];
                for [z, y, x] in boxes(&starts).map(|first| first.map(|at| at as usize)) {
                    for voxel in 0..size.iter().product::<usize>() {
                        let [_, h, w] = size;
                        let (z, y, x) = (z + voxel / (h * w), y + voxel / w % h, x + voxel % w);
                        assert!(z < dims[0] && y < dims[1] && x < dims[2]);
                        seen[(z * dims[1] + y) * dims[2] + x] += 1;
                    }
                }
                assert!(seen.iter().all(|boxes| *boxes > 0), "{dims:?} {size:?} {overlap}");
                for (starts, size) in starts.iter().zip(size) {
                    let least = ((size as f64 * overlap).ceil() as usize).min(size - 1);
                    assert!(starts.windows(2).all(|pair| pair[0] + size - pair[1] >= least));
                }
            }
        }
    }

    #[test]
    fn boxes_that_are_too_large_or_too_many_are_refused() {
        let message = |size| starts([300, 300, 5], "a", size, 0.0, 1000).unwrap_err().to_string();
        let found = message([8, 8, 6]);
        assert!(
            found.contains(
                "patch.size: expected at most the [300, 300, 5] voxels of a, found [8, 8, 6]"
            ),
            "{found}"
        );
        let found = message([20, 20, 1]);
        assert!(found.contains("patch.overlap") && found.contains("boxes in an epoch"), "{found}");
        assert!(starts([300, 300, 5], "a", [30, 30, 1], 0.0, 1000).is_ok());
    }
}
