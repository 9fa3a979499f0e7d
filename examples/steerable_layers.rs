//! A steerable network from its pieces, and a check that it commutes with a rotation.
//!
//! Run with `cargo run --release --example steerable_layers`.
#![allow(clippy::print_stdout)]

use steer3d::nn::NnError;
use steer3d::prelude::*;

/// Steerable convolution, batch norm, gate: one layer.
struct Layer {
    conv: SteerableConv3d,
    norm: FieldBatchNorm,
    gate: Gate,
}

impl Layer {
    fn new(mut params: Scope<'_>, input: &Irreps, output: &Irreps) -> Result<Self, NnError> {
        let gate = Gate::new(output)?;
        let config = ConvConfig::new(input, gate.irreps_in());
        let config = ConvConfig { kernel: Family::jets(3), ..config };
        Ok(Self {
            conv: SteerableConv3d::new(params.pp("conv"), config)?,
            norm: FieldBatchNorm::new(params.pp("norm"), gate.irreps_in())?,
            gate,
        })
    }

    fn forward(&self, field: &Field) -> Result<Field, NnError> {
        self.gate.forward(&self.norm.forward(&self.conv.forward(field)?)?)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (input, hidden): (Irreps, Irreps) = ("1x0".parse()?, "4x0+3x1+2x2".parse()?);
    let mut params = Params::new(0, DType::F32, &Device::Cpu);
    let mut layers = vec![Layer::new(params.pp("layer1"), &input, &hidden)?];
    for i in 2..=5 {
        layers.push(Layer::new(params.pp(format!("layer{i}")), &hidden, &hidden)?);
    }
    let run = |volume: &Volume| -> Result<Volume, Box<dyn std::error::Error>> {
        let [d, h, w] = volume.dims();
        let shape = (1, volume.channels(), d, h, w);
        let values = Tensor::from_vec(volume.data().to_vec(), shape, &Device::Cpu)?;
        let mut field = Field::new(input.clone(), values)?;
        for layer in &layers {
            field = layer.forward(&field)?;
        }
        let values = field.values().flatten_all()?.to_vec1()?;
        Ok(Volume::centred(values, hidden.dim(), volume.grid())?)
    };

    let mut stream = Stream::new(0, "example", &[]);
    let values: Vec<f32> = (0..13 * 13 * 13).map(|_| stream.normal() as f32).collect();
    let volume = Volume::centred(values, 1, Grid::new([13; 3], [1.0; 3])?)?;
    let output = run(&volume)?;
    let mut worst = 0f32;
    for rotation in cube_group() {
        let turn =
            |v: &Volume, irreps: &Irreps| rotate(v, irreps, &rotation, Interpolation::Trilinear);
        let (turned_first, turned_last) = (run(&turn(&volume, &input)?)?, turn(&output, &hidden)?);
        let gaps = turned_first.data().iter().zip(turned_last.data()).map(|(a, b)| (a - b).abs());
        worst = gaps.fold(worst, f32::max);
    }
    let largest = output.data().iter().fold(0f32, |m, v| m.max(v.abs()));
    println!("{} parameters in five layers", params.count());
    println!("largest |network(Rx) - R network(x)| over the cube group: {:.1e}", worst / largest);
    assert!(worst < 1e-4 * largest);
    Ok(())
}
