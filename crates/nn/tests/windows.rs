//! Networks that are given a volume window by window.

#[path = "common/networks.rs"]
mod networks;
#[path = "common/volumes.rs"]
mod volumes;

use candle_core::Tensor;
use networks::{all_models, configs, prepared};
use steer3d_nn::{FoldedNetwork, ModelConfig, NnError};
use steer3d_so3::Stream;
use volumes::volume;

fn by_windows(
    network: &FoldedNetwork,
    x: &Tensor,
    window: [usize; 3],
    overlap: f64,
) -> Result<Tensor, NnError> {
    let (_, _, d, h, w) = x.dims5()?;
    let (mut parts, mut done) = (vec![], 0);
    let mut source = |first: usize, count: usize| Ok(x.narrow(2, first, count)?);
    let mut sink = |first: usize, part: &Tensor| {
        assert_eq!(first, done);
        done += part.dim(2)?;
        parts.push(part.clone());
        Ok::<_, NnError>(())
    };
    network.forward_windows([d, h, w], window, overlap, &mut source, &mut sink)?;
    assert_eq!(done, d);
    Ok(Tensor::cat(&parts, 2)?)
}

/// Largest difference over the voxels from `edge` on to as many before the end along each axis, relative.
fn gap(a: &Tensor, b: &Tensor, edge: usize) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let inner = |t: &Tensor| {
        (2..5).fold(t.clone(), |t, axis| {
            t.narrow(axis, edge, t.dim(axis).unwrap() - 2 * edge).unwrap()
        })
    };
    let largest = |t: Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    largest((inner(a) - inner(b)).unwrap()) / largest(b.clone())
}

#[test]
fn a_window_as_large_as_the_volume_gives_the_whole() {
    let mut stream = Stream::new(0, "windows", &[]);
    let mut counted = 0;
    for model in configs().into_iter().map(ModelConfig::Steerable) {
        let network = prepared(&model).folded().unwrap();
        let x = volume(&mut stream, model.channels(), [13, 12, 14]);
        let whole = network.forward(&x).unwrap();
        if whole.dims().len() != 5 {
            continue;
        }
        counted += 1;
        for overlap in [0.0, 0.5] {
            let found = by_windows(&network, &x, [20, 12, 16], overlap).unwrap();
            assert!(gap(&found, &whole, 0) < 1e-5, "{model:?}");
        }
    }
    assert!(counted >= 3, "{counted}");
}

/// Without strides, windows that overlap by more than twice what a voxel depends on give nearly the whole: what their
/// borders get wrong weighs little.
#[test]
fn windows_that_overlap_give_about_the_whole() {
    let text = "kind = 'steerable'\ninput = '1x0'\nclasses = 3\nhead = 'voxels'\n\
                kernel = { family = 'gaussian_jets', order = 2 }\n[[blocks]]\nfields = '3x0+2x1'\nsize = 5\n[[blocks]]\nfields = '4x0'\nsize = 3\n";
    let model: ModelConfig = toml::from_str(text).unwrap();
    let network = prepared(&model).folded().unwrap();
    let mut stream = Stream::new(2, "windows", &[]);
    let x = volume(&mut stream, 1, [30, 22, 26]);
    let whole = network.forward(&x).unwrap();
    let apart = by_windows(&network, &x, [16, 16, 16], 0.0).unwrap();
    let shared = by_windows(&network, &x, [16, 16, 16], 0.5).unwrap();
    let (apart, shared) = (gap(&apart, &whole, 0), gap(&shared, &whole, 0));
    assert!(shared < 0.02 && apart > 10.0 * shared, "{apart} {shared}");
}

#[test]
fn bad_windows_are_refused() {
    let mut stream = Stream::new(1, "windows", &[]);
    for model in all_models() {
        let network = prepared(&model).folded().unwrap();
        let x = volume(&mut stream, model.channels(), [12, 12, 12]);
        let fields = network.forward(&x).is_ok_and(|answer| answer.dims().len() == 5);
        let fault = |window, overlap| {
            by_windows(&network, &x, window, overlap).map(|_| ()).unwrap_err().to_string()
        };
        if fields {
            assert!(fault([8, 8, 0], 0.5).contains("too small"));
            assert!(fault([8, 8, 8], 1.0).contains("overlap"));
            assert!(fault([8, 8, 8], f64::NAN).contains("overlap"));
        } else {
            assert!(fault([8, 8, 8], 0.5).contains("every voxel"));
        }
    }
}
