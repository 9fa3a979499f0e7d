//! From models to a written report.

use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use steer3d_dataset::{Dataset, Split};
use steer3d_eval::{
    EvalError, ModelReport, Predictor, Progress, Protocol, Report, Section, evaluate, same_classes,
};
use steer3d_files::lock::lock;
use steer3d_ranks::Rank;

use crate::error::ReportError;
use crate::gallery::gallery;
use crate::turning::turning;
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

/// Hears of the progress of the evaluation of a model, and may stop it.
pub type Watch<'a> = &'a dyn Fn(&str, Progress) -> ControlFlow<()>;

/// What is kept of the unfinished evaluation of model `i`.
fn journal(folder: &Path, i: usize) -> PathBuf {
    folder.join(format!("{i}.answers"))
}

/// Removes a folder of journals, unless it has other files.
fn remove_journals(folder: &Path, models: usize) -> std::io::Result<()> {
    for i in 0..models {
        match fs::remove_file(journal(folder, i)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

impl Evaluation<'_> {
    /// Evaluates the models one by one; `progress` is told the name of the model and may stop it. With `journals`, a
    /// folder, an evaluation that was interrupted goes on where it was. Of several [ranks](Rank::run) the first makes the
    /// pictures.
    ///
    /// # Errors
    /// As [`evaluate`], [`EvalError::MixedAnswers`], [`EvalError::OtherClasses`], or if a picture cannot be made.
    pub fn section(
        &self,
        models: &[&dyn Predictor],
        journals: Option<&Path>,
        progress: Watch<'_>,
    ) -> Result<Section, ReportError> {
        if models.windows(2).any(|pair| pair[0].answers() != pair[1].answers()) {
            return Err(EvalError::MixedAnswers.into());
        }
        if self.dataset.meta().class_names.is_empty() {
            let names: Vec<_> = models.iter().map(|m| (m.name(), m.class_names())).collect();
            same_classes(names.iter().map(|(model, names)| (*model, &names[..])))?;
        }
        let mut reports = vec![];
        for (i, model) in models.iter().enumerate() {
            let journal = journals.map(|folder| journal(folder, i));
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
        if Rank::current().is_first() {
            return self.illustrated(reports, models);
        }
        Ok(Section::new(self.dataset, self.split, self.protocol.clone(), reports)?)
    }

    /// What models answered, with pictures of a few volumes, for which `predictors`, those of the models in their order,
    /// are asked again; without them no volumes turn.
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
        let turning = turning(self.dataset, &section, predictors)?;
        Ok(Section { gallery, turning, ..section })
    }

    /// Evaluates the models and writes the report into `folder`, if there is one, where an evaluation that was
    /// interrupted goes on where it was; the folder is locked against others as long. Of several [ranks](Rank::run) the
    /// first writes.
    ///
    /// # Errors
    /// As [`section`](Self::section) and [`write_report`], and [`ReportError::Busy`].
    pub fn report(
        &self,
        models: &[&dyn Predictor],
        title: &str,
        command: &str,
        folder: Option<&Path>,
        progress: Watch<'_>,
    ) -> Result<Report, ReportError> {
        self.protocol.check(self.dataset, self.split)?;
        let folder = folder.filter(|_| Rank::current().is_first());
        let journals = folder.map(|folder| folder.join(UNFINISHED));
        if let Some(journals) = &journals {
            make_folder(journals)?;
        }
        let _lock = folder.map(lock).transpose()?;
        let section = self.section(models, journals.as_deref(), progress)?;
        let report = Report::new(title, command, vec![section]);
        if let (Some(folder), Some(journals)) = (folder, journals) {
            write_report(folder, &report)?;
            remove_journals(&journals, models.len())
                .map_err(|source| ReportError::Write { path: journals, source })?;
        }
        Ok(report)
    }
}
