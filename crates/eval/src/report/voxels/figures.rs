//! The plots of a report of labels of voxels.

use super::super::figures::{
    ANGLES, BANDS, ClassBars, Curve, Drawn, Figure, LinePlot, dashes, distances, matrices, named,
};
use super::super::percent;
use super::super::svg::Svg;
use super::VoxelReport;
use crate::metrics::Estimate;
use crate::protocol::Condition;
use crate::voxels::VoxelScores;

/// A measure of the plots.
type Measure = fn(&VoxelScores) -> Option<Estimate>;

impl VoxelReport {
    /// The plots, those without data left out.
    pub fn figures(&self) -> Vec<Figure> {
        let accuracy: Measure = |s| s.foreground_accuracy;
        let angle = (ANGLES.to_vec(), "rotation angle (degrees)", "angle");
        let distance = (distances(&self.protocol), "translation (voxels)", "translation");
        let turned = format!(
            "when every volume is turned by exactly this angle about random axes ({} for each item and \
             angle)",
            self.protocol.per_angle
        );
        let [background, others] =
            [&self.dataset.class_names[0], "of the voxels of other classes than"];
        let drawn = [
            self.lines(angle.clone(), "accuracy (%)", accuracy).map(|svg| {
                let what = format!("Share {others} {background} that are labelled right {turned}.");
                ("accuracy-angle", "Accuracy against rotation angle", self.caption(&what), svg)
            }),
            self.lines(angle.clone(), "mean Dice (%)", |s| s.dice).map(|svg| {
                let what = format!("Mean of the Dice coefficients of all classes {turned}.");
                ("dice-angle", "Dice against rotation angle", self.caption(&what), svg)
            }),
            self.lines(angle, "same label (%)", |s| s.foreground_consistency).map(|svg| {
                let what = format!(
                    "Share of the voxels that have the label that the model gives them unrotated, right or \
                     wrong; those that are {background} both times are left out."
                );
                let title = "Unchanged labels against rotation angle";
                ("consistency-angle", title, self.caption(&what), svg)
            }),
            self.lines(distance, "accuracy (%)", accuracy).map(|svg| {
                let what = format!(
                    "Share {others} {background} that are labelled right when every volume is moved by this \
                     distance: whole distances along the grid, others in random directions. What leaves the \
                     grid is not counted."
                );
                ("accuracy-translation", "Accuracy against translation", self.caption(&what), svg)
            }),
            self.bars(),
            self.confusion(),
        ];
        named("voxels", drawn)
    }

    fn caption(&self, what: &str) -> String {
        format!("{what} {BANDS}{}", dashes(&self.protocol))
    }

    /// A measure of all models and sources over the conditions of a kind, with ticks and label of the axis.
    fn lines(
        &self,
        (ticks, x_label, kind): (Vec<f64>, &'static str, &str),
        y_label: &'static str,
        measure: Measure,
    ) -> Option<Svg> {
        let models = self.models.iter().map(|m| (&m.name[..], &m.scores[..]));
        let value = |s: &VoxelScores| (s.source, s.condition, measure(s));
        let curves = Curve::all(models, &self.protocol, kind, value);
        LinePlot { x_label, y_label, ticks, reference: None, curves }.draw()
    }

    /// The names of the models with the scores of the first source unrotated and at random rotations.
    pub(super) fn both(&self) -> Vec<(&str, [&VoxelScores; 2])> {
        let source = self.protocol.sources[0];
        let both = [Condition::Unrotated, Condition::Random];
        let models = self.models.iter().filter_map(|model| {
            let [unrotated, rotated] = both.map(|condition| model.scores(source, condition));
            Some((&model.name[..], [unrotated?, rotated?]))
        });
        models.collect()
    }

    fn bars(&self) -> Drawn {
        let (models, data) = (self.both(), &self.dataset);
        let total: usize = data.class_counts.iter().sum();
        let share = |n: usize| format!("{} %", percent(n as f64 / total.max(1) as f64));
        let classes = data.class_names.iter().zip(&data.class_counts);
        let bars = ClassBars {
            label: "Dice (%)",
            classes: classes.map(|(name, n)| (name.clone(), share(*n))).collect(),
            models: models.iter().map(|(name, _)| *name).collect(),
            value: &|model, rotated, class| models[model].1[rotated].per_class[class].dice,
        };
        let caption = format!(
            "Dice coefficient of each class ({}), unrotated and at random rotations; below: its share of the \
             voxels. Whiskers: 95 % bootstrap intervals over items.",
            self.protocol.sources[0]
        );
        Some(("per-class", "Dice of each class", caption, bars.draw()?))
    }

    fn confusion(&self) -> Drawn {
        let counts =
            |(name, scores): (_, [&VoxelScores; 2])| (name, scores.map(|s| s.confusion.clone()));
        let models: Vec<_> = self.both().into_iter().map(counts).collect();
        let svg = matrices(&self.dataset.class_names, &models)?;
        let caption = format!(
            "Rows: class of the voxels; columns: predicted class; per cent of the row ({}). Left unrotated, \
             right at random rotations.",
            self.protocol.sources[0]
        );
        Some(("confusion", "Confusion matrices", caption, svg))
    }
}
