//! Pictures of a volume: slices, projections and an isosurface.

use std::path::Path;

use nalgebra::Vector3;
use rayon::prelude::*;

use crate::volume::Volume;
use steer3d_files as atomic;

/// Width and height of a panel in pixels.
const PANEL: usize = 256;

/// Pixels between panels.
const GAP: usize = 8;

/// An RGB picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Picture {
    fn new(width: usize, height: usize) -> Self {
        Self { width, height, rgb: vec![255; 3 * width * height] }
    }

    /// Width and height in pixels.
    pub fn size(&self) -> [usize; 2] {
        [self.width, self.height]
    }

    /// Red, green, blue of every pixel, row by row from the top.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Draws `colour(u, v)` for the pixel (u, v) of a square of edge `size` at x, y.
    fn panel(
        &mut self,
        [x, y]: [usize; 2],
        size: usize,
        colour: impl Fn(f64, f64) -> [u8; 3] + Sync,
    ) {
        let rows = self.rgb.par_chunks_exact_mut(3 * self.width).skip(y).take(size);
        rows.enumerate().for_each(|(v, row)| {
            for (u, pixel) in row[3 * x..3 * (x + size)].as_chunks_mut().0.iter_mut().enumerate() {
                let [u, v] = [u, v].map(|i| (i as f64 + 0.5) / size as f64);
                *pixel = colour(u, v);
            }
        });
    }

    /// Writes a PNG file, which takes its place when it is on disk.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_png(&self, path: &Path) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header()?.write_image_data(&self.rgb)?;
        atomic::write(path, &bytes)
    }
}

/// Seven views of a volume, of the maximum over its channels: above, the central slices across z
/// (x to the right, y down), y (x, z) and x (y, z); below, the maximum-intensity projections along
/// z, y and x with the same axes; on the right the isosurface at `level`, or halfway to the maximum
/// of the smoothed volume, seen from (1, -1.5, 1) with z up and coloured by channel.
///
/// Voxels keep their proportions. Slices and projections are scaled from 0 (or the minimum) to the
/// maximum.
pub fn overview(volume: &Volume, level: Option<f32>) -> Picture {
    let field = Field::of(volume);
    let side = 2 * PANEL + GAP;
    let mut picture = Picture::new(3 * (PANEL + GAP) + side, side);
    // The axes (x 0, y 1, z 2) across the panels, to their right and down.
    for (column, [across, right, down]) in [[2, 0, 1], [1, 0, 2], [0, 1, 2]].into_iter().enumerate()
    {
        let x = column * (PANEL + GAP);
        let middle = field.count(across) / 2;
        let slice = field.plane(right, down, |i, j| field.at(across, middle, right, i, down, j));
        let projection = field.plane(right, down, |i, j| {
            let ray = (0..field.count(across)).map(|k| field.at(across, k, right, i, down, j));
            ray.fold(f32::NEG_INFINITY, f32::max)
        });
        picture.panel([x, 0], PANEL, |u, v| colour(field.pixel(&slice, right, down, u, v)));
        let projected = |u, v| colour(field.pixel(&projection, right, down, u, v));
        picture.panel([x, PANEL + GAP], PANEL, projected);
    }
    let surface = Surface::new(volume, level);
    picture.panel([3 * (PANEL + GAP), 0], side, |u, v| surface.pixel(u, v));
    picture
}

/// A scalar field and its range.
struct Field {
    values: Vec<f32>,
    dims: [usize; 3],
    edges: [f64; 3],
    range: [f32; 2],
}

impl Field {
    /// The maximum over the channels.
    fn of(volume: &Volume) -> Self {
        let voxels = volume.grid().voxels();
        let mut values = volume.data()[..voxels].to_vec();
        for channel in volume.data().chunks_exact(voxels).skip(1) {
            values.iter_mut().zip(channel).for_each(|(value, &other)| *value = value.max(other));
        }
        let low = values.iter().copied().fold(0.0, f32::min);
        let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let edges = volume.voxel_size();
        Self { values, dims: volume.dims(), edges, range: [low, high.max(low)] }
    }

    /// Voxels along an axis, x = 0.
    fn count(&self, axis: usize) -> usize {
        self.dims[2 - axis]
    }

    /// The value at index i of axis a, j of axis b and k of axis c.
    fn at(&self, a: usize, i: usize, b: usize, j: usize, c: usize, k: usize) -> f32 {
        let mut index = [0; 3];
        (index[a], index[b], index[c]) = (i, j, k);
        let [x, y, z] = index;
        self.values[(z * self.dims[1] + y) * self.dims[2] + x]
    }

