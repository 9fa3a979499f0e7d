//! Simulated density of protein domains, with the secondary structure at every voxel.

use std::iter::zip;
use std::ops::Range;
use std::path::Path;

use steer3d_formats::Nan;
use steer3d_formats::npz::{NpyArray, Npz, NpzError};
use steer3d_so3::{Rotation, Stream};
use steer3d_volume::points::{PointCloud, PointValue, Voxeliser};
use steer3d_volume::resample::crop;
use steer3d_volume::volume::{Volume, VolumeError};

use crate::meta::{DatasetMeta, Grids, Tasks};
use crate::recipe::{Fit, Intensity, Recipe, scalars};
use crate::source::{
    Archive, BuildError, Entry, ImportOptions, Importer, ItemData, ItemSource, Open, wrong_option,
};
use crate::sources::archive::{integers, wrong};
use crate::split::{Fractions, group_splits};

pub(crate) const IMPORTER: Importer = Importer { name: "backbone", open: Open::Archive(backbone) };

/// Labels of voxels, in order.
const CLASSES: [&str; 4] = ["background", "coil", "helix", "strand"];

/// Farther from every atom of N, CA, C, O a voxel is background, in ångström.
const REACH: f64 = 3.0;

/// Width of the Gaussian of an atom for each ångström of resolution, as `molmap` of ChimeraX has it.
const WIDTH: f64 = 0.225;

/// Atoms of a residue: N, CA, C, O, CB.
const ATOMS: usize = 5;

/// Reads an archive of the backbones of protein domains: `xyz_centi_angstrom` (rows, 5, 3), the places of N, CA, C, O, CB
/// of each residue in hundredths of an ångström, `residues` (rows), their one-letter codes as bytes, `dssp` (rows), their
/// state as the bytes H G I E B T S C, `offsets` (N + 1), where each domain begins, `domain_ids` (N) and `cath` (N, 4),
/// their superfamilies.
///
/// Each domain becomes a map about the mean of its atoms, a Gaussian of 0.225 times the resolution for each atom, as high
/// as its electrons; those of a side chain stand at CB. The resolution is drawn for each, evenly between two limits.
/// The grid is one of `size` voxels along each edge, or with `own_grids` for each domain the least that holds it.
/// With `whole_chains` domains that are a part of a chain are left out. Values are scaled as [`Intensity::Density`]. Each voxel within 3 Å of an atom of N, CA, C, O has the label of the
/// nearest: helix (H, G, I), strand (E, B) or coil; others are background. A tenth of the superfamilies, drawn with the
/// seed, is for validation and another for testing.
///
/// # Errors
/// If the archive is damaged or of another layout, or an option does not suit it.
pub fn backbone(npz: &Path, options: &ImportOptions) -> Result<ItemSource, BuildError> {
    let [low, high] = resolutions(options)?;
    let voxeliser = options.voxeliser(Voxeliser::paper(24, 2.0))?;
    let grid = voxeliser.grid().map_err(BuildError::meta(npz))?;
    let mut archive = Npz::open(npz)?;
    let mut backbones = Backbones::read(&mut archive)?;
    if options.whole_chains {
        backbones.domains.retain(|domain| domain.id.ends_with("00"));
        if backbones.domains.is_empty() {
            return wrong_option("whole-chains", "domains whose ID ends with 00", "none");
        }
    }
    let groups: Vec<&str> = backbones.domains.iter().map(|domain| &*domain.group).collect();
    let unclassed = vec![0; groups.len()];
    let splits = group_splits(&unclassed, &groups, &Fractions::default(), options.seed);
    let entry = |(domain, split): (&Domain, _)| Entry {
        id: domain.id.clone(),
        group: domain.group.clone(),
        split,
        ..Entry::default()
    };
    let entries = zip(&backbones.domains, splits).map(entry).collect();
    let recipe = Recipe::Volumes {
        irreps: scalars(1).map_err(BuildError::meta(npz))?,
        dims: grid.dims(),
        voxel_size: grid.voxel_size(),
        unit: "angstrom".to_owned(),
        factor: 1.0,
        intensity: Intensity::Density,
        fit: if options.own_grids { Fit::Spacing } else { Fit::Resample },
        nan: Nan::Zero,
    };
    let mut volumes = DatasetMeta::scalars(1, &grid).map_err(BuildError::meta(npz))?;
    if options.own_grids {
        volumes.grids = Grids::Each;
    }
    let of = if options.whole_chains { "whole chains" } else { "domains" };
    let tasks = Tasks { voxel_classes: CLASSES.map(String::from).to_vec(), ..Tasks::default() };
    let archive = Archive {
        importer: "backbone",
        path: npz,
        is_file: true,
        class_names: vec!["protein".to_owned()],
        unit: "angstrom",
        notes: format!(
            "maps of N, CA, C, O, CB of {of}, simulated at a resolution of {low} to {high} angstrom; a tenth of the superfamilies \
             (seed {}) is for validation and another for testing",
            options.seed
        ),
        volumes: DatasetMeta { recipe: Some(recipe.clone()), ..volumes },
        tasks: Some(tasks),
        entries,
    };
    let seed = options.seed;
    options.source_of(archive, move |item| {
        let cloud = backbones.cloud(item)?;
        let drawn = Stream::new(seed, "resolution", &[item as u64]).uniform();
        let sigma = WIDTH * (low + (high - low) * drawn);
        let voxeliser = Voxeliser { sigma, ..voxeliser };
        let map = match recipe.keeps_grids() {
            true => around(&cloud, voxeliser)?,
            false => voxeliser.voxelise(&cloud, &Rotation::identity())?,
        };
        let map = recipe.prepare_whole(map)?;
        let voxel_labels = labels(&map, &cloud, &backbones.states(item));
        Ok(ItemData { volume: Some(map), voxel_labels, ..ItemData::default() })
    })
}

