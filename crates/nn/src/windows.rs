//! Networks whose answers depend on the whole volume, through norms of an item say, by windows that overlap.

use candle_core::{DType, Device, Tensor};

use crate::error::{NnError, fault};
use crate::network::FoldedNetwork;

/// Width of the Gaussian that weighs a window, as a share of its edge (Isensee et al. 2021).
const WIDTH: f64 = 0.125;

impl FoldedNetwork {
    /// Gives what the network gives for every voxel of one volume of D, H, W voxels: the mean over windows of `window`
    /// voxels (or the volume, where that is smaller) that overlap by the share `overlap`, each weighed by a Gaussian about
    /// its middle that is an eighth of its edge wide. `source` gives planes of the volume (the first, and how many), of
    /// shape 1,C,planes,H,W, and `sink` gets the first of the planes of an output and these, in order. In memory are as many
    /// planes as a window has.
    ///
    /// A network whose answers are local gives with any windows about what it gives for the whole, but near their borders;
    /// [`forward_planes`](Self::forward_planes) gives it the same.
    ///
    /// # Errors
    /// [`NnError::Config`] for an overlap outside 0..1, an empty window, or a network that gives no field; as
    /// [`forward`](Self::forward), and what `source` and `sink` say.
    pub fn forward_windows<E: From<NnError>>(
        &self,
        dims: [usize; 3],
        window: [usize; 3],
        overlap: f64,
        source: &mut dyn FnMut(usize, usize) -> Result<Tensor, E>,
        sink: &mut dyn FnMut(usize, &Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        if !(0.0..1.0).contains(&overlap) {
            let problem =
                format!("expected a share from 0 to below 1 of a window, found {overlap}");
            fault::<()>("overlap", problem)?;
        }
        let window: [usize; 3] = std::array::from_fn(|axis| window[axis].min(dims[axis]));
        self.check_grid(window)?;
        let [zs, ys, xs] =
            std::array::from_fn(|axis| window_starts(dims[axis], window[axis], overlap));
        let weight = gaussian(window);
        let mut sums = Sums { dims, first: 0, values: vec![], weights: vec![] };
        for (place, &z) in zs.iter().enumerate() {
            let planes = source(z, window[0])?;
            for &y in &ys {
                for &x in &xs {
                    let part = planes
                        .narrow(3, y, window[1])
                        .and_then(|part| part.narrow(4, x, window[2])?.contiguous())
                        .map_err(NnError::from)?;
                    let answer = self.forward(&part)?;
                    sums.add([z, y, x], window, &weight, &answer)?;
                }
            }
            let end = zs.get(place + 1).copied().unwrap_or(dims[0]);
            let done = sums.take(end)?;
            sink(z, &done)?;
        }
        Ok(())
    }
}

/// Where windows of `edge` voxels begin that cover `length` voxels and overlap by the share `overlap`, from 0 to below 1, of
/// a window or more.
///
/// # Panics
/// If the windows are longer than what they cover.
pub fn window_starts(length: usize, edge: usize, overlap: f64) -> Vec<usize> {
    let last = length - edge;
    let step = ((edge as f64 * (1.0 - overlap)) as usize).max(1);
    let count = last.div_ceil(step);
    // At equal distances.
    (0..=count).map(|i| (i * last).checked_div(count).unwrap_or(0)).collect()
}

/// The weights of the voxels of a window, D × H × W.
fn gaussian(window: [usize; 3]) -> Vec<f32> {
    let along = window.map(|edge| {
        let (middle, width) = ((edge - 1) as f64 / 2.0, edge as f64 * WIDTH);
        let weight = |i: usize| (-0.5 * ((i as f64 - middle) / width).powi(2)).exp();
        (0..edge).map(weight).collect::<Vec<f64>>()
    });
    let [zs, ys, xs] = &along;
    let row = |z: &f64, y: &f64| xs.iter().map(|x| (z * y * x) as f32).collect::<Vec<_>>();
    zs.iter().flat_map(|z| ys.iter().flat_map(|y| row(z, y)).collect::<Vec<_>>()).collect()
}

/// Sums of weighed answers for the planes from `first` on, K × planes × H × W, and the sums of the weights.
struct Sums {
    dims: [usize; 3],
    first: usize,
    /// For each plane K × H × W.
    values: Vec<Vec<f32>>,
    /// For each plane H × W.
    weights: Vec<Vec<f32>>,
}

impl Sums {
    fn add(
        &mut self,
        [z, y, x]: [usize; 3],
        [d, h, w]: [usize; 3],
        weight: &[f32],
        answer: &Tensor,
    ) -> Result<(), NnError> {
        let shape = answer.dims().to_vec();
        if shape.len() != 5 || shape[2..] != [d, h, w] {
            return fault("head", "windows are for networks that answer for every voxel");
        }
        let answer = answer.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let answer = answer.flatten_all()?.to_vec1::<f32>()?;
        let [_, height, width] = self.dims;
        for plane in 0..d {
            let at = z - self.first + plane;
            if at == self.values.len() {
                self.values.push(vec![0.0; shape[1] * height * width]);
                self.weights.push(vec![0.0; height * width]);
            }
            for row in 0..h {
                let weight = &weight[(plane * h + row) * w..][..w];
                let target = (y + row) * width + x;
                let sums = &mut self.weights[at][target..][..w];
                sums.iter_mut().zip(weight).for_each(|(sum, weight)| *sum += weight);
                for channel in 0..shape[1] {
                    let found = &answer[((channel * d + plane) * h + row) * w..][..w];
                    let sums = &mut self.values[at][channel * height * width + target..][..w];
                    for ((sum, found), weight) in sums.iter_mut().zip(found).zip(weight) {
                        *sum += weight * found;
                    }
                }
            }
        }
        Ok(())
    }

