//! Networks that are given a volume plane by plane.

#[path = "common/networks.rs"]
mod networks;

use candle_core::{Device, Tensor};
use networks::{all_models, configs, plain_unets, prepared};
use steer3d_nn::{FoldedNetwork, ModelConfig, NnError};
use steer3d_so3::Stream;

fn volume(stream: &mut Stream, channels: usize, [d, h, w]: [usize; 3]) -> Tensor {
    let values: Vec<f32> = (0..channels * d * h * w).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec(values, (1, channels, d, h, w), &Device::Cpu).unwrap()
}

/// The output made of planes, and how many planes of the volume were taken at most at once.
fn by_planes(
    network: &FoldedNetwork,
    x: &Tensor,
    planes: usize,
) -> Result<(Tensor, usize), NnError> {
    let (_, _, d, h, w) = x.dims5()?;
    let (mut next, mut most, mut parts) = (0, 0, vec![]);
    let mut source = |first: usize, count: usize| {
        assert_eq!(first, next, "every plane is taken once, in order");
        next = first + count;
        most = most.max(count);
        Ok(x.narrow(2, first, count)?)
    };
    let mut done = 0;
    let mut sink = |first: usize, part: &Tensor| {
        assert_eq!(first, done);
        done += part.dim(2)?;
        parts.push(part.clone());
        Ok::<_, NnError>(())
    };
    network.forward_planes([d, h, w], planes, &mut source, &mut sink)?;
    assert_eq!((next, done), (d, d));
    Ok((Tensor::cat(&parts, 2)?, most))
}

fn gap(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let largest = |t: Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    largest((a - b).unwrap()) / largest(b.clone())
}

#[test]
fn the_output_is_that_of_the_whole_volume() {
    let steerable = configs().into_iter().map(ModelConfig::Steerable);
    let models: Vec<ModelConfig> =
        steerable.chain(plain_unets().into_iter().map(ModelConfig::Plain)).collect();
    let mut stream = Stream::new(0, "planes", &[]);
    let mut local = 0;
    for model in &models {
        let network = prepared(model).folded().unwrap();
        if !network.is_local() {
            continue;
        }
        local += 1;
        for _ in 0..6 {
            // Grids that every stride of these networks leaves something of, odd and even.
            let dims = [12 + stream.below(40), 12 + stream.below(5), 12 + stream.below(5)];
            let planes = 1 + stream.below(12);
            let x = volume(&mut stream, model.channels(), dims);
            let whole = network.forward(&x).unwrap();
            let (found, most) = by_planes(&network, &x, planes).unwrap();
            let gap = gap(&found, &whole);
            assert!(gap < 1e-5, "{dims:?} by {planes}: {gap} with {model:?}");
            assert!(most <= planes);
        }
    }
    assert!(local >= 8, "{local}");
}

#[test]
fn what_is_not_local_is_refused() {
    let mut stream = Stream::new(1, "planes", &[]);
    let mut refused = 0;
    for model in all_models() {
        let network = prepared(&model).folded().unwrap();
        if network.is_local() {
            continue;
        }
        refused += 1;
        let x = volume(&mut stream, model.channels(), [12; 3]);
        let error = by_planes(&network, &x, 4).unwrap_err().to_string();
        assert!(error.contains("the whole volume"), "{error}");
    }
    assert!(refused >= 5, "{refused}");
}

#[test]
fn errors_of_source_and_sink_end_it() {
    let model = ModelConfig::Steerable(networks::unet());
    let network = prepared(&model).folded().unwrap();
    let none = |_: usize, _: usize| -> Result<Tensor, NnError> {
        Err(candle_core::Error::msg("no more").into())
    };
    let error = network
        .forward_planes([12; 3], 4, &mut { none }, &mut |_, _| Ok(()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("no more"), "{error}");
    let x = volume(&mut Stream::new(2, "planes", &[]), 1, [12; 3]);
    let error = network
        .forward_planes(
            [12; 3],
            4,
            &mut |first, count| Ok(x.narrow(2, first, count)?),
            &mut |_, _| Err::<(), NnError>(candle_core::Error::msg("disk full").into()),
        )
        .unwrap_err()
        .to_string();
    assert!(error.contains("disk full"), "{error}");
}
