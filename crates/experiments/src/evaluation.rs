//! Evaluations of networks after their training.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;

use steer3d_dataset::Dataset;
use steer3d_eval::{AnswerKind, NetworkPredictor, Progress};
use steer3d_nn::Head;
use steer3d_report::{Evaluation, terminal};

use crate::error::{At, ExperimentError};
use crate::experiment::EvaluationSettings;
use crate::folder::TestScore;
use crate::session::{Observer, Session, Stop};

/// Checks what can be known before the training.
pub(crate) fn check(
    head: &Head,
    dataset: &Dataset,
    settings: &EvaluationSettings,
) -> Result<(), ExperimentError> {
    if AnswerKind::of_head(head).is_none() {
        let problem =
            "gives a field; classes, labels of voxels and values of whole volumes are evaluated";
        return Err(ExperimentError::invalid("evaluation", problem));
    }
    settings.protocol.check(dataset, settings.split).at("evaluation")
}

/// Evaluates a trained network, writes the report into its run folder and tells the scores; goes on with an
/// evaluation that was interrupted.
pub(crate) fn evaluate_run(
    run: &Path,
    network: &NetworkPredictor,
    dataset: &Dataset,
    settings: &EvaluationSettings,
    session: &Session<'_>,
) -> Result<Vec<TestScore>, ExperimentError> {
    let EvaluationSettings { split, protocol } = settings;
    let evaluation = Evaluation { dataset, split: *split, protocol };
    let (title, folder) =
        (format!("{} on {}", run.display(), dataset.meta().name), run.join("report"));
    let progress = progress(dataset, session);
    let report =
        evaluation.report(&[network], &title, session.command, Some(&folder), &progress)?;
    session.observer.show(&terminal(&report));
    session.observer.say(&format!("report: {}", folder.join("report.html").display()));
    let models = report.sections.iter().flat_map(|section| &section.models);
    Ok(models.flat_map(TestScore::of).collect())
}

/// Tells an observer how far the evaluations of models have come, and stops them when that is asked for; `on` ends the
/// label of each.
pub fn evaluation_progress<'a>(
    observer: &'a dyn Observer,
    on: &str,
    stop: &'a Stop,
) -> impl Fn(&str, Progress) -> ControlFlow<()> + use<'a> {
    let on = on.to_owned();
    let part = RefCell::new(None);
    move |model, progress| {
        let mut part = part.borrow_mut();
        if part.as_ref().is_none_or(|(of, _)| of != model) {
            *part = None;
            *part = Some((model.to_owned(), observer.begin(&format!("evaluate {model}{on}"))));
        }
        if let Some((_, part)) = &mut *part {
            part.at(progress.done, progress.total, "volumes");
        }
        if stop.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// The same with the name of the dataset.
pub(crate) fn progress<'a>(
    dataset: &Dataset,
    session: &Session<'a>,
) -> impl Fn(&str, Progress) -> ControlFlow<()> + use<'a> {
    evaluation_progress(session.observer, &format!(" on {}", dataset.meta().name), session.stop)
}
