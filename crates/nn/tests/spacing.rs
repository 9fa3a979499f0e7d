//! One set of weights on volumes of other voxels.

#[path = "common/networks.rs"]
mod networks;

use candle_core::{DType, Device, Tensor};
use networks::{all_models, configs, irreps, prepared, unet};
use proptest::prelude::*;
use steer3d_kernels::{AngularCutoff, BumpShape, Family, KernelError};
use steer3d_nn::layers::{
    ConvConfig, Convolution, ConvolutionPath, FieldLayer, GaussianPool, SteerableConv3d,
};
use steer3d_nn::{
    Field, FoldedNetworks, Mode, ModelConfig, Network, NnError, Params, SteerableConfig,
};
use steer3d_so3::{Irreps, Stream};

/// Gaussian bumps at random places about the centre, in units of length.
struct Bumps(Vec<([f64; 3], f64)>, f64);

impl Bumps {
    fn new(seed: u64, width: f64, radius: f64) -> Self {
        let mut stream = Stream::new(seed, "bumps", &[]);
        let bump = |_| {
            let place = [0; 3].map(|_| radius * (2.0 * stream.uniform() - 1.0));
            (place, stream.normal())
        };
        Self((0..40).map(bump).collect(), width)
    }

    /// On D, H, W voxels of edges (x, y, z) about the centre, 1,1,D,H,W.
    fn on(&self, dims: [usize; 3], edges: [f64; 3], dtype: DType) -> Tensor {
        let [d, h, w] = dims;
        let line = |n: usize, edge: f64, q: f64| -> Vec<f64> {
            let at = |i: usize| (i as f64 - (n as f64 - 1.0) / 2.0) * edge;
            (0..n).map(|i| (-(at(i) - q).powi(2) / (2.0 * self.1 * self.1)).exp()).collect()
        };
        let mut values = vec![0.0; d * h * w];
        for &([x, y, z], a) in &self.0 {
            let (x, y, z) = (line(w, edges[0], x), line(h, edges[1], y), line(d, edges[2], z));
            for (i, value) in values.iter_mut().enumerate() {
                *value += a * z[i / (h * w)] * y[i / w % h] * x[i % w];
            }
        }
        let x = Tensor::from_vec(values, (1, 1, d, h, w), &Device::Cpu).unwrap();
        x.to_dtype(dtype).unwrap()
    }
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let norm = |t: Tensor| {
        let sum = t.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap();
        sum.to_scalar::<f64>().unwrap().sqrt()
    };
    norm((a - b).unwrap()) / norm(b.clone())
}

fn noise(dims: [usize; 3]) -> Tensor {
    let [d, h, w] = dims;
    let mut stream = Stream::new(3, "noise", &[]);
    let values = (0..d * h * w).map(|_| stream.normal() as f32);
    Tensor::from_iter(values, &Device::Cpu).unwrap().reshape((1, 1, d, h, w)).unwrap()
}