    fn plane(&self, right: usize, down: usize, value: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let (width, height) = (self.count(right), self.count(down));
        (0..width * height).map(|i| value(i % width, i / width)).collect()
    }

    /// The value between 0 and 1 of a plane at a place of its panel; `None` beside the plane.
    fn pixel(&self, plane: &[f32], right: usize, down: usize, u: f64, v: f64) -> Option<f64> {
        let extent = |axis: usize| self.count(axis) as f64 * self.edges[axis];
        let scale = (0..3).map(extent).fold(0.0, f64::max);
        let index = |axis: usize, t: f64| {
            let index = ((t - 0.5) * scale / self.edges[axis]) + self.count(axis) as f64 / 2.0;
            (index >= 0.0 && (index as usize) < self.count(axis)).then_some(index as usize)
        };
        let value = plane[index(down, v)? * self.count(right) + index(right, u)?];
        let [low, high] = self.range;
        Some(if high > low { f64::from((value - low) / (high - low)) } else { 0.0 })
    }
}

/// Black, violet, orange, light yellow: of rising lightness. Grey beside the volume.
fn colour(value: Option<f64>) -> [u8; 3] {
    const STOPS: [[f64; 3]; 6] = [
        [4.0, 4.0, 16.0],
        [62.0, 15.0, 102.0],
        [142.0, 38.0, 112.0],
        [221.0, 81.0, 70.0],
        [251.0, 158.0, 40.0],
        [252.0, 253.0, 191.0],
    ];
    let Some(value) = value else { return [235; 3] };
    let place = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let stop = (place as usize).min(STOPS.len() - 2);
    let t = place - stop as f64;
    [0, 1, 2].map(|c| (STOPS[stop][c] * (1.0 - t) + STOPS[stop + 1][c] * t).round() as u8)
}

/// Colours of the channels: of similar lightness, and distinct to the colour-blind.
const CHANNELS: [[f64; 3]; 6] = [
    [94.0, 140.0, 198.0],
    [222.0, 110.0, 60.0],
    [80.0, 165.0, 110.0],
    [190.0, 100.0, 170.0],
    [205.0, 165.0, 50.0],
    [110.0, 110.0, 120.0],
];

/// An isosurface, in units of the shortest edge of a voxel, and the radius of the ball about the
/// centre of the grid that holds it, which fills the panel.
struct Surface {
    channels: Vec<Vec<f32>>,
    /// The largest value of a voxel and its neighbours, of all channels.
    near: Vec<f32>,
    dims: [usize; 3],
    edges: [f64; 3],
    level: f64,
    radius: f64,
}

