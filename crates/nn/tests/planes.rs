//! Networks that are given a volume plane by plane.

#[path = "common/networks.rs"]
mod networks;
#[path = "common/volumes.rs"]
mod volumes;

use candle_core::Tensor;
use networks::{all_models, configs, plain_unets, prepared};
use proptest::prelude::*;
use steer3d_kernels::Family;
use steer3d_nn::{
    FoldedNetwork, Head, Mode, ModelConfig, Network, NnError, PlainConfig, Pooling, SteerableBlock,
    SteerableConfig,
};
use steer3d_so3::Stream;
use volumes::volume;

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

#[test]
fn volumes_that_are_shrunk_to_nothing_are_refused() {
    let plain = PlainConfig::like(&networks::unet());
    let network = prepared(&plain.into()).folded().unwrap();
    let mut stream = Stream::new(3, "planes", &[]);
    for dims in [[1, 1, 1], [3, 12, 12], [12, 12, 2]] {
        let x = volume(&mut stream, 1, dims);
        let mut source = |first, count| Ok::<_, NnError>(x.narrow(2, first, count)?);
        let mut sink = |_, _: &Tensor| Ok(());
        for found in [
            network.forward(&x).map(|_| ()),
            network.forward_planes(dims, 2, &mut source, &mut sink),
            network.forward_windows(dims, [40; 3], 0.5, &mut source, &mut sink),
        ] {
            let error = found.unwrap_err();
            assert!(matches!(error, NnError::Grid { least: 6, .. }), "{error}");
            assert!(error.to_string().contains("needs 6 along each axis"), "{error}");
        }
    }
    assert!(network.forward(&volume(&mut stream, 1, [6; 3])).is_ok());
}

/// A U-Net of random fields, kernels and strides.
fn unets() -> impl Strategy<Value = SteerableConfig> {
    let fields = || prop::sample::select(vec!["2x0+1x1", "3x0", "2x0+1x1+1x2"]);
    let block = (fields(), prop::sample::select(vec![3, 5]), 1usize..4);
    let blocks = prop::collection::vec(block, 1..4);
    (blocks, prop::collection::vec(fields(), 0..3)).prop_map(|(blocks, decoder)| {
        let block = |(fields, size, stride): (&str, usize, usize)| {
            SteerableBlock::new(fields.parse().unwrap(), size, stride)
        };
        let mut blocks: Vec<_> = blocks.into_iter().map(block).collect();
        blocks[0].stride = 1;
        let strides = blocks.iter().filter(|block| block.stride > 1).count();
        // With as many blocks as strides the answer has the grid of the volume.
        let decoder = decoder.into_iter().cycle().take(strides).map(|f| block((f, 3, 1)));
        let decoder: Vec<_> = decoder.collect();
        if decoder.len() < strides {
            blocks.iter_mut().for_each(|block| block.stride = 1);
        }
        let head = Head::Voxels;
        let config = SteerableConfig::new("1x0".parse().unwrap(), 3, Family::jets(2), blocks);
        SteerableConfig { head, decoder, ..config }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_networks_by_planes_give_the_whole(
        config in unets(),
        rival in prop::sample::select(vec![None, Some(Pooling::Max), Some(Pooling::Antialiased)]),
        dims in prop::array::uniform3(9usize..24),
        planes in 1usize..9,
        seed in 0u64..1000,
    ) {
        let plain = |pooling| PlainConfig { pooling, ..PlainConfig::like(&config) };
        let model = rival.map_or(ModelConfig::from(config.clone()), |p| plain(p).into());
        let network = Network::new(&model, seed, candle_core::DType::F32, &candle_core::Device::Cpu);
        let network = network.unwrap();
        let mut stream = Stream::new(seed, "random", &[]);
        network.forward(&volume(&mut stream, 1, [12; 3]), Mode::Calibrate { batch: 0 }).ok();
        let folded = network.folded().unwrap();
        let x = volume(&mut stream, 1, dims);
        match folded.forward(&x) {
            Ok(whole) => {
                let (found, most) = by_planes(&folded, &x, planes).unwrap();
                prop_assert!(gap(&found, &whole) < 1e-5);
                prop_assert!(most <= planes);
            }
            Err(error) => prop_assert!(matches!(error, NnError::Grid { .. }), "{}", error),
        }
    }
}
