use candle_core::{Device, Tensor};
use steer3d_so3::{
    Irreps, Rotation, Stream, cube_group, random_rotations, rotations::random_rotation,
};
use steer3d_volume::Interpolation;

use super::BumpField;
use crate::fields::Values;
use crate::{EvalError, ModelError};

/// Voxels are cubes here.
const CUBIC: [f64; 3] = [1.0; 3];

/// A map of fields whose equivariance is measured: a layer, a network, or any function.
pub struct FieldMap<'a> {
    name: String,
    irreps_in: Irreps,
    irreps_out: Irreps,
    forward: Box<Forward<'a>>,
}

type Forward<'a> = dyn Fn(&Tensor) -> Result<Tensor, ModelError> + 'a;

impl<'a> FieldMap<'a> {
    /// `forward` takes fields of type `irreps_in`, shape 1,C,N,N,N in f32 on the CPU, and gives
    /// fields of type `irreps_out`, shape 1,C,D,H,W, or vectors of shape 1,C.
    pub fn new(
        name: impl Into<String>,
        irreps_in: &Irreps,
        irreps_out: &Irreps,
        forward: impl Fn(&Tensor) -> Result<Tensor, ModelError> + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            irreps_in: irreps_in.clone(),
            irreps_out: irreps_out.clone(),
            forward: Box::new(forward),
        }
    }

    /// The type of field that it takes.
    pub fn irreps_in(&self) -> &Irreps {
        &self.irreps_in
    }

    fn apply(&self, x: &Tensor) -> Result<Values, EvalError> {
        let y = (self.forward)(x).map_err(|source| EvalError::Forward {
            what: format!("layer {}", self.quoted()),
            shape: x.dims().to_vec(),
            source,
        })?;
        Values::new(&self.quoted(), &self.irreps_out, &y)
    }

    fn quoted(&self) -> String {
        format!("`{}`", self.name)
    }

    fn defined(&self, error: Option<f64>) -> Result<f64, EvalError> {
        let problem =
            "gives zeros for a random field, so it has no relative error; check its weights";
        error.ok_or_else(|| EvalError::Layer { layer: self.quoted(), problem: problem.into() })
    }
}

/// ‖M (L(R f) − R L(f))‖ / ‖M R L(f)‖ for each rotation, with f and R f on `size`³ voxels from the
/// formula of the field, R L(f) by cubic B-splines, and M the ball |p| <= 0.35 N of the output.
///
/// # Errors
/// If the map fails, gives fields of another type than it says, or gives zeros.
pub fn resampled_errors(
    map: &FieldMap<'_>,
    field: &BumpField,
    size: usize,
    rotations: &[Rotation],
) -> Result<Vec<f64>, EvalError> {
    let base = map.apply(&field.sample(size)?)?;
    let error = |rotation: &Rotation| {
        let turned = map.apply(&field.transformed(rotation.matrix())?.sample(size)?)?;
        let expected = base.rotated(rotation, CUBIC, Interpolation::Cubic)?;
        map.defined(expected.gap_in_ball(&turned))
    };
    rotations.iter().map(error).collect()
}

/// √(Σ |L(R f)(0) − ρ(R) L(f)(0)|² / Σ |L(f)(0)|²) over `fields` random fields, each with a random
/// rotation of its own: only central voxels are compared, which no rotation moves, so that nothing
/// is interpolated and what remains is the error of the map alone.
///
/// The fields have bumps of standard deviation `width` voxels on `size`³ voxels and beyond, drawn
/// with the stream (seed, "centre field", \[index\]).
///
/// # Errors
/// As [`resampled_errors`], and [`EvalError::Layer`] for an output of even size.
pub fn centre_error(
    map: &FieldMap<'_>,
    size: usize,
    width: f64,
    fields: usize,
    seed: u64,
) -> Result<f64, EvalError> {
    let (mut difference, mut norm) = (0.0, 0.0);
    for index in 0..fields as u64 {
        let mut stream = Stream::new(seed, "centre field", &[index]);
        let field = BumpField::filling(&map.irreps_in, size, width, &mut stream);
        let rotation = random_rotation(&mut stream);
        let at_centre = |field: &BumpField| map.centre(&field.sample(size)?);
        let base = nalgebra::DVector::from_vec(at_centre(&field)?);
        let expected = map.irreps_out.wigner_d(&rotation) * base;
        let found = at_centre(&field.transformed(rotation.matrix())?)?;
        difference += expected.iter().zip(&found).map(|(e, f)| (e - f).powi(2)).sum::<f64>();
        norm += expected.norm_squared();
    }
    map.defined((norm > 0.0).then(|| (difference / norm).sqrt()))
}

