//! Protein domains in the layout of the cath_datasets repository.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use steer3d_formats::npz::{Npz, NpzError};
use steer3d_so3::Rotation;
use steer3d_volume::density::{ChannelScheme, Weight};
use steer3d_volume::points::{PointCloud, Voxeliser};

use crate::build::build;
use crate::meta::{DatasetMeta, Split};
use crate::recipe::{Atoms, Recipe};
use crate::source::{
    Archive, BuildError, Entry, ImportOptions, Importer, ItemData, ItemSource, Open, wrong_option,
};
use crate::sources::archive::{integers, wrong};

pub(crate) const IMPORTER: Importer = Importer {
    name: "cath",
    open: Open::Archive(|npz, options| {
        cath(npz, &options.voxeliser(Voxeliser::paper(50, 2.0))?, options)
    }),
};

/// Reads an archive of protein domains: `positions` (N, max, 3), `n_atoms` (N), `atom_types` (N, max),
/// `labels` (N, 1) or (N, 2), `split_start_indices` (K) and, if present, `domain_ids` (N).
///
/// Each atom type is a channel, in the order of their names. Of ten splits, 0 to 6 are for
/// training, 7 for validation, 8 and 9 for testing (Weiler et al. 2018). Another number is shared
/// out as nearly so as it allows, at least one each; one split is for training, two are for
/// training and testing. Classes are CATH classes such as `1 mainly alpha`, or architectures such
/// as `2.40 beta barrel`. The points are stored beside the volumes.
///
/// # Errors
/// If the archive is damaged or of another layout, or the voxeliser is not valid or has not one
/// channel for each atom type.
pub fn cath(
    npz: &Path,
    voxeliser: &Voxeliser,
    options: &ImportOptions,
) -> Result<ItemSource, BuildError> {
    let mut archive = Npz::open(npz)?;
    let positions = archive.read_shaped("positions", "shape (N, max, 3)", |s| {
        matches!(s, [_, _, 3]) && !s.contains(&0)
    })?;
    let (items, max) = (positions.shape()[0], positions.shape()[1]);
    let n_atoms = integers(&mut archive, "n_atoms", items, |n| (1..=max as i64).contains(&n))?;
    let atoms = |item: usize| item * max..item * max + n_atoms[item] as usize;
    let (types, names) = atom_types(&mut archive, [items, max], &atoms)?;
    let (labels, classes) = labels(&mut archive, items)?;
    let (splits, split_notes) = splits(&mut archive, items)?;
    let ids = ids(&mut archive, items)?;
    if positions.elements(0..0).to_f64().is_none() {
        return Err(wrong(&archive, "positions", "numbers", "another dtype").into());
    }
    let cloud = |item: usize| {
        let rows = atoms(item);
        let values = positions.elements(rows.start * 3..rows.end * 3).to_f64();
        let positions = values.unwrap_or_default().as_chunks().0.to_vec();
        PointCloud::new(positions, types[rows].to_vec())
    };
    let clouds: Vec<_> = (0..items).map(cloud).collect();
    if names.len() != voxeliser.channels {
        return wrong_option(
            "channels of the voxeliser",
            format!("one for each atom type ({})", names.join(", ")),
            voxeliser.channels.to_string(),
        );
    }
    let half = voxeliser.size as f64 * voxeliser.voxel_size / 2.0;
    let outside = |cloud: &PointCloud| {
        cloud.positions().iter().filter(|p| p.iter().any(|x| x.abs() > half)).count()
    };
    let notes = format!(
        "channels are the atom types {}; {split_notes}; {} of {} points lie outside the grid",
        names.join(", "),
        clouds.iter().flatten().map(outside).sum::<usize>(),
        clouds.iter().flatten().map(PointCloud::len).sum::<usize>(),
    );
    let volumes = voxeliser.grid().and_then(|g| DatasetMeta::scalars(voxeliser.channels, &g));
    let entry = |((id, label), split)| Entry { id, label, split, ..Entry::default() };
    let archive = Archive {
        importer: "cath",
        path: npz,
        is_file: true,
        class_names: classes.iter().map(|class| class_name(class)).collect(),
        unit: "angstrom",
        notes,
        volumes: DatasetMeta {
            voxeliser: Some(*voxeliser),
            recipe: Some(Recipe::Molecules {
                atoms: Atoms::All,
                channels: ChannelScheme::Names(names),
                weight: Weight::One,
                voxeliser: *voxeliser,
            }),
            ..volumes.map_err(BuildError::meta(npz))?
        },
        tasks: None,
        entries: ids.into_iter().zip(labels).zip(splits).map(entry).collect(),
    };
    let voxeliser = *voxeliser;
    options.source_of(archive, move |item| {
        // Also makes -0 to 0, as the points of earlier versions are.
        let cloud = clouds[item].clone()?.rotated(&Rotation::identity());
        let volume = Some(voxeliser.voxelise(&cloud, &Rotation::identity())?);
        Ok(ItemData { volume, points: Some(cloud), ..ItemData::default() })
    })
}