/// The map of these points on the least grid that has their Gaussians, to three widths, and all voxels within reach of an
/// atom.
fn around(cloud: &PointCloud, voxeliser: Voxeliser) -> Result<Volume, VolumeError> {
    let (edge, margin) = (voxeliser.voxel_size, REACH.max(3.0 * voxeliser.sigma));
    let farthest =
        cloud.positions().as_flattened().iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let size = 2 * ((farthest + margin) / edge).ceil() as usize;
    let cube = Voxeliser { size, ..voxeliser }.voxelise(cloud, &Rotation::identity())?;
    let limits = |axis: usize| {
        let all = cloud.positions().iter().map(|position| position[axis]);
        all.fold([f64::INFINITY, f64::NEG_INFINITY], |[a, b], x| [a.min(x), b.max(x)])
    };
    let voxel = |axis: usize, place: f64| (place - cube.origin()[axis]) / edge;
    let ends = [0, 1, 2].map(|axis| {
        let [low, high] = limits(axis);
        [voxel(axis, low - margin).floor() as i32, voxel(axis, high + margin).ceil() as i32]
    });
    let dims = [2, 1, 0].map(|axis| (ends[axis][1] - ends[axis][0] + 1) as usize);
    crop(&cube, ends.map(|[first, _]| first), dims)
}

/// The lowest and the highest resolution.
fn resolutions(options: &ImportOptions) -> Result<[f64; 2], BuildError> {
    let limits = match options.resolution.as_deref() {
        None => [4.0, 8.0],
        Some([one]) => [*one; 2],
        Some([low, high]) => [*low, *high],
        Some(_) => [f64::NAN; 2],
    };
    if 1.0 <= limits[0] && limits[0] <= limits[1] && limits[1] <= 30.0 {
        return Ok(limits);
    }
    let found = format!("{:?}", options.resolution.as_deref().unwrap_or_default());
    wrong_option("resolution", "one number or two that rise, from 1 to 30 angstrom", found)
}

/// What an archive holds.
struct Backbones {
    positions: NpyArray,
    residues: Vec<u8>,
    dssp: Vec<u8>,
    domains: Vec<Domain>,
}

struct Domain {
    /// Its residues.
    rows: Range<usize>,
    id: String,
    /// Its superfamily, such as 1.10.8.10.
    group: String,
}

