use candle_core::{Device, Tensor};
use nalgebra::{DVector, Matrix3, Vector3};
use steer3d_so3::{Irreps, RotationError, Stream};

/// A smooth field given by a formula, f(p) = Σ_j a_j exp(−|p − q_j|²/2s²), so that it can be rotated
/// exactly: (g f)(p) = ρ(g) f(g⁻¹p) has the bumps g q_j with the amplitudes ρ(g) a_j.
#[derive(Clone, Debug)]
pub struct BumpField {
    irreps: Irreps,
    width: f64,
    bumps: Vec<(Vector3<f64>, DVector<f64>)>,
}

impl BumpField {
    /// `count` bumps of standard deviation `width` at uniform positions in the ball of `radius`
    /// about the centre (both in voxels), with standard normal amplitudes.
    pub fn random(
        irreps: &Irreps,
        count: usize,
        radius: f64,
        width: f64,
        stream: &mut Stream,
    ) -> Self {
        let bumps = (0..count)
            .map(|_| {
                let position = in_ball(stream) * radius;
                (position, DVector::from_fn(irreps.dim(), |_, _| stream.normal()))
            })
            .collect();
        Self { irreps: irreps.clone(), width, bumps }
    }

    /// Bumps of standard deviation `width`, one for each cube of two widths, that fill the ball
    /// about `size`³ voxels and four widths more: a field without an edge, as far as the grid shows.
    pub fn filling(irreps: &Irreps, size: usize, width: f64, stream: &mut Stream) -> Self {
        let radius = 0.75f64.sqrt() * size as f64 + 4.0 * width;
        let count = 4.0 / 3.0 * std::f64::consts::PI * (radius / (2.0 * width)).powi(3);
        Self::random(irreps, count.ceil() as usize, radius, width, stream)
    }

    /// The field turned by an orthogonal matrix, exactly.
    ///
    /// # Errors
    /// If the matrix is not orthogonal, or is a reflection while the irreps have no parity.
    pub fn transformed(&self, matrix: &Matrix3<f64>) -> Result<Self, RotationError> {
        let mixer = self.irreps.matrix(matrix)?;
        let bumps = self.bumps.iter().map(|(q, a)| (matrix * q, &mixer * a)).collect();
        Ok(Self { bumps, irreps: self.irreps.clone(), width: self.width })
    }

    /// The values on `size`³ voxels about the centre, shape 1,C,size,size,size, f32.
    ///
    /// # Errors
    /// Only if memory runs out.
    pub fn sample(&self, size: usize) -> Result<Tensor, candle_core::Error> {
        self.sample_on([size; 3], [1.0; 3])
    }

    /// The values on D, H, W voxels with edges (x, y, z) about the centre, shape 1,C,D,H,W, f32.
    ///
    /// # Errors
    /// Only if memory runs out.
    pub fn sample_on(
        &self,
        [depth, height, width]: [usize; 3],
        edges: [f64; 3],
    ) -> Result<Tensor, candle_core::Error> {
        let channels = self.irreps.dim();
        let voxels = depth * height * width;
        let mut values = vec![0.0f64; channels * voxels];
        let mut bump = vec![0.0; voxels];
        for (q, amplitudes) in &self.bumps {
            let [x, y, z] = [(width, 0), (height, 1), (depth, 2)]
                .map(|(size, axis)| self.profile(size, edges[axis], q[axis]));
            for (row, yz) in bump
                .chunks_exact_mut(width)
                .zip(z.iter().flat_map(|z| y.iter().map(move |y| z * y)))
            {
                row.iter_mut().zip(&x).for_each(|(v, x)| *v = yz * x);
            }
            for (channel, a) in values.chunks_exact_mut(voxels).zip(amplitudes) {
                channel.iter_mut().zip(&bump).for_each(|(v, b)| *v += a * b);
            }
        }
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        Tensor::from_vec(values, (1, channels, depth, height, width), &Device::Cpu)
    }

    /// One axis of a bump: its three-dimensional Gaussian is a product.
    fn profile(&self, size: usize, edge: f64, centre: f64) -> Vec<f64> {
        let middle = (size as f64 - 1.0) / 2.0;
        (0..size)
            .map(|i| (-0.5 * (((i as f64 - middle) * edge - centre) / self.width).powi(2)).exp())
            .collect()
    }
}

/// A uniform point of the unit ball.
fn in_ball(stream: &mut Stream) -> Vector3<f64> {
    loop {
        let point = Vector3::from_fn(|_, _| 2.0 * stream.uniform() - 1.0);
        if point.norm_squared() <= 1.0 {
            return point;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sampled_field_is_its_formula() {
        let irreps: Irreps = "1x0+1x1".parse().unwrap();
        let field = BumpField::random(&irreps, 3, 2.0, 1.5, &mut Stream::new(1, "field", &[]));
        let values = field.sample(5).unwrap();
        let p = Vector3::new(-1.0, 2.0, 0.0);
        let expected: DVector<f64> = field
            .bumps
            .iter()
            .map(|(q, a)| a * (-(p - q).norm_squared() / (2.0 * 1.5 * 1.5)).exp())
            .sum();
        for c in 0..4 {
            let at: Vec<f32> =
                values.get(0).unwrap().get(c).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            // Voxel D,H,W = z,y,x about 2.
            let found = f64::from(at[(2 * 5 + 4) * 5 + 1]);
            assert!((found - expected[c]).abs() < 1e-6, "{found} {}", expected[c]);
        }
    }

    #[test]
    fn reflections_need_parity() {
        let mut stream = Stream::new(1, "field", &[]);
        let mirror = -Matrix3::identity();
        let plain = BumpField::random(&"1x1".parse().unwrap(), 1, 2.0, 1.0, &mut stream);
        assert!(plain.transformed(&mirror).is_err());
        let axial = BumpField::random(&"1x1e".parse().unwrap(), 1, 2.0, 1.0, &mut stream);
        let mirrored = axial.transformed(&mirror).unwrap();
        assert_eq!(mirrored.bumps[0].1, axial.bumps[0].1);
        assert_eq!(mirrored.bumps[0].0, -axial.bumps[0].0);
    }
}
