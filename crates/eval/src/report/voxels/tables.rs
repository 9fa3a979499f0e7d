//! The report of labels of voxels as CSV and as text for a terminal.

use super::super::reading::change;
use super::super::tables::{RESULT_COLUMNS, kind, text, text_table, thousands};
use super::super::{percent, percent_interval};
use super::VoxelReport;
use crate::EvalError;
use crate::metrics::Estimate;
use crate::protocol::{Condition, PointGroup};
use crate::voxels::VoxelScores;

/// Columns of the headline table after model and source.
pub(super) const HEADLINE: [&str; 9] = [
    "unrotated %",
    "random rotations %",
    "change, points",
    "all voxels, unrotated %",
    "Dice",
    "Dice rotated",
    "same label %",
    "same label, cube %",
    "parameters",
];

const CUBE: Condition = Condition::Group { group: PointGroup::Cube };

pub(super) fn interval(e: Option<Estimate>) -> String {
    e.map_or_else(|| "–".into(), percent_interval)
}

fn plain(e: Option<Estimate>) -> String {
    e.map_or_else(|| "–".into(), |e| percent(e.value))
}

pub(super) fn fraction(e: Option<Estimate>) -> String {
    e.map_or_else(|| "–".into(), |e| format!("{:.3}", e.value))
}

/// All measures of some scores by name.
fn measures(s: &VoxelScores, classes: &[String]) -> Vec<(String, Option<Estimate>)> {
    let mut measures = vec![
        ("accuracy".into(), s.accuracy),
        ("foreground_accuracy".into(), s.foreground_accuracy),
        ("accuracy_change".into(), s.accuracy_change),
        ("foreground_accuracy_change".into(), s.foreground_accuracy_change),
        ("dice".into(), s.dice),
        ("iou".into(), s.iou),
        ("consistency".into(), s.consistency),
        ("foreground_consistency".into(), s.foreground_consistency),
    ];
    for (class, name) in s.per_class.iter().zip(classes) {
        measures.push((format!("recall of {name}"), class.recall));
        measures.push((format!("dice of {name}"), class.dice));
        measures.push((format!("iou of {name}"), class.iou));
    }
    measures
}

impl VoxelReport {
    /// Rows of the headline table: model, source and [`HEADLINE`].
    pub(super) fn headline(&self) -> Vec<Vec<String>> {
        let mut rows = vec![];
        for model in &self.models {
            for &source in &self.protocol.sources {
                let at = |condition, value: fn(&VoxelScores) -> Option<Estimate>| {
                    model.scores(source, condition).and_then(value)
                };
                let (base, random) = (Condition::Unrotated, Condition::Random);
                rows.push(vec![
                    model.name.clone(),
                    source.to_string(),
                    interval(at(base, |s| s.foreground_accuracy)),
                    interval(at(random, |s| s.foreground_accuracy)),
                    interval(at(random, |s| s.foreground_accuracy_change)),
                    plain(at(base, |s| s.accuracy)),
                    fraction(at(base, |s| s.dice)),
                    fraction(at(random, |s| s.dice)),
                    interval(at(random, |s| s.foreground_consistency)),
                    plain(at(CUBE, |s| s.foreground_consistency)),
                    thousands(model.parameters),
                ]);
            }
        }
        rows
    }

    /// The numbers in plain words.
    pub fn reading(&self) -> Vec<String> {
        let background = &self.dataset.class_names[0];
        let source = self.protocol.sources[0];
        let mut sentences = vec![];
        for (name, [base, random]) in self.both() {
            sentences.push(format!(
                "{name}: of the voxels that are not {background}, {} % are labelled right unrotated and {} % \
                 at random rotations ({source}), {} on the same voxels; the mean Dice coefficient is {} and \
                 {}.",
                interval(base.foreground_accuracy),
                interval(random.foreground_accuracy),
                random.foreground_accuracy_change.map_or_else(|| "–".into(), change),
                fraction(base.dice),
                fraction(random.dice),
            ));
        }
        for model in &self.models {
            let kept = |condition| model.scores(source, condition)?.foreground_consistency;
            let (Some(random), cube) = (kept(Condition::Random), kept(CUBE)) else { continue };
            let cube = cube.map_or_else(String::new, |e| {
                let share = percent_interval(e);
                format!(", and {share} % after the 24 rotations of the cube, which need no interpolation")
            });
            sentences.push(format!(
                "{}: {} % of the voxels have the label that the model gives them unrotated, right or wrong, \
                 after random rotations{cube}. Voxels that are {background} both times are left out.",
                model.name,
                percent_interval(random),
            ));
        }
        sentences
    }

    /// The headline table and the reading, for a terminal.
    pub fn terminal(&self) -> String {
        let table = text_table(&HEADLINE, self.headline());
        let (data, items) = (&self.dataset, self.items);
        let background = &data.class_names[0];
        let sentences: String = self.reading().iter().map(|s| format!("- {s}\n")).collect();
        format!(
            "{}, {} split, {items} items; labels of voxels, {background} left out where not said otherwise\n\
             {table}\n{sentences}",
            data.name, data.split
        )
    }

    /// Every number in long form, with the columns of [`results_csv`](crate::report::results_csv).
    ///
    /// # Errors
    /// [`EvalError::Csv`] if a record cannot be formatted.
    pub fn results_csv(&self) -> Result<String, EvalError> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(RESULT_COLUMNS)?;
        for model in &self.models {
            for s in &model.scores {
                let mut record = vec![
                    self.dataset.name.clone(),
                    model.name.clone(),
                    s.source.to_string(),
                    kind(s.condition),
                    s.condition.parameter().map_or_else(String::new, |p| p.to_string()),
                ];
                for (name, estimate) in measures(s, &self.dataset.class_names) {
                    let Some(e) = estimate else { continue };
                    record.truncate(5);
                    record.push(name);
                    record.extend([e.value, e.low, e.high].map(|v| v.to_string()));
                    writer.write_record(&record)?;
                }
            }
        }
        text(writer)
    }

    /// Every single volume: model, source, condition, parameter, item, rotation as unit quaternion w,x,y,z,
    /// translation x,y,z in voxels, and the measures of [`VoxelVolume`](crate::VoxelVolume), empty where they
    /// are not defined.
    ///
    /// # Errors
    /// [`EvalError::Csv`] if a record cannot be formatted.
    pub fn volumes_csv(&self) -> Result<String, EvalError> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let columns = "model source condition parameter item qw qx qy qz dx dy dz accuracy \
                       foreground_accuracy consistency foreground_consistency";
        writer.write_record(columns.split(' '))?;
        for model in &self.models {
            for v in &model.volumes {
                let mut record = vec![
                    model.name.clone(),
                    v.source.to_string(),
                    kind(v.condition),
                    v.condition.parameter().map_or_else(String::new, |p| p.to_string()),
                    v.id.clone(),
                ];
                record.extend(v.transform.quaternion().map(|c| format!("{c:.9}")));
                record.extend(v.transform.shift.map(|c| format!("{c:.9}")));
                let measures =
                    [v.accuracy, v.foreground_accuracy, v.consistency, v.foreground_consistency];
                record.extend(measures.map(|m| m.map_or_else(String::new, |m| m.to_string())));
                writer.write_record(&record)?;
            }
        }
        text(writer)
    }
}