#[test]
fn its_own_spacing_is_the_same_network() {
    let x = noise([13, 12, 11]);
    for config in configs() {
        let config = SteerableConfig { voxel_size: [1.3, 1.3, 2.1], ..config };
        let network = prepared(&ModelConfig::Steerable(config));
        let other = network.at_spacing([1.1, 1.0, 2.0]).unwrap();
        assert_eq!(other.spacing(), [1.1, 1.0, 2.0]);
        let same = other.at_spacing([1.3, 1.3, 2.1]).unwrap();
        let answer = |network: &Network| {
            let answer = network.forward(&x, Mode::Evaluate).unwrap();
            answer.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(answer(&same), answer(&network));
        assert_ne!(answer(&other), answer(&network));
    }
}

#[test]
fn weights_and_statistics_are_shared() {
    let network = prepared(&ModelConfig::Steerable(unet()));
    let other = network.at_spacing([1.0, 1.0, 2.0]).unwrap();
    let of = |network: &Network| -> Vec<_> {
        let all = network.params().all();
        all.map(|(name, var)| (name.to_owned(), var.as_tensor().id())).collect()
    };
    assert_eq!(of(&network), of(&other));
    assert_eq!(network.params().count(), other.params().count());
    let x = noise([9, 12, 12]);
    let train = Mode::Train { seed: 0, step: 0 };
    let loss = other.forward(&x, train).unwrap().sqr().unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    for parameter in network.params().trainable() {
        assert!(gradients.get(parameter.var.as_tensor()).is_some(), "{}", parameter.name);
    }
    let var = &network.params().trainable()[0].var;
    let before = other.forward(&x, Mode::Evaluate).unwrap();
    var.set(&(var.as_tensor() * 1.5).unwrap().detach()).unwrap();
    assert!(gap(&other.forward(&x, Mode::Evaluate).unwrap(), &before) > 1e-3);
}

#[test]
fn networks_for_other_voxels_are_kept() {
    let network = prepared(&ModelConfig::Steerable(unet()));
    let edges = [0.7, 0.7, 3.0];
    assert_eq!(network.coarsening(edges, None), [1.0; 3]);
    assert_eq!(network.coarsening(edges, Some([0.70001, 1.4, 1.5])), [1.0, 2.0, 0.5]);
    let x = noise([9, 12, 12]);
    let values = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let folded = FoldedNetworks::new(&network).unwrap();
    for k in 0..40 {
        let ratios = [1.0, 1.0, 1.0 + f64::from(k % 20) / 10.0];
        let made = network.coarsened(ratios).unwrap();
        assert_eq!(made.spacing(), ratios);
        let answer = values(made.folded().unwrap().forward(&x).unwrap());
        let found = folded.coarsened(&network, ratios).unwrap();
        assert_eq!(values(found.forward(&x).unwrap()), answer);
    }
    let again = [network.coarsened([1.0, 1.0, 2.0]), network.coarsened([1.0, 1.0, 2.0])];
    let [a, b] = again.map(Result::unwrap);
    assert!(std::ptr::eq(&*a, &*b));
    let plain = all_models().into_iter().find(|m| matches!(m, ModelConfig::Plain(_))).unwrap();
    let plain = Network::new(&plain, 1, DType::F32, &Device::Cpu).unwrap();
    assert_eq!(plain.coarsening(edges, Some([1.0; 3])), [1.0; 3]);
}

#[test]
fn pooling_acts_on_axes_finer_than_its_scale() {
    let pool = |edges| GaussianPool::new(2).at_spacing(edges);
    assert_eq!(pool([1.0; 3]), GaussianPool::new(2));
    // Slices 2.5 times as thick are as coarse as the grid of the pool already.
    let slices = pool([2.5, 1.0, 0.8]);
    assert_eq!(slices.stride, [1, 2, 3]);
    for (found, expected) in slices.sigma.into_iter().zip([0.48, 1.2, 1.5]) {
        assert!((found - expected).abs() < 1e-12);
    }
    let made_for = |voxel_size| {
        let config = SteerableConfig { voxel_size, ..unet_of_5() };
        Network::new(&config.into(), 1, DType::F32, &Device::Cpu).unwrap()
    };
    let sizes_of = |network: &Network, spacing, dims| -> Vec<[usize; 3]> {
        let network = network.at_spacing(spacing).unwrap();
        let layers = network.layers(&noise(dims)).unwrap();
        let of = |name: &str| {
            let layer = layers.iter().find(|l| l.name == name).unwrap();
            let [_, _, d, h, w] = layer.values.dims()[..] else { panic!("{name} has no space") };
            [d, h, w]
        };
        ["block 2 pooling", "block 3 pooling", "decoder block 1 convolution", "logits"]
            .map(of)
            .into()
    };
    let network = made_for([1.0; 3]);
    let sizes = |spacing, dims| sizes_of(&network, spacing, dims);
    let [two, four] = [[12, 12, 12], [6, 6, 6]];
    assert_eq!(sizes([1.0; 3], [24; 3]), [two, four, two, [24; 3]]);
    // 2.5 stays, and then goes to 5 beside 4; on the way up the same.
    let [first, second, whole] = [[10, 12, 13], [5, 6, 7], [10, 24, 25]];
    assert_eq!(sizes([1.0, 1.0, 2.5], whole), [first, second, first, whole]);
    // 0.5 goes to 2 by a stride of 4.
    let [first, second, whole] = [[12, 6, 6], [6, 3, 3], [24, 24, 24]];
    assert_eq!(sizes([0.5, 0.5, 1.0], whole), [first, second, first, whole]);
    // Made for thick slices, which stay at 4 beside 2, and then beside 4.
    let thick = made_for([1.0, 1.0, 4.0]);
    let [first, second, whole] = [[10, 12, 12], [10, 6, 6], [10, 24, 24]];
    assert_eq!(sizes_of(&thick, [1.0, 1.0, 4.0], whole), [first, second, first, whole]);
    assert_eq!(sizes_of(&thick, [1.0; 3], [24; 3]), [two, four, two, [24; 3]]);
}

fn unet_of_5() -> SteerableConfig {
    SteerableConfig::unet(1, 3).unwrap()
}

#[test]
fn answers_hardly_depend_on_the_spacing() {
    // Voxels of 2 x 2 x 3 mm, and slices 1.5, 2 and 2.5 times as thick; compared where both have a voxel.
    let config = SteerableConfig { voxel_size: [2.0; 3], keep_zero: true, ..unet_of_5() };
    let network = Network::new(&config.into(), 1, DType::F32, &Device::Cpu).unwrap();
    let field = Bumps::new(1, 5.0, 12.0);
    network
        .forward(&field.on([25; 3], [2.0; 3], DType::F32), Mode::Calibrate { batch: 0 })
        .unwrap();
    // Grids whose central voxels and every second from there lie in the same places.
    for (planes, skip, allowed) in [(17, 3, 0.03), (13, 4, 0.05), (11, 5, 0.08)] {
        let edges = [2.0, 2.0, skip as f64];
        let fine = skip * (planes - 1) / 2;
        let whole = field.on([fine + 1, 25, 25], [2.0; 3], DType::F32);
        let expected = network.forward(&whole, Mode::Evaluate).unwrap();
        let slices = field.on([planes, 25, 25], edges, DType::F32);
        let found = network.at_spacing(edges).unwrap().forward(&slices, Mode::Evaluate).unwrap();
        let naive = network.forward(&slices, Mode::Evaluate).unwrap();
        // Slice 2 i lies at plane skip i; slice 0 is left out with the border.
        let at = |t: &Tensor, step: usize| {
            let places: Vec<u32> = (1..(planes - 1) / 2).map(|i| (i * step) as u32).collect();
            let places = Tensor::new(places, &Device::Cpu).unwrap();
            let inner = t.index_select(&places, 2).unwrap();
            inner.narrow(3, 4, 17).unwrap().narrow(4, 4, 17).unwrap()
        };
        let expected = at(&expected, skip);
        let (error, without) = (gap(&at(&found, 2), &expected), gap(&at(&naive, 2), &expected));
        assert!(error < allowed, "z of {skip}: {error}");
        assert!(8.0 * error < without, "z of {skip}: {error}, without {without}");
    }
}

#[test]
fn spacings_that_cannot_be_give_typed_errors() {
    let network = Network::new(&unet().into(), 1, DType::F32, &Device::Cpu).unwrap();
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = network.at_spacing([1.0, bad, 1.0]).unwrap_err();
        let of_y = matches!(error, NnError::Kernel(KernelError::VoxelSize { axis: 'y', .. }));
        assert!(of_y, "{error}");
    }
    for bad in [4.5, 0.01, 1e-300] {
        let error = network.at_spacing([1.0, 1.0, bad]).unwrap_err();
        let of_z = matches!(error, NnError::Kernel(KernelError::Spacing { axis: 'z', .. }));
        assert!(of_z, "{error}");
    }
    for model in all_models() {
        let network = Network::new(&model, 1, DType::F32, &Device::Cpu).unwrap();
        let found = network.at_spacing([1.0, 1.0, 2.0]);
        match model {
            ModelConfig::Steerable(_) => assert_eq!(found.unwrap().spacing(), [1.0, 1.0, 2.0]),
            ModelConfig::Plain(_) => {
                let error = found.unwrap_err().to_string();
                assert!(error.contains("plain network") && error.contains("resample"), "{error}");
            }
        }
    }
}

