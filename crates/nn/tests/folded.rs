//! Convolutions and networks with their batch norms folded in.

use candle_core::{DType, Device, Tensor};
use steer3d_kernels::{AngularCutoff, BumpShape, Family};
use steer3d_nn::layers::{
    ConvConfig, Convolution, ConvolutionPath, FieldBatchNorm, FieldLayer, FoldedConv3d, NormConfig,
    RadialConv3d, RadialConvConfig, SteerableConv3d,
};
use steer3d_nn::{
    Field, Mode, ModelConfig, Network, Params, PlainConfig, Pooling, SteerableConfig, Symmetry,
    TransformerConfig,
};
use steer3d_so3::{Irreps, Stream};

fn normal(seed: u64, shape: &[usize]) -> Tensor {
    let mut stream = Stream::new(seed, "test", &[]);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn noise(seed: u64, irreps: &Irreps, dtype: DType) -> Field {
    let values = normal(seed, &[2, irreps.dim(), 7, 6, 5]);
    Field::new(irreps.clone(), (values + 0.5).unwrap().to_dtype(dtype).unwrap()).unwrap()
}

/// Takes every weight and statistic away from where it starts.
fn disturb(params: &Params) {
    for (i, (name, var)) in params.all().enumerate() {
        let noise = (normal(i as u64, var.dims()) * 0.2).unwrap().to_dtype(var.dtype()).unwrap();
        let moved = (var.as_tensor().detach() + &noise).unwrap();
        let moved = if name.ends_with("running_var") { moved.abs().unwrap() } else { moved };
        var.set(&moved).unwrap();
    }
}

fn relative_gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let largest = |t: &Tensor| {
        let largest = t.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        largest.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap()
    };
    largest(&(a - b).unwrap()) / largest(b)
}

fn check(
    folded: &FoldedConv3d,
    conv: impl Fn(&Field) -> Field,
    norm: &FieldBatchNorm,
    input: &Field,
    what: &str,
) {
    let found = folded.forward(input).unwrap();
    let expected = norm.forward(&conv(input)).unwrap();
    assert_eq!(found.irreps(), expected.irreps());
    let gap = relative_gap(found.values(), expected.values());
    let tolerance = if input.values().dtype() == DType::F32 { 1e-5 } else { 1e-13 };
    assert!(gap < tolerance, "{what}: {gap}");
}

const PLAIN: [&str; 2] = ["2x0+1x1+1x2", "3x0+2x1+1x0+1x2"];
const PARITY: [&str; 2] = ["2x0e+1x0o+1x1o", "2x0e+2x0o+1x1o+1x1e+1x2e"];

