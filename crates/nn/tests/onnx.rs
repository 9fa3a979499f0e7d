//! Exported networks, read back from their bytes, against the networks.

#[path = "common/card.rs"]
mod card;
#[path = "common/networks.rs"]
mod networks;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use networks::{all_models, prepared, residual, unet};
use proptest::prelude::*;
use steer3d_nn::checkpoint::ModelCard;
use steer3d_nn::layers::ConvolutionPath;
use steer3d_nn::onnx::{OnnxCard, OnnxModel, check, export};
use steer3d_nn::{
    ModelConfig, Network, NnError, Nonlinearity, PlainConfig, Pooling, SteerableBlock,
    SteerableConfig, Symmetry, TransformerConfig,
};
use steer3d_so3::Stream;

fn card(network: &Network) -> ModelCard {
    let class_names = ["a \"b\"", "ü", "c"].map(String::from).into();
    ModelCard { class_names, ..card::card(network.config()) }
}

fn noise(shape: [usize; 5]) -> Tensor {
    let mut stream = Stream::new(3, "onnx", &[]);
    let values = (0..shape.iter().product()).map(|_| stream.normal() as f32);
    Tensor::from_iter(values, &Device::Cpu).unwrap().reshape(&shape).unwrap()
}

/// The largest difference over the largest value.
fn gap(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let largest = |t: Tensor| {
        t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
    };
    largest((found - expected).unwrap()) / largest(expected.clone())
}

/// The largest gap between an exported network and itself folded, on an odd and an even grid.
fn exported_gap(network: &Network) -> f32 {
    let model = OnnxModel::read(&export(network, &card(network)).unwrap()).unwrap();
    let folded = network.folded().unwrap();
    let channels = network.config().channels();
    let grids = [[1, channels, 11, 9, 13], [3, channels, 12, 10, 14], [1, channels, 9, 12, 11]];
    let gaps = grids.map(|shape| {
        let x = noise(shape);
        gap(&model.run(&x).unwrap(), &folded.forward(&x).unwrap())
    });
    gaps.into_iter().fold(0.0, f32::max)
}

#[test]
fn a_network_at_another_spacing_is_exported_as_it_is() {
    let network = prepared(&ModelConfig::Steerable(unet())).at_spacing([0.7, 1.0, 2.5]).unwrap();
    let gap = exported_gap(&network);
    assert!(gap < 1e-5, "{gap}");
}

/// A group network of two channels behind a transformer.
fn transformer() -> PlainConfig {
    PlainConfig {
        pooling: Pooling::Antialiased,
        symmetry: Symmetry::Octahedral,
        transformer: Some(TransformerConfig::small()),
        ..PlainConfig::like(&SteerableConfig::small(2, 3).unwrap())
    }
    .with_parameters(6000)
}

#[test]
fn the_bytes_of_every_kind_of_network_give_its_answers() {
    let mut models = all_models();
    models.push(ModelConfig::Plain(transformer()));
    models.push(ModelConfig::Steerable(SteerableConfig { input_scale: 0.3, ..residual() }));
    for model in models {
        let gap = exported_gap(&prepared(&model));
        assert!(gap < 1e-5, "{gap}: {model:?}");
    }
}