impl FieldMap<'_> {
    fn centre(&self, x: &Tensor) -> Result<Vec<f64>, EvalError> {
        let values = self.apply(x)?;
        let dims = values.dims();
        if dims.iter().any(|n| n.is_multiple_of(2)) {
            let problem = format!(
                "gives a grid of {dims:?} (D, H, W), which has no central voxel; choose a size of the input that leads to odd ones"
            );
            return Err(EvalError::Layer { layer: self.quoted(), problem });
        }
        let voxels: usize = dims.iter().product();
        // The middle of an odd number of values is the middle of each odd side.
        Ok(values.data.chunks_exact(voxels).map(|c| f64::from(c[voxels / 2])).collect())
    }
}

/// The largest ‖L(g x) − g L(x)‖ / ‖L(x)‖ over the 24 rotations g of the cube, and their products
/// with the inversion where all fields have parities, for white noise x of `size`³ voxels: these
/// permute voxels exactly, so that an equivariant map leaves rounding only.
///
/// # Errors
/// As [`resampled_errors`].
pub fn cube_error(map: &FieldMap<'_>, size: usize, seed: u64) -> Result<f64, EvalError> {
    let mut stream = Stream::new(seed, "white noise", &[size as u64]);
    let shape = [1, map.irreps_in.dim(), size, size, size];
    let noise: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
    let x = Tensor::from_vec(noise, &shape[..], &Device::Cpu)?;
    let input = Values::new(&map.quoted(), &map.irreps_in, &x)?;
    let output = map.apply(&x)?;
    let gap = |input: Values, expected: Values| {
        let found = map.apply(&Tensor::from_vec(input.data, &shape[..], &Device::Cpu)?)?;
        map.defined(expected.gap(&found))
    };
    let with_inversion = map.irreps_in.has_parity() && map.irreps_out.has_parity();
    let mut worst = 0f64;
    for rotation in cube_group() {
        let turned = |values: &Values| values.rotated(&rotation, CUBIC, Interpolation::Nearest);
        let (input, expected) = (turned(&input)?, turned(&output)?);
        if with_inversion {
            worst = worst.max(gap(input.inverted(), expected.inverted())?);
        }
        worst = worst.max(gap(input, expected)?);
    }
    Ok(worst)
}

/// Panics unless a map commutes with rotations: to `exact` with those of the cube on white noise
/// ([`cube_error`]), and to `smooth`, in the mean over ten random rotations of a field with bumps
/// two voxels wide ([`resampled_errors`]).
///
/// A layer in f32 leaves about 1e-6 on white noise. On smooth fields the comparison itself
/// interpolates, which leaves 0.0007; a good layer stays below 0.005 and an ordinary convolution
/// gives about 1. `size` is that of the input; 17 or more leaves room for the smooth field, and
/// strided layers need a size that their stride treats symmetrically about the centre.
///
/// ```
/// use steer3d_eval::equivariance::{FieldMap, assert_equivariant};
/// let irreps = "1x0+1x1".parse().unwrap();
/// let double = FieldMap::new("double", &irreps, &irreps, |x| Ok((x * 2.0)?));
/// assert_equivariant(&double, 17, 1e-6, 2e-3);
/// ```
///
/// # Panics
/// If the map is less equivariant than that, or fails.
pub fn assert_equivariant(map: &FieldMap<'_>, size: usize, exact: f64, smooth: f64) {
    let name = &map.name;
    let unwrapped = |result: Result<f64, EvalError>| match result {
        Ok(error) => error,
        Err(error) => panic!("layer `{name}` cannot be measured: {error}"),
    };
    let error = unwrapped(cube_error(map, size, 0));
    assert!(
        error <= exact,
        "layer `{name}` does not commute with the rotations of the cube: relative error \
         {error:.1e} on white noise, {exact:.1e} allowed"
    );
    let radius = 0.25 * size as f64;
    let field =
        BumpField::random(&map.irreps_in, 24, radius, 2.0, &mut Stream::new(0, "assert", &[]));
    let error = unwrapped(
        resampled_errors(map, &field, size, &random_rotations(0, 10))
            .map(|errors| errors.iter().sum::<f64>() / errors.len() as f64),
    );
    assert!(
        error <= smooth,
        "layer `{name}` does not commute with random rotations: relative error {error:.2e} on \
         smooth fields, {smooth:.2e} allowed"
    );
}