/// A convolution from `params`, whose layers of the same name share weights.
fn conv(params: &mut Params, config: ConvConfig) -> SteerableConv3d {
    SteerableConv3d::new(params.pp("conv"), config).unwrap()
}

#[test]
fn the_gradient_of_a_plane_is_the_same_on_any_voxels() {
    // A kernel of first derivatives takes g . x + c to a constant vector along g, in the order (x, y, z).
    let g = [0.3, -0.7, 1.1];
    let (scalar, vector) = (irreps("1x0"), irreps("1x1"));
    let constant = |edges: [f64; 3]| {
        let values = (0..17usize.pow(3)).map(|i| {
            let at = |i: usize, axis: usize| g[axis] * (i as f64 - 8.0) * edges[axis];
            2.0 + at(i % 17, 0) + at(i / 17 % 17, 1) + at(i / 289, 2)
        });
        let x = Tensor::from_iter(values, &Device::Cpu).unwrap().reshape((1, 1, 17, 17, 17));
        let config = ConvConfig {
            kernel: Family::jets(1),
            size: 7,
            spacing: Some(edges),
            ..ConvConfig::new(&scalar, &vector)
        };
        let mut params = Params::new(1, DType::F64, &Device::Cpu);
        let conv = conv(&mut params, config);
        let field = conv.forward(&Field::new(scalar.clone(), x.unwrap()).unwrap()).unwrap();
        let centre = |c| field.values().get(0).unwrap().get(c).unwrap();
        [0, 1, 2].map(|c| {
            centre(c)
                .narrow(0, 8, 1)
                .unwrap()
                .narrow(1, 8, 1)
                .unwrap()
                .narrow(2, 8, 1)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f64>()
                .unwrap()[0]
        })
    };
    let factor = constant([1.0; 3])[0] / g[0];
    for edges in [[1.0; 3], [0.5, 0.5, 0.5], [0.6, 1.0, 1.5], [1.0, 1.0, 2.0]] {
        for (found, g) in constant(edges).iter().zip(g) {
            assert!((found / (factor * g) - 1.0).abs() < 0.02, "{edges:?}: {found} {}", factor * g);
        }
    }
}