impl Backbones {
    fn read(npz: &mut Npz) -> Result<Self, NpzError> {
        let positions = npz.read_shaped(
            "xyz_centi_angstrom",
            "shape (rows, 5, 3)",
            |s| matches!(s, [n, ATOMS, 3] if *n > 0),
        )?;
        if positions.elements(0..0).to_f64().is_none() {
            return Err(wrong(npz, "xyz_centi_angstrom", "numbers", "another dtype"));
        }
        let rows = positions.shape()[0];
        let mut letters = |key: &str| {
            let array = npz.read_shaped(key, &format!("shape ({rows})"), |s| s == [rows])?;
            let bytes = array.bytes().map(<[u8]>::to_vec);
            bytes.ok_or_else(|| wrong(npz, key, "bytes", "another dtype"))
        };
        let (residues, dssp) = (letters("residues")?, letters("dssp")?);
        let cath = npz.read_shaped("cath", "shape (N, 4)", |s| matches!(s, [n, 4] if *n > 0))?;
        let items = cath.shape()[0];
        let Some(cath) = cath.to_i64() else {
            return Err(wrong(npz, "cath", "integers", "another dtype"));
        };
        let group =
            |levels: &[i64]| levels.iter().map(i64::to_string).collect::<Vec<_>>().join(".");
        let offsets = integers(npz, "offsets", items + 1, |at| (0..=rows as i64).contains(&at))?;
        if offsets.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(wrong(npz, "offsets", "numbers that rise", "others"));
        }
        let ids = npz.read_shaped("domain_ids", &format!("shape ({items})"), |s| s == [items])?;
        let Some(ids) = ids.to_strings() else {
            return Err(wrong(npz, "domain_ids", "byte strings", "another dtype"));
        };
        let rows = offsets.windows(2).map(|ends| ends[0] as usize..ends[1] as usize);
        let domains = zip(zip(rows, ids), cath.chunks(4))
            .map(|((rows, id), levels)| Domain { rows, id, group: group(levels) })
            .collect();
        Ok(Self { positions, residues, dssp, domains })
    }

    /// The atoms of a domain about their mean, each with its electrons.
    fn cloud(&self, item: usize) -> Result<PointCloud, VolumeError> {
        let rows = self.domains[item].rows.clone();
        let values = self.positions.elements(rows.start * ATOMS * 3..rows.end * ATOMS * 3);
        let values = values.to_f64().unwrap_or_default();
        let positions: Vec<[f64; 3]> =
            values.as_chunks::<3>().0.iter().map(|p| p.map(|x| x / 100.0)).collect();
        let weights = self.residues[rows].iter().flat_map(|&residue| {
            let side = 6.0 * side_chain(residue);
            [7.0, 6.0, 6.0, 8.0, side].map(PointValue::Scalar)
        });
        let channels = vec![0; positions.len()];
        PointCloud::new(positions, channels)?.centred().with_values(weights.collect())
    }

    /// The label of each residue of a domain.
    fn states(&self, item: usize) -> Vec<u8> {
        let states = &self.dssp[self.domains[item].rows.clone()];
        let label = |state: &u8| match state {
            b'H' | b'G' | b'I' => 2,
            b'E' | b'B' => 3,
            _ => 1,
        };
        states.iter().map(label).collect()
    }
}

/// Atoms of a side chain but hydrogens.
fn side_chain(residue: u8) -> f64 {
    match residue {
        b'G' => 0.0,
        b'A' => 1.0,
        b'S' | b'C' => 2.0,
        b'T' | b'V' | b'P' => 3.0,
        b'E' | b'Q' | b'K' => 5.0,
        b'H' => 6.0,
        b'F' | b'R' => 7.0,
        b'Y' => 8.0,
        b'W' => 10.0,
        // D, N, I, L, M; of others, about the mean.
        _ => 4.0,
    }
}