#[test]
fn a_convolution_with_its_norm_folded_in_gives_the_same() {
    let families = [
        Family::shells(),
        Family::jets(2),
        Family::Bessel { functions: 2, max_degree: Some(3) },
        Family::SoftOneHot {
            functions: 2,
            shape: BumpShape::Cosine,
            cutoff: AngularCutoff::TwiceRadius,
        },
        Family::Radii { cutoff: AngularCutoff::TwiceRadius },
    ];
    for dtype in [DType::F32, DType::F64] {
        for [input, output] in [PLAIN, PARITY] {
            let irreps: [Irreps; 2] = [input, output].map(|i| i.parse().unwrap());
            for family in &families {
                for (stride, scaling_only, bias) in
                    [(1, false, true), (2, true, true), (2, false, false)]
                {
                    for path in [ConvolutionPath::Dense, ConvolutionPath::Separable] {
                        if path == ConvolutionPath::Separable && *family != Family::jets(2) {
                            continue;
                        }
                        let mut params = Params::new(1, dtype, &Device::Cpu);
                        let config = ConvConfig {
                            kernel: family.clone(),
                            bias,
                            stride,
                            path: Some(path),
                            ..ConvConfig::new(&irreps[0], &irreps[1])
                        };
                        let conv = SteerableConv3d::new(params.pp("conv"), config).unwrap();
                        let norm = NormConfig { scaling_only, ..(&irreps[1]).into() };
                        let norm = FieldBatchNorm::new(params.pp("norm"), norm).unwrap();
                        disturb(&params);
                        let folded = conv.folded_with(&norm).unwrap();
                        let what = format!("{family:?} {path:?} {input} {stride} {scaling_only}");
                        let input = noise(2, &irreps[0], dtype);
                        check(&folded, |x| conv.forward(x).unwrap(), &norm, &input, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn a_convolution_of_learned_radial_functions_too() {
    let irreps: [Irreps; 2] = PLAIN.map(|i| i.parse().unwrap());
    let mut params = Params::new(1, DType::F64, &Device::Cpu);
    let config = RadialConvConfig { size: 3, ..RadialConvConfig::new(&irreps[0], &irreps[1]) };
    let conv = RadialConv3d::new(params.pp("c"), config).unwrap();
    let norm = FieldBatchNorm::new(params.pp("norm"), &irreps[1]).unwrap();
    disturb(&params);
    let input = noise(2, &irreps[0], DType::F64);
    check(&conv.folded_with(&norm).unwrap(), |x| conv.forward(x).unwrap(), &norm, &input, "radial");
}

#[test]
fn a_norm_of_another_type_is_refused() {
    let irreps: [Irreps; 2] = PLAIN.map(|i| i.parse().unwrap());
    let mut params = Params::new(1, DType::F32, &Device::Cpu);
    let config = ConvConfig { size: 3, ..ConvConfig::new(&irreps[0], &irreps[1]) };
    let conv = SteerableConv3d::new(params.pp("conv"), config).unwrap();
    let norm = FieldBatchNorm::new(params.pp("norm"), &irreps[0]).unwrap();
    let message = conv.folded_with(&norm).unwrap_err().to_string();
    assert!(message.contains("norm expects a field of type"), "{message}");
}

fn steerable(parity: bool) -> ModelConfig {
    let mut config = SteerableConfig::small(2, 3).unwrap();
    let blocks = if parity {
        ["3x0e+1x0o+2x1o+1x1e", "3x0e+1x0o+1x1o+1x2e", "2x0e+1x0o+1x1e", "5x0e+2x0o"]
    } else {
        ["3x0+2x1+1x2", "3x0+1x1+2x2", "2x0+1x1", "5x0"]
    };
    if parity {
        config.input = "1x0e+1x0o".parse().unwrap();
        config.kernel = Family::jets(2);
    }
    (config.keep_zero, config.head_norm, config.input_scale) = (parity, parity, 0.7);
    for (block, fields) in config.blocks.iter_mut().zip(blocks) {
        block.fields = fields.parse().unwrap();
    }
    ModelConfig::Steerable(config)
}

#[test]
fn a_folded_network_gives_the_logits_of_its_moment() {
    let ModelConfig::Steerable(small) = steerable(false) else { unreachable!() };
    let plain = PlainConfig::like(&small);
    let antialiased = PlainConfig { pooling: Pooling::Antialiased, ..plain.clone() };
    let group = PlainConfig { symmetry: Symmetry::Octahedral, ..antialiased.clone() };
    let group = group.with_parameters(3000);
    let transformer = Some(TransformerConfig::small());
    let transformer = PlainConfig { transformer, ..plain.clone() };
    let plain = [plain, antialiased, group, transformer].map(ModelConfig::Plain);
    for model in [steerable(false), steerable(true)].into_iter().chain(plain) {
        let network = Network::new(&model, 1, DType::F32, &Device::Cpu).unwrap();
        let x = normal(3, &[2, 2, 13, 12, 11]).to_dtype(DType::F32).unwrap();
        network.forward(&x, Mode::Train { seed: 0, step: 0 }).unwrap();
        disturb(network.params());
        let logits = network.forward(&x, Mode::Evaluate).unwrap();
        let folded = network.folded().unwrap();
        let found = folded.forward(&x).unwrap();
        assert!(!found.track_op());
        let gap = relative_gap(&found, &logits);
        assert!(gap < 1e-5, "{model:?}: {gap}");

        disturb(network.params());
        let later = network.forward(&x, Mode::Evaluate).unwrap();
        assert!(relative_gap(&later, &logits) > 1e-2);
        let values = |t: &Tensor| t.to_vec2::<f32>().unwrap();
        assert_eq!(values(&folded.forward(&x).unwrap()), values(&found));
    }
}
