//! From models to a written report.

use std::fs;
use std::path::Path;

use steer3d_dataset::{Dataset, Split};
use steer3d_eval::{
    EvalError, ModelReport, Predictor, Progress, Protocol, Report, Section, evaluate,
};

use crate::error::ReportError;
use crate::gallery::gallery;
use crate::write::{make_folder, write_report};

/// An evaluation of models on the same transformed volumes of a split of a dataset.
#[derive(Clone, Copy, Debug)]
pub struct Evaluation<'a> {
    /// The data.
    pub dataset: &'a Dataset,
    /// The items.
    pub split: Split,
    /// What is done to every volume.
    pub protocol: &'a Protocol,
}

/// How many volumes of a section are shown.
const PICTURES: usize = 4;

/// The folder of what an unfinished evaluation keeps, in that of its report.
const UNFINISHED: &str = "unfinished";

impl Evaluation<'_> {
    /// Evaluates the models one by one; `progress` is told the name of the model. With `journals`, a folder, an
    /// evaluation that was interrupted goes on where it was.
    ///
    /// # Errors
    /// As [`evaluate`], [`EvalError::MixedAnswers`], or if a picture cannot be made.
    pub fn section(
        &self,
        models: &[&dyn Predictor],
        journals: Option<&Path>,
        progress: &dyn Fn(&str, Progress),
    ) -> Result<Section, ReportError> {
        if models.windows(2).any(|pair| pair[0].answers() != pair[1].answers()) {
            return Err(EvalError::MixedAnswers.into());
        }
        let mut reports = vec![];
        for (i, model) in models.iter().enumerate() {
            let journal = journals.map(|folder| folder.join(format!("{i}.answers")));
            let progress = |p| progress(model.name(), p);
            let Self { dataset, split, protocol } = *self;
            reports.push(evaluate(
                *model,
                dataset,
                split,
                protocol,
                journal.as_deref(),
                &progress,
            )?);
        }
        self.illustrated(reports, models)
    }

    /// What models answered, with pictures of a few volumes; of labels of voxels `predictors`, those of the models
    /// in their order, are asked for the pictures again.
    ///
    /// # Errors
    /// If a picture cannot be made.
    pub fn illustrated(
        &self,
        models: Vec<ModelReport>,
        predictors: &[&dyn Predictor],
    ) -> Result<Section, ReportError> {
        let section = Section::new(self.dataset, self.split, self.protocol.clone(), models)?;
        let gallery = gallery(self.dataset, &section, predictors, PICTURES)?;
        Ok(Section { gallery, ..section })
    }

    /// Evaluates the models and writes the report into `folder`, if there is one, where an evaluation that was
    /// interrupted goes on where it was.
    ///
    /// # Errors
    /// As [`section`](Self::section) and [`write_report`].
    pub fn report(
        &self,
        models: &[&dyn Predictor],
        title: &str,
        command: &str,
        folder: Option<&Path>,
        progress: &dyn Fn(&str, Progress),
    ) -> Result<Report, ReportError> {
        let journals = folder.map(|folder| folder.join(UNFINISHED));
        if let Some(journals) = &journals {
            make_folder(journals)?;
        }
        let section = self.section(models, journals.as_deref(), progress)?;
        let report = Report::new(title, command, vec![section]);
        if let (Some(folder), Some(journals)) = (folder, journals) {
            write_report(folder, &report)?;
            fs::remove_dir_all(&journals)
                .map_err(|source| ReportError::Write { path: journals, source })?;
        }
        Ok(report)
    }
}