    /// The mean of the planes before `end`, 1,K,planes,H,W, which are done.
    fn take(&mut self, end: usize) -> Result<Tensor, NnError> {
        let [_, h, w] = self.dims;
        let count = end - self.first;
        let planes: Vec<Vec<f32>> = self.values.drain(..count).collect();
        let weights: Vec<Vec<f32>> = self.weights.drain(..count).collect();
        self.first = end;
        let channels = planes[0].len() / (h * w);
        let plane = |(values, weights): (Vec<f32>, &Vec<f32>)| {
            let mean = values.iter().zip(weights.iter().cycle()).map(|(sum, weight)| sum / weight);
            Tensor::from_vec(mean.collect::<Vec<_>>(), (1, channels, 1, h, w), &Device::Cpu)
        };
        let planes = planes.into_iter().zip(&weights).map(plane);
        Ok(Tensor::cat(&planes.collect::<Result<Vec<_>, _>>()?, 2)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_a_volume_and_overlap() {
        for length in 1..40 {
            for edge in 1..=length {
                for overlap in [0.0, 0.25, 0.5, 0.9] {
                    let starts = window_starts(length, edge, overlap);
                    assert_eq!((starts[0], *starts.last().unwrap()), (0, length - edge));
                    let shared = |pair: &[usize]| (pair[0] + edge) as f64 - pair[1] as f64;
                    let least = (edge as f64 * overlap).floor().min((edge - 1) as f64);
                    assert!(starts.windows(2).all(|pair| pair[0] < pair[1]));
                    assert!(starts.windows(2).all(|pair| shared(pair) >= least), "{starts:?}");
                }
            }
        }
    }

    #[test]
    fn a_window_weighs_most_in_its_middle() {
        let weights = gaussian([1, 3, 5]);
        assert_eq!(weights.len(), 15);
        assert!((weights[7] - 1.0).abs() < 1e-6);
        let expected = (-0.5 * (1.0f64 / 0.625).powi(2)).exp() as f32;
        assert!((weights[8] - expected).abs() < 1e-6 && weights[8] == weights[6]);
    }
}
