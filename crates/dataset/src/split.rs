//! Drawing splits, and giving a dataset new ones.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use steer3d_so3::Stream;
use steer3d_volume::volume::{VolumeError, parameter};

use crate::error::{DatasetError, wrong_argument};
use crate::meta::Split;
use crate::reader::Dataset;
use crate::writer::DatasetWriter;

/// Shares of the items for training, validation and testing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fractions([f64; 3]);

impl Default for Fractions {
    /// 0.8, 0.1, 0.1.
    fn default() -> Self {
        Self([0.8, 0.1, 0.1])
    }
}

impl Fractions {
    /// All items for testing.
    pub const ALL_TEST: Self = Self([0.0, 0.0, 1.0]);

    /// Shares for training, validation and testing.
    ///
    /// # Errors
    /// If one is negative or not finite, or they do not sum to 1 (to 1e-6).
    pub fn new(fractions: [f64; 3]) -> Result<Self, VolumeError> {
        let sum: f64 = fractions.iter().sum();
        if fractions.iter().all(|&f| f >= 0.0) && (sum - 1.0).abs() < 1e-6 {
            return Ok(Self(fractions));
        }
        let expected = "three numbers, not negative, that sum to 1";
        parameter("fractions", expected, format!("{fractions:?}"))
    }

    /// Train, validation, test.
    pub fn values(&self) -> [f64; 3] {
        self.0
    }
}

/// Draws a split for each item at random: every class is shared out by `fractions`, rounded.
///
/// The result depends on the labels, their order and the seed alone.
pub fn random_splits(labels: &[u32], fractions: &Fractions, seed: u64) -> Vec<Split> {
    let [_, validation, test] = fractions.0;
    let ends = [validation, validation + test];
    share_out(labels, "random split", seed, |len| {
        ends.map(|fraction| (fraction * len as f64).round() as usize)
    })
}

/// Draws a tenth of each class (rounded) for validation and another for testing; the rest is for
/// training.
pub(crate) fn tenths(labels: &[u32], seed: u64) -> Vec<Split> {
    share_out(labels, "stratified split", seed, |len| [1, 2].map(|n| n * ((len + 5) / 10)))
}

/// As [`tenths`], without items for testing.
pub(crate) fn tenth_for_validation(labels: &[u32], seed: u64) -> Vec<Split> {
    share_out(labels, "stratified split", seed, |len| [(len + 5) / 10; 2])
}

/// Shuffles every class with a stream of this name; the items up to the first of the two `ends` of
/// a class of that many are for validation, those up to the second for testing.
fn share_out(
    labels: &[u32],
    stream: &str,
    seed: u64,
    ends: impl Fn(usize) -> [usize; 2],
) -> Vec<Split> {
    let mut splits = vec![Split::Train; labels.len()];
    let mut classes = BTreeMap::<u32, Vec<usize>>::new();
    for (item, &label) in labels.iter().enumerate() {
        classes.entry(label).or_default().push(item);
    }
    for (class, mut members) in classes {
        Stream::new(seed, stream, &[u64::from(class)]).shuffle(&mut members);
        let [validation, test] = ends(members.len());
        for (rank, &item) in members.iter().enumerate() {
            splits[item] = match rank {
                r if r < validation => Split::Validation,
                r if r < test => Split::Test,
                _ => Split::Train,
            };
        }
    }
    splits
}

