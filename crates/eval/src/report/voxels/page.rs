//! The page of a report of labels of voxels.

use super::super::html::columns;
use super::super::page::{
    Cells, Method, Page, PageItem, PagePicture, PageSection, PageView, Swatch, about, intervals,
    page_figures,
};
use super::super::percent;
use super::pictures::label_colour;
use super::tables::{HEADLINE, fraction, interval};
use super::{VoxelItem, VoxelReport, VoxelView};
use crate::EvalError;

impl VoxelReport {
    /// The report as one HTML page.
    ///
    /// # Errors
    /// [`EvalError::Page`] if the template cannot be filled in.
    pub fn html(&self) -> Result<String, EvalError> {
        let page = Page {
            title: &self.title,
            version: &self.steer3d_version,
            command: &self.command,
            downloads: vec![
                ("voxels.csv", "text/csv", self.results_csv()?),
                ("voxels.json", "application/json", self.to_json()?),
            ],
            sections: vec![self.section()],
        };
        page.html()
    }

    fn section(&self) -> PageSection {
        let data = &self.dataset;
        let total: usize = data.class_counts.iter().sum();
        let share = |(name, n): (&String, &usize)| {
            format!("{name} ({} %)", percent(*n as f64 / total.max(1) as f64))
        };
        let shares: Vec<String> =
            data.class_names.iter().zip(&data.class_counts).map(share).collect();
        let classes = format!("{} classes of voxels: {}", shares.len(), shares.join(", "));
        PageSection {
            name: data.name.clone(),
            about: about(data, self.items, &classes),
            reading: self.reading(),
            headline: Cells {
                columns: columns(&["model", "source"], &HEADLINE),
                left: 2,
                rows: self.headline(),
                note: "In brackets: 95 % bootstrap intervals. Accuracy: share of the voxels of all classes but \
                       the first, the background, that are labelled right; change: less that of the \
                       unrotated answers for the same voxels. Dice: mean over all classes. Same \
                       label: the voxel's label turned back is the unrotated one; voxels that are background \
                       both times are left out.",
                ..Cells::default()
            },
            figures: page_figures(self.figures()),
            gallery_note: "The slice along z with the most labelled voxels; x to the right, y down. For each \
                           volume the orientation in which the labels of a model get worse the most, from the \
                           volume that loses most to that which loses least. Per cent: voxels of the whole \
                           volume, background left out, that are labelled right.",
            swatches: data.class_names.iter().enumerate().map(swatch).collect(),
            gallery: self.gallery.iter().map(page_item).collect(),
            tables: vec![self.conditions(), self.classes()],
            files: "every single volume: volumes.csv, the figures: figures/, both beside this page",
            method: Method::new(&self.protocol),
            measures: self.measures(),
            provenance: data.provenance.clone(),
        }
    }

    /// The table of all conditions.
    fn conditions(&self) -> Cells {
        let mut rows = vec![];
        for model in &self.models {
            for s in &model.scores {
                rows.push(vec![
                    model.name.clone(),
                    s.source.to_string(),
                    s.condition.to_string(),
                    interval(s.foreground_accuracy),
                    interval(s.foreground_accuracy_change),
                    interval(s.accuracy),
                    interval(s.accuracy_change),
                    fraction(s.dice),
                    fraction(s.iou),
                    interval(s.foreground_consistency),
                    interval(s.consistency),
                    percent(s.compared),
                ]);
            }
        }
        let measures = [
            "accuracy %",
            "change, points",
            "all voxels %",
            "all voxels, change",
            "Dice",
            "IoU",
            "same label %",
            "same label, all voxels %",
            "compared %",
        ];
        Cells {
            title: "Scores under every condition",
            columns: columns(&["model", "source", "condition"], &measures),
            left: 3,
            rows,
            note: "",
        }
    }

    /// The table of the classes.
    fn classes(&self) -> Cells {
        let mut rows = vec![];
        for model in &self.models {
            for s in &model.scores {
                for (class, name) in s.per_class.iter().zip(&self.dataset.class_names) {
                    rows.push(vec![
                        model.name.clone(),
                        s.source.to_string(),
                        s.condition.to_string(),
                        name.clone(),
                        interval(class.recall),
                        fraction(class.dice),
                        fraction(class.iou),
                    ]);
                }
            }
        }
        Cells {
            title: "Scores of every class",
            columns: columns(
                &["model", "source", "condition", "class"],
                &["accuracy %", "Dice", "IoU"],
            ),
            left: 4,
            rows,
            note: "",
        }
    }

    fn measures(&self) -> Vec<(&'static str, String)> {
        let background = &self.dataset.class_names[0];
        vec![
            (
                "labels",
                "the logits f(R x) are turned and moved back, y(p) = f(R x)(R p + t), by cubic \
                 splines, and the label of a voxel is the largest of y; so labels and answers are compared \
                 on the stored grid. Voxels whose place R p + t lies outside the grid are left out (“compared”: \
                 the others)."
                    .into(),
            ),
            (
                "accuracy",
                format!(
                    "share of the voxels that are labelled right, {background} left out where “all voxels” is \
                     not said. All counts of voxels are summed over volumes and rotations before ratios are \
                     taken."
                ),
            ),
            (
                "change",
                "accuracy less that of the unrotated answers for the same voxels: what leaves the grid is in \
                 neither"
                    .into(),
            ),
            (
                "Dice, IoU",
                "2 TP / (2 TP + FP + FN) and TP / (TP + FP + FN) of the voxels of a class; their mean over the \
                 classes that are present or predicted"
                    .into(),
            ),
            (
                "same label",
                format!(
                    "share of the voxels whose label is the one that the model gives unrotated, right or wrong; \
                     voxels that are {background} both times left out where “all voxels” is not said"
                ),
            ),
            ("intervals", intervals(&self.protocol)),
        ]
    }
}

fn swatch((class, name): (usize, &String)) -> Swatch {
    let [r, g, b] = label_colour(class);
    Swatch { name: name.clone(), colour: format!("#{r:02x}{g:02x}{b:02x}") }
}

fn page_item(item: &VoxelItem) -> PageItem {
    let view = |view: &VoxelView| {
        let picture = |what: &str, uri: &str, below: String| PagePicture {
            uri: uri.into(),
            alt: format!("{what} of {}, {}", item.id, view.caption),
            below,
        };
        let answers = view.answers.iter().map(|answer| {
            let share = answer.foreground_accuracy;
            let share = share.map_or_else(String::new, |s| format!(" {} %", percent(s)));
            let what = format!("labels by {}", answer.model);
            picture(&what, &answer.picture, format!("{}{share}", answer.model))
        });
        let first = [
            picture("slice", &view.input, "volume".into()),
            picture("labels", &view.labels, "labels".into()),
        ];
        PageView {
            caption: view.caption.clone(),
            pictures: first.into_iter().chain(answers).collect(),
            lines: vec![],
        }
    };
    PageItem { title: item.id.clone(), views: item.views.iter().map(view).collect() }
}