#[test]
fn a_separable_convolution_becomes_its_filter() {
    let config = SteerableConfig::small(1, 3).unwrap();
    let network = prepared(&ModelConfig::Steerable(config));
    let paths: Vec<_> = network.convolutions().into_iter().map(|c| c.path).collect();
    assert!(paths.contains(&ConvolutionPath::Separable), "{paths:?}");
    assert!(exported_gap(&network) < 1e-5);
    let model = OnnxModel::read(&export(&network, &card(&network)).unwrap()).unwrap();
    let (_, filter) = model.arrays().find(|(name, _)| *name == "blocks.1.conv.weight").unwrap();
    assert_eq!(filter.dims().len(), 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn random_steerable_networks_give_their_answers(
        counts in prop::collection::vec((1usize..4, 0usize..3, 0usize..2), 1..4),
        strides in prop::collection::vec(1usize..4, 4),
        residual in prop::collection::vec(any::<bool>(), 4),
        nonlinearity in prop::sample::select(networks::ALL.to_vec()),
        decoder in any::<bool>(),
    ) {
        let fields = |&(s, v, t): &(usize, usize, usize)| {
            let terms = [(s, 0), (v, 1), (t, 2)];
            let terms = terms.iter().filter(|t| t.0 > 0).map(|(n, l)| format!("{n}x{l}"));
            terms.collect::<Vec<_>>().join("+").parse().unwrap()
        };
        let of = |(i, counts): (usize, &(usize, usize, usize))| SteerableBlock {
            residual: residual[i],
            ..SteerableBlock::new(fields(counts), 3, strides[i])
        };
        let mut config = SteerableConfig { nonlinearity, ..residual_like() };
        config.blocks = counts.iter().enumerate().map(of).collect();
        let strided = config.blocks.iter().filter(|b| b.stride > 1).count();
        if decoder && strided > 0 {
            config.decoder = vec![SteerableBlock::new(fields(&(3, 1, 0)), 3, 1)];
        }
        config.blocks.push(SteerableBlock::new(fields(&(4, 0, 0)), 3, 1));
        if !config.decoder.is_empty() {
            config.head = steer3d_nn::Head::Voxels;
        }
        let network = prepared(&ModelConfig::Steerable(config.clone()));
        if nonlinearity == Nonlinearity::Norm {
            without_jumps(&network);
        }
        let gap = exported_gap(&network);
        prop_assert!(gap < 1e-4, "{gap}: {config:?}");
    }
}

/// Makes the biases of norm nonlinearities negative: with a positive one the layer jumps where its field is 0, and rounding
/// decides the direction of the jump.
fn without_jumps(network: &Network) {
    for parameter in network.params().trainable() {
        if parameter.name.ends_with("nonlinearity.bias") {
            let negative = parameter.var.abs().unwrap().neg().unwrap();
            parameter.var.set(&negative.detach()).unwrap();
        }
    }
}

fn residual_like() -> SteerableConfig {
    SteerableConfig { classes: 3, ..residual() }
}

#[test]
fn the_card_comes_back_and_the_check_sees_a_change() {
    let network = prepared(&ModelConfig::Steerable(unet()));
    let expected = card(&network);
    let bytes = export(&network, &expected).unwrap();
    assert_eq!(bytes, export(&network, &expected).unwrap());
    let found = OnnxCard::of(Path::new("m.onnx"), &bytes).unwrap().unwrap();
    assert_eq!((found.card, found.parameters), (expected, Some(network.params().count())));
    let agreement = check(&bytes, &network, [11, 12, 10]).unwrap();
    assert_eq!(agreement.batches, [[1, 11, 12, 10], [2, 12, 13, 11]]);
    assert!(agreement.gap < 1e-5, "{}", agreement.gap);
    // Another network of the same shape.
    let other = Network::new(network.config(), 7, DType::F32, &Device::Cpu).unwrap();
    let error = check(&bytes, &other, [11; 3]).unwrap_err();
    assert!(matches!(error, NnError::Differs { found, .. } if found > 1e-2), "{error}");
    // One weight of the file.
    let model = OnnxModel::read(&bytes).unwrap();
    let (_, filter) = model.arrays().find(|(name, _)| *name == "blocks.0.conv.weight").unwrap();
    let first = filter.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let raw: Vec<u8> = first.iter().flat_map(|v| v.to_le_bytes()).collect();
    let at = bytes.windows(raw.len()).position(|w| w == raw).unwrap();
    let centre = first.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap().0;
    let mut changed = bytes.clone();
    changed[at + 4 * centre + 3] ^= 0x80;
    assert!(matches!(check(&changed, &network, [11; 3]), Err(NnError::Differs { .. })));
    // A grid that is none.
    assert!(check(&bytes, &network, [usize::MAX; 3]).is_err());
}

#[test]
fn damaged_files_are_errors() {
    let network = prepared(&ModelConfig::Steerable(SteerableConfig {
        nonlinearity: Nonlinearity::Norm,
        ..unet()
    }));
    let bytes = export(&network, &card(&network)).unwrap();
    let x = noise([1, 1, 7, 8, 7]);
    let run = |bytes: &[u8]| OnnxModel::read(bytes)?.run(&x);
    assert!(run(&bytes).is_ok());
    for length in (0..bytes.len()).step_by(bytes.len() / 97) {
        assert!(matches!(run(&bytes[..length]), Err(NnError::Onnx { .. })), "{length}");
    }
    let error = OnnxModel::read(&bytes).unwrap().run(&noise([1, 2, 7, 8, 7])).unwrap_err();
    assert!(error.to_string().starts_with("ONNX: "), "{error}");
    assert_eq!(OnnxCard::of(Path::new("m.onnx"), b"no model").unwrap(), None);
}