/// Draws a split for each group at random, so that the items of a group (homologous proteins, scans
/// of one patient) stay together, with every class shared out as nearly by `fractions` as the
/// groups allow. An item with an empty group is a group of its own.
///
/// Large groups are placed first, each where it leaves the smallest sum over classes and splits of
/// squared differences from the wanted counts; groups of one size come in random order.
///
/// # Panics
/// If there is not one group for each label.
pub fn group_splits(
    labels: &[u32],
    groups: &[impl AsRef<str>],
    fractions: &Fractions,
    seed: u64,
) -> Vec<Split> {
    assert_eq!(labels.len(), groups.len(), "one group for each label");
    let classes = labels.iter().map(|&label| label as usize + 1).max().unwrap_or(0);
    let mut totals = vec![0.0; classes];
    labels.iter().for_each(|&label| totals[label as usize] += 1.0);
    let mut order = members_of_groups(groups);
    Stream::new(seed, "group split", &[]).shuffle(&mut order);
    order.sort_by_key(|members| std::cmp::Reverse(members.len()));
    let mut counts = [(); 3].map(|()| vec![0.0; classes]);
    let mut splits = vec![Split::Train; labels.len()];
    for members in order {
        let mut group = BTreeMap::<usize, f64>::new();
        members.iter().for_each(|&item| *group.entry(labels[item] as usize).or_default() += 1.0);
        let cost = |s: usize| -> f64 {
            let added = |(&class, &n): (&usize, &f64)| {
                n * (2.0 * (counts[s][class] - fractions.0[s] * totals[class]) + n)
            };
            group.iter().map(added).sum()
        };
        let open = (0..3).filter(|&s| fractions.0[s] > 0.0);
        let best = open.min_by(|&a, &b| cost(a).total_cmp(&cost(b))).unwrap_or(0);
        group.iter().for_each(|(&class, &n)| counts[best][class] += n);
        members.iter().for_each(|&item| splits[item] = Split::ALL[best]);
    }
    splits
}

/// The items of each group, in the order of their first items.
fn members_of_groups(groups: &[impl AsRef<str>]) -> Vec<Vec<usize>> {
    let mut found = HashMap::new();
    let mut members = Vec::<Vec<usize>>::new();
    for (item, group) in groups.iter().map(AsRef::as_ref).enumerate() {
        let place = if group.is_empty() {
            members.len()
        } else {
            *found.entry(group).or_insert(members.len())
        };
        match members.get_mut(place) {
            Some(items) => items.push(item),
            None => members.push(vec![item]),
        }
    }
    members
}

impl Dataset {
    /// Writes a copy of the dataset with other splits, and other groups if given, to `out`, which
    /// may be the dataset itself: the copy takes its place when it is complete. `note` replaces
    /// what the description says of splits drawn by an earlier call.
    ///
    /// # Errors
    /// If there is not one split (and group) for each item, or the copy cannot be written.
    pub fn with_splits(
        &self,
        out: &Path,
        splits: &[Split],
        groups: Option<&[String]>,
        note: &str,
    ) -> Result<(), DatasetError> {
        for (field, found) in
            [("splits", splits.len()), ("groups", groups.map_or(self.len(), <[_]>::len))]
        {
            if found != self.len() {
                let expected = self.len().to_string();
                return wrong_argument(self.path(), field, expected, found.to_string());
            }
        }
        let mut meta = self.meta().clone();
        let notes = &mut meta.provenance.notes;
        notes.truncate(notes.find(NOTE).unwrap_or(notes.len()));
        notes.push_str(NOTE);
        notes.push_str(note);
        let mut writer = DatasetWriter::of(out, meta, self.tasks())?;
        let groups = groups.or(self.groups());
        for (item, &split) in splits.iter().enumerate() {
            writer.copy(self, item, split, groups.map(|groups| groups[item].as_str()))?;
        }
        writer.finish_with(self.skipped())
    }
}

/// Begins what the notes of a description say of splits drawn anew.
const NOTE: &str = "; splits drawn anew: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stratified_splits_take_a_tenth_of_each_class_and_depend_on_the_seed_alone() {
        let labels: Vec<u32> = (0..130).map(|i| u32::from(i >= 100)).collect();
        let splits = tenths(&labels, 3);
        let count = |class: u32, split| {
            (0..130).filter(|&i| labels[i] == class && splits[i] == split).count()
        };
        for split in [Split::Validation, Split::Test] {
            assert_eq!((count(0, split), count(1, split)), (10, 3), "{split}");
        }
        assert_eq!(splits, tenths(&labels, 3));
        assert_ne!(splits, tenths(&labels, 4));
    }
}