fn families() -> impl Strategy<Value = Family> {
    let bumps = Family::SoftOneHot {
        functions: 2,
        shape: BumpShape::Cosine,
        cutoff: AngularCutoff::default(),
    };
    let radii = Family::Radii { cutoff: AngularCutoff::default() };
    prop::sample::select(vec![Family::shells(), Family::jets(2), Family::jets(1), bumps, radii])
}

fn types() -> impl Strategy<Value = (Irreps, Irreps)> {
    let all = ["1x0+1x1", "2x0+1x2", "2x1+1x3", "3x0"];
    let one = || prop::sample::select(all.to_vec()).prop_map(irreps);
    (one(), one())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// The separable path gives what the dense filter does, and layers of any spacing have the same weights.
    #[test]
    fn both_paths_agree_on_any_voxels(
        (i, o) in types(),
        kernel in families(),
        edges in prop::array::uniform3(0.6f64..2.5),
        dims in prop::array::uniform3(2usize..9),
    ) {
        let config = |path| ConvConfig {
            kernel: kernel.clone(),
            spacing: Some(edges),
            path,
            ..ConvConfig::new(&i, &o)
        };
        let mut params = Params::new(1, DType::F64, &Device::Cpu);
        let dense = conv(&mut params, config(Some(ConvolutionPath::Dense)));
        let mut again = Params::new(1, DType::F64, &Device::Cpu);
        conv(&mut again, ConvConfig { spacing: None, ..config(None) });
        let weights = |params: &Params| {
            params.trainable()[0].var.as_tensor().to_vec1::<f64>().unwrap()
        };
        prop_assert_eq!(weights(&params), weights(&again));
        let [d, h, w] = dims;
        let mut stream = Stream::new(2, "x", &[]);
        let values = (0..i.dim() * d * h * w).map(|_| stream.normal());
        let x = Tensor::from_iter(values, &Device::Cpu).unwrap();
        let x = Field::new(i.clone(), x.reshape((1, i.dim(), d, h, w)).unwrap()).unwrap();
        let expected = dense.forward(&x).unwrap();
        if let Family::GaussianJets { .. } = kernel {
            let mut params = Params::new(1, DType::F64, &Device::Cpu);
            let separable = conv(&mut params, config(Some(ConvolutionPath::Separable)));
            let found = separable.forward(&x).unwrap();
            prop_assert!(gap(found.values(), expected.values()) < 1e-12);
            let filter = separable.dense_filter().unwrap();
            prop_assert!(gap(&filter, &dense.filter().unwrap()) < 1e-12);
        }
    }

    /// A U-Net gives back the grid that it was given, and plane by plane the same.
    #[test]
    fn a_unet_comes_back_to_its_grid(
        edges in prop::array::uniform3(0.6f64..3.0),
        dims in prop::array::uniform3(6usize..20),
        planes in 1usize..9,
    ) {
        let network = prepared(&ModelConfig::Steerable(unet())).at_spacing(edges).unwrap();
        let folded = network.folded().unwrap();
        let x = noise(dims);
        let whole = folded.forward(&x).unwrap();
        prop_assert_eq!(whole.dims(), [&[1, 3], &dims[..]].concat());
        let mut parts = vec![];
        let mut source = |first, count| Ok(x.narrow(2, first, count)?);
        let mut sink = |_, part: &Tensor| {
            parts.push(part.clone());
            Ok::<_, NnError>(())
        };
        folded.forward_planes(dims, planes, &mut source, &mut sink).unwrap();
        prop_assert!(gap(&Tensor::cat(&parts, 2).unwrap(), &whole) < 1e-5);
    }
}