/// The label of every voxel of a map of these atoms, D × H × W: that of the nearest of N, CA, C, O within reach.
fn labels(map: &Volume, cloud: &PointCloud, states: &[u8]) -> Vec<u8> {
    let [d, h, w] = map.dims();
    let (size, origin) = (map.voxel_size(), map.origin());
    let lens = [w, h, d];
    let mut nearest = vec![REACH; d * h * w];
    let mut labels = vec![0; nearest.len()];
    let atoms = cloud.positions().chunks(ATOMS).zip(states);
    for (atom, &state) in
        atoms.flat_map(|(atoms, state)| atoms[..ATOMS - 1].iter().map(move |a| (a, state)))
    {
        let around = [0, 1, 2].map(|axis| {
            let place = |to: f64| ((atom[axis] + to - origin[axis]) / size[axis]).clamp(-1.0, 1e6);
            let (first, last) = (place(-REACH).ceil().max(0.0), place(REACH).floor());
            first as usize..((last + 1.0).max(0.0) as usize).min(lens[axis])
        });
        for z in around[2].clone() {
            for y in around[1].clone() {
                for x in around[0].clone() {
                    let voxel = [x, y, z];
                    let square =
                        |i: usize| (origin[i] + voxel[i] as f64 * size[i] - atom[i]).powi(2);
                    let distance = (0..3).map(square).sum::<f64>().sqrt();
                    let at = (z * h + y) * w + x;
                    if distance < nearest[at] {
                        (nearest[at], labels[at]) = (distance, state);
                    }
                }
            }
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use steer3d_volume::volume::Grid;

    use super::*;

    #[test]
    fn own_grids_hold_the_molecule_and_no_more() {
        let mut stream = Stream::new(4, "atoms", &[]);
        let long = [20.0, 3.0, 8.0];
        let atoms: Vec<[f64; 3]> = (0..30).map(|_| long.map(|x| x * stream.normal())).collect();
        let cloud = PointCloud::new(atoms, vec![0; 30]).unwrap().centred();
        let voxeliser = Voxeliser { sigma: 1.2, ..Voxeliser::paper(24, 2.0) };
        let map = around(&cloud, voxeliser).unwrap();
        let cube = Voxeliser { size: 100, ..voxeliser };
        let cube = cube.voxelise(&cloud, &Rotation::identity()).unwrap();
        let sum = |map: &Volume| map.data().iter().map(|&v| f64::from(v)).sum::<f64>();
        assert!((sum(&map) / sum(&cube) - 1.0).abs() < 0.01, "{} {}", sum(&map), sum(&cube));
        for axis in 0..3 {
            let first = map.origin()[axis];
            let last = first + 2.0 * (map.dims()[2 - axis] - 1) as f64;
            let places = || cloud.positions().iter().map(|p| p[axis]);
            let low = places().fold(f64::INFINITY, f64::min) - first;
            let high = last - places().fold(f64::NEG_INFINITY, f64::max);
            assert!((3.6..=5.7).contains(&low) && (3.6..=5.7).contains(&high), "{low} {high}");
        }
    }

    #[test]
    fn voxels_have_the_label_of_the_nearest_atom() {
        let grid = Grid::new([6, 7, 8], [1.5; 3]).unwrap();
        let map = Volume::new(vec![0.0; 336], 1, grid, [-4.0, -5.0, -3.5]).unwrap();
        let mut stream = Stream::new(3, "atoms", &[]);
        let atoms = (0..20).map(|_| [(); 3].map(|()| 4.0 * stream.normal())).collect();
        let cloud = PointCloud::new(atoms, vec![0; 20]).unwrap();
        let states = [2, 3, 1, 2];
        let found = labels(&map, &cloud, &states);
        for (at, &label) in found.iter().enumerate() {
            let (z, y, x) = (at / 56, at / 8 % 7, at % 8);
            let place = [x, y, z];
            let distance = |i: usize| {
                let square = |k: usize| {
                    (map.origin()[k] + 1.5 * place[k] as f64 - cloud.positions()[i][k]).powi(2)
                };
                (0..3).map(square).sum::<f64>().sqrt()
            };
            let atoms = (0..20).filter(|i| i % ATOMS < 4);
            let nearest = atoms.min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap();
            let expected = if distance(nearest) < REACH { states[nearest / ATOMS] } else { 0 };
            assert_eq!(label, expected, "{place:?}");
        }
        assert!((0..4).all(|class| found.contains(&class)));
    }
}