/// Builds the dataset `out` of the archive that [`cath`] reads.
///
/// # Errors
/// As [`cath`] and [`build`].
pub fn import_cath(
    npz: &Path,
    out: &Path,
    voxeliser: &Voxeliser,
    options: &ImportOptions,
) -> Result<(), BuildError> {
    build(&cath(npz, voxeliser, options)?, out, false, &|_| {}).map(|_| ())
}

/// Name of a CATH class or of one of the ten architectures of Weiler et al. 2018; else the number.
fn class_name(levels: &[i64]) -> String {
    let name = match levels {
        [1] => "mainly alpha",
        [2] => "mainly beta",
        [3] => "alpha beta",
        [4] => "few secondary structures",
        [1, 10] => "orthogonal bundle",
        [1, 20] => "up-down bundle",
        [2, 30] | [3, 10] => "roll",
        [2, 40] => "beta barrel",
        [2, 60] => "sandwich",
        [3, 20] => "alpha-beta barrel",
        [3, 30] => "2-layer sandwich",
        [3, 40] => "3-layer (aba) sandwich",
        [3, 90] => "alpha-beta complex",
        _ => "",
    };
    let number = levels.iter().map(i64::to_string).collect::<Vec<_>>().join(".");
    format!("{number} {name}").trim_end().to_owned()
}

/// The index of the type of every atom, padding included, and the names of the types that are used.
fn atom_types(
    npz: &mut Npz,
    shape: [usize; 2],
    atoms: &dyn Fn(usize) -> Range<usize>,
) -> Result<(Vec<u16>, Vec<String>), NpzError> {
    let types = npz.read_shaped("atom_types", "shape (N, max)", |s| s == shape)?;
    let Some(types) = types.to_strings() else {
        return Err(wrong(npz, "atom_types", "byte strings", "another dtype"));
    };
    let used = (0..shape[0]).flat_map(|item| &types[atoms(item)]);
    let names: Vec<String> = used.collect::<BTreeSet<_>>().into_iter().cloned().collect();
    if names.len() > usize::from(u16::MAX) {
        let found = format!("{} types", names.len());
        return Err(wrong(npz, "atom_types", "at most 65535 types", &found));
    }
    let index = |name: &String| names.binary_search(name).unwrap_or_default() as u16;
    Ok((types.iter().map(index).collect(), names))
}

/// The label of every item, and the levels of each class.
fn labels(npz: &mut Npz, items: usize) -> Result<(Vec<u32>, Vec<Vec<i64>>), NpzError> {
    let fits = |s: &[usize]| matches!(s, [n, 1 | 2] if *n == items);
    let labels = npz.read_shaped("labels", "shape (N, 1) or (N, 2)", fits)?;
    let levels = labels.shape()[1];
    let Some(labels) = labels.to_i64() else {
        return Err(wrong(npz, "labels", "integers", "another dtype"));
    };
    let rows = || labels.chunks(levels);
    let classes: Vec<&[i64]> = rows().collect::<BTreeSet<_>>().into_iter().collect();
    let label = |row: &[i64]| classes.binary_search(&row).unwrap_or_default() as u32;
    Ok((rows().map(label).collect(), classes.iter().map(|class| class.to_vec()).collect()))
}

/// The split of every item, and which of the archive's splits they come from.
fn splits(npz: &mut Npz, items: usize) -> Result<(Vec<Split>, String), NpzError> {
    let key = "split_start_indices";
    let starts = npz.read_shaped(
        key,
        "shape (K) or (K, 1), K at least 1",
        |s| matches!(s, [k] | [k, 1] if (1..=items).contains(k)),
    )?;
    let count = starts.shape()[0];
    let starts = integers(npz, key, count, |start| (0..items as i64).contains(&start))?;
    if starts[0] != 0 || starts.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(wrong(npz, key, "numbers that rise from 0", &format!("{starts:?}")));
    }
    let share = |fraction: f64| ((fraction * count as f64).round() as usize).max(1);
    let test = count - share(0.2).min(count - 1);
    let validation = test - share(0.1).min(test - 1);
    let split = |i: i64| match starts.partition_point(|&start| start <= i) - 1 {
        part if part < validation => Split::Train,
        part if part < test => Split::Validation,
        _ => Split::Test,
    };
    let named = |parts: Range<usize>| match (parts.start, parts.end) {
        (start, end) if start == end => "none".to_owned(),
        (start, end) if start + 1 == end => start.to_string(),
        (start, end) => format!("{start}-{}", end - 1),
    };
    let [train, validation, test] = [0..validation, validation..test, test..count].map(named);
    let notes = format!("splits {train} train, {validation} validation, {test} test");
    Ok(((0..items as i64).map(split).collect(), notes))
}

fn ids(npz: &mut Npz, items: usize) -> Result<Vec<String>, NpzError> {
    if !npz.has("domain_ids") {
        return Ok((0..items).map(|i| format!("domain_{i}")).collect());
    }
    let ids = npz.read_shaped("domain_ids", "shape (N)", |s| s == [items])?;
    ids.to_strings().ok_or_else(|| wrong(npz, "domain_ids", "byte strings", "another dtype"))
}