impl Surface {
    fn new(volume: &Volume, level: Option<f32>) -> Self {
        let dims = volume.dims();
        let shortest = volume.voxel_size().into_iter().fold(f64::INFINITY, f64::min);
        let edges = volume.voxel_size().map(|edge| edge / shortest);
        let channels: Vec<_> = volume
            .data()
            .chunks_exact(volume.grid().voxels())
            .map(|channel| smoothed(channel, dims))
            .collect();
        let high = channels.iter().flatten().copied().fold(0.0, f32::max);
        let level = f64::from(level.unwrap_or(0.5 * high)).max(f64::MIN_POSITIVE);
        let inside = |i: usize| channels.iter().any(|channel| f64::from(channel[i]) >= level);
        let distance = |i: usize| {
            let [d, h, w] = dims;
            let index = [(i % w, w), (i / w % h, h), (i / (w * h), d)];
            let place =
                [0, 1, 2].map(|a| (index[a].0 as f64 + 0.5 - index[a].1 as f64 / 2.0) * edges[a]);
            Vector3::from(place).norm()
        };
        let voxels = volume.grid().voxels();
        let radius = (0..voxels).filter(|&i| inside(i)).map(distance).fold(2.0, f64::max) + 2.0;
        let near = channels.iter().map(|channel| widened(channel, dims)).reduce(|mut a, b| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a = a.max(b));
            a
        });
        Self { near: near.unwrap_or_default(), channels, dims, edges, level, radius }
    }

    /// The colour at a place of the panel, by the first crossing of the level along the ray.
    fn pixel(&self, u: f64, v: f64) -> [u8; 3] {
        const STEP: f64 = 0.25;
        let background = 250.0 - 25.0 * v;
        let towards = normal([1.0, -1.5, 1.0]);
        let right = normal([1.5, 1.0, 0.0]);
        let up = towards.cross(&right);
        let (a, b) = ((u - 0.5) * 2.0 * self.radius, (0.5 - v) * 2.0 * self.radius);
        let at = |t: f64| a * right + b * up - t * towards;
        let steps = (2.0 * self.radius / STEP) as usize;
        let mut along = std::iter::successors(Some(-self.radius), |t| Some(t + STEP)).take(steps);
        let reaches = |t: &f64| self.may_reach(at(*t)) && self.value(at(*t)).0 >= self.level;
        let Some(t) = along.find(reaches) else { return [background as u8; 3] };
        // Bisection between the last place outside and the first inside.
        let (mut out, mut inside) = (t - STEP, t);
        for _ in 0..6 {
            let middle = (out + inside) / 2.0;
            let within = self.value(at(middle)).0 >= self.level;
            if within { inside = middle } else { out = middle }
        }
        let place = at(inside);
        let gradient = self.gradient(place);
        let facing = gradient.dot(&towards);
        let light = gradient.dot(&normal([0.4, -0.6, 1.2])).max(0.0);
        let depth = 0.75 + 0.25 * (-inside / self.radius).clamp(-1.0, 1.0);
        let shade = (0.28 + 0.5 * light + 0.27 * facing.max(0.0)) * depth;
        let shine = 70.0 * light.max(0.0).powi(24);
        let base = CHANNELS[self.value(place).1 % CHANNELS.len()];
        base.map(|c| (c * shade * 1.25 + shine).clamp(0.0, 255.0) as u8)
    }

    /// Can the value at a place reach the level? A cheap look before the interpolation.
    fn may_reach(&self, place: Vector3<f64>) -> bool {
        let [d, h, w] = self.dims;
        let mut index = [0; 3];
        for (axis, count) in [w, h, d].into_iter().enumerate() {
            let nearest = place[axis] / self.edges[axis] + count as f64 / 2.0;
            if nearest <= -1.0 || nearest >= count as f64 + 1.0 {
                return false;
            }
            index[axis] = (nearest.max(0.0) as usize).min(count - 1);
        }
        let [x, y, z] = index;
        f64::from(self.near[(z * h + y) * w + x]) >= self.level
    }

    /// The largest value of a channel at a place, by trilinear interpolation, and which it is.
    fn value(&self, place: Vector3<f64>) -> (f64, usize) {
        let [d, h, w] = self.dims;
        let counts = [w, h, d];
        let mut corner = [0isize; 3];
        let mut fraction = [0.0; 3];
        for axis in 0..3 {
            let index = place[axis] / self.edges[axis] + (counts[axis] as f64 - 1.0) / 2.0;
            if index <= -1.0 || index >= counts[axis] as f64 {
                return (0.0, 0);
            }
            corner[axis] = index.floor() as isize;
            fraction[axis] = index - index.floor();
        }
        let mut best = (f64::NEG_INFINITY, 0);
        for (k, channel) in self.channels.iter().enumerate() {
            let mut sum = 0.0;
            for offset in 0..8 {
                let mut weight = 1.0;
                let mut index = [0; 3];
                for axis in 0..3 {
                    let far = offset >> axis & 1;
                    weight *= if far == 1 { fraction[axis] } else { 1.0 - fraction[axis] };
                    index[axis] = corner[axis] + far as isize;
                }
                let inside = (0..3).all(|i| (0..counts[i] as isize).contains(&index[i]));
                if inside && weight > 0.0 {
                    let [x, y, z] = index.map(|i| i as usize);
                    sum += weight * f64::from(channel[(z * h + y) * w + x]);
                }
            }
            if sum > best.0 {
                best = (sum, k);
            }
        }
        best
    }

    /// The direction in which the value falls.
    fn gradient(&self, place: Vector3<f64>) -> Vector3<f64> {
        const H: f64 = 0.7;
        normal([0, 1, 2].map(|axis| {
            let (mut before, mut after) = (place, place);
            before[axis] -= H;
            after[axis] += H;
            self.value(before).0 - self.value(after).0
        }))
    }
}

/// A channel after the filter (1, 2, 1) / 4 along each axis.
fn smoothed(channel: &[f32], dims: [usize; 3]) -> Vec<f32> {
    along_axes(channel, dims, |before, value, after| 0.25 * before + 0.5 * value + 0.25 * after)
}

/// The maximum over each voxel and its 26 neighbours.
fn widened(channel: &[f32], dims: [usize; 3]) -> Vec<f32> {
    along_axes(channel, dims, |before, value, after| value.max(before).max(after))
}

/// Combines each voxel with the ones before and after it along each axis in turn, 0 outside.
fn along_axes(
    channel: &[f32],
    dims: [usize; 3],
    combine: impl Fn(f32, f32, f32) -> f32,
) -> Vec<f32> {
    let mut values = channel.to_vec();
    let [d, h, w] = dims;
    for (count, stride) in [(w, 1), (h, w), (d, h * w)] {
        let old = values.clone();
        for (i, value) in values.iter_mut().enumerate() {
            let index = i / stride % count;
            let before = if index > 0 { old[i - stride] } else { 0.0 };
            let after = if index + 1 < count { old[i + stride] } else { 0.0 };
            *value = combine(before, old[i], after);
        }
    }
    values
}

fn normal(direction: [f64; 3]) -> Vector3<f64> {
    let vector = Vector3::from(direction);
    vector.try_normalize(0.0).unwrap_or(vector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Grid;

    fn ball(centre: [f64; 3]) -> Volume {
        let grid = Grid::new([16; 3], [1.0; 3]).unwrap();
        let value = |i: usize| {
            let at = [i % 16, i / 16 % 16, i / 256].map(|n| n as f64 - 7.5);
            let r2: f64 = at.iter().zip(centre).map(|(a, b)| (a - b).powi(2)).sum();
            if r2 < 9.0 { 1.0 } else { 0.0 }
        };
        Volume::centred((0..4096).map(value).collect(), 1, grid).unwrap()
    }

    /// Mean place (right, down) of the pixels of a panel that are not the background.
    fn centre_of(picture: &Picture, [x, y]: [usize; 2], size: usize, background: u8) -> [f64; 2] {
        let (mut sum, mut count) = ([0.0; 2], 0.0);
        for v in 0..size {
            for u in 0..size {
                let at = 3 * ((y + v) * picture.width + x + u);
                let pixel = &picture.rgb[at..at + 3];
                if pixel.iter().any(|&c| c.abs_diff(background) > 30) {
                    sum = [sum[0] + u as f64, sum[1] + v as f64];
                    count += 1.0;
                }
            }
        }
        assert!(count > 0.0, "nothing is drawn");
        sum.map(|s| s / count / size as f64)
    }

    #[test]
    fn a_ball_is_drawn_where_it_is() {
        let picture = overview(&ball([3.0, 0.0, -4.0]), None);
        let [x, y, z] = [3.0, 0.0, -4.0].map(|p| 0.5 + p / 16.0);
        let panel = |column: usize| [column * (PANEL + GAP), PANEL + GAP];
        for (column, expected) in [[x, y], [x, z], [y, z]].into_iter().enumerate() {
            let found = centre_of(&picture, panel(column), PANEL, 4);
            for axis in 0..2 {
                assert!((found[axis] - expected[axis]).abs() < 0.02, "{column}: {found:?}");
            }
        }
        // A ball above the centre is above the middle of the picture, one at the centre in it.
        let side = 2 * PANEL + GAP;
        let surface =
            |centre| centre_of(&overview(&ball(centre), None), [3 * (PANEL + GAP), 0], side, 238);
        let [u, v] = surface([0.0; 3]);
        assert!((u - 0.5).abs() < 0.02 && (v - 0.5).abs() < 0.02, "{u} {v}");
        assert!(surface([0.0, 0.0, 4.0])[1] < 0.4);
        assert!(surface([4.0, 0.0, 0.0])[0] > 0.55);
    }

    #[test]
    fn an_empty_and_a_flat_volume_are_drawn() {
        let grid = Grid::new([1, 2, 40], [1.0, 5.0, 1.0]).unwrap();
        for value in [0.0, -1.0, 1.0] {
            let volume = Volume::centred(vec![value; 160], 2, grid).unwrap();
            assert_eq!(overview(&volume, None).rgb().len(), 3 * 1312 * 520, "{value}");
        }
    }

    #[test]
    fn a_picture_is_a_png_of_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let picture = overview(&ball([0.0; 3]), Some(0.5));
        picture.write_png(&path).unwrap();
        let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        assert_eq!(rgb, picture.rgb());
        assert!(picture.write_png(&folder.path().join("none/a.png")).is_err());
    }
}
