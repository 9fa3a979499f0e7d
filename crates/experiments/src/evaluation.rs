//! Evaluations of networks after their training.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use steer3d_dataset::{Dataset, Split};
use steer3d_eval::report::{
    ConditionReport, OutputsModel, OutputsReport, Report, Section, SourceReport, VoxelReport,
    terminal, write_report,
};
use steer3d_eval::{
    ModelReport, Predictor, Progress, Protocol, Targets, VoxelModel, VoxelScores, evaluate,
    evaluate_outputs, evaluate_voxels,
};
use steer3d_nn::Head;

use crate::error::{At, ExperimentError};
use crate::experiment::EvaluationSettings;
use crate::folder::TestScore;
use crate::session::Session;

/// Whether a search for worst rotations can be made; checks that the head can be evaluated.
fn searches(head: &Head) -> Result<bool, ExperimentError> {
    match head {
        Head::Classes => Ok(true),
        Head::Voxels | Head::Scalars | Head::Field { pooled: true, .. } => Ok(false),
        Head::Field { pooled: false, .. } => Err(ExperimentError::invalid(
            "evaluation",
            "gives a field; classes, labels of voxels and values of whole volumes are evaluated",
        )),
    }
}

/// Checks what can be known before the training.
pub(crate) fn check(
    head: &Head,
    dataset: &Dataset,
    evaluation: &EvaluationSettings,
) -> Result<(), ExperimentError> {
    let searches = searches(head)?;
    evaluation.protocol.check(dataset, evaluation.split).at("evaluation")?;
    if !searches && evaluation.protocol.search.is_some() {
        let problem = "looks for wrong classes of whole volumes; leave it out for other answers";
        return Err(ExperimentError::invalid("evaluation.protocol.search", problem));
    }
    Ok(())
}

/// Evaluates a trained network, writes the report into its run folder and tells the scores; goes on with an
/// evaluation that was interrupted.
pub(crate) fn evaluate_run(
    run: &Path,
    predictor: &dyn Predictor,
    head: &Head,
    dataset: &Dataset,
    evaluation: &EvaluationSettings,
    session: &Session<'_>,
) -> Result<Vec<TestScore>, ExperimentError> {
    let EvaluationSettings { split, protocol } = evaluation;
    let folder = run.join("report");
    let progress = progress(predictor, dataset, session);
    let (text, scores) = match head {
        Head::Classes => {
            let title = format!("{} on {}", run.display(), dataset.meta().name);
            let journals = folder.join("unfinished");
            fs::create_dir_all(&journals).at(journals.display())?;
            let journal = journals.join("0.logits");
            let model = measure(predictor, dataset, evaluation, &journal, session)?;
            let scores = scores_of(&model);
            let section = Section::new(dataset, *split, protocol.clone(), vec![model])?;
            let report = Report::new(&title, session.command, vec![section]);
            write_report(&folder, &report)?;
            fs::remove_dir_all(&journals).at(journals.display())?;
            (terminal(&report), scores)
        }
        Head::Voxels => {
            let measured = evaluate_voxels(predictor, dataset, *split, protocol, &progress)?;
            let scores = scores_of_voxels(&measured);
            let models = vec![measured];
            let report = VoxelReport::new(dataset, *split, protocol.clone(), models, &[predictor])?;
            let report = VoxelReport { command: session.command.into(), ..report };
            report.write(&folder)?;
            (report.terminal(), scores)
        }
        Head::Scalars | Head::Field { .. } => {
            let report = values(predictor, dataset, *split, protocol, &progress)?;
            let report = OutputsReport { command: session.command.into(), ..report };
            report.write(&folder)?;
            (report.terminal(), vec![])
        }
    };
    session.observer.say(&text);
    session.observer.say(&format!("report: {}", folder.join("report.html").display()));
    Ok(scores)
}

fn values(
    predictor: &dyn Predictor,
    dataset: &Dataset,
    split: Split,
    protocol: &Protocol,
    progress: &dyn Fn(Progress),
) -> Result<OutputsReport, ExperimentError> {
    let Some(irreps) = dataset.tasks().and_then(|tasks| tasks.targets.clone()) else {
        let name = &dataset.meta().name;
        return Err(ExperimentError::invalid(
            format!("dataset {name}"),
            "has no targets to compare with; import some with `steer3d dataset import arrays`",
        ));
    };
    let items = dataset.indices(split);
    let values: Vec<Vec<f64>> = items.iter().map(|&item| dataset.targets(item).to_vec()).collect();
    let targets = Targets { irreps: &irreps, values: &values };
    let scores = evaluate_outputs(predictor, dataset, split, protocol, &targets, progress)?;
    let model =
        OutputsModel { name: predictor.name().into(), parameters: predictor.parameters(), scores };
    Ok(OutputsReport::new(dataset, split, irreps, protocol.clone(), vec![model]))
}

/// Evaluates a model of classes, with the logits so far in the file `journal`.
pub(crate) fn measure(
    predictor: &dyn Predictor,
    dataset: &Dataset,
    evaluation: &EvaluationSettings,
    journal: &Path,
    session: &Session<'_>,
) -> Result<ModelReport, ExperimentError> {
    let EvaluationSettings { split, protocol } = evaluation;
    let progress = progress(predictor, dataset, session);
    Ok(evaluate(predictor, dataset, *split, protocol, Some(journal), &progress)?)
}

/// Tells the observer how far an evaluation has come.
pub(crate) fn progress<'a>(
    predictor: &dyn Predictor,
    dataset: &Dataset,
    session: &Session<'a>,
) -> impl Fn(Progress) + use<'a> {
    let label = format!("evaluate {} on {}", predictor.name(), dataset.meta().name);
    let part = RefCell::new(session.observer.begin(&label));
    move |p| part.borrow_mut().at(p.done, p.total, "volumes")
}

/// The scores of a report, first source first.
fn scores_of(report: &ModelReport) -> Vec<TestScore> {
    let of = |source: &SourceReport, c: &ConditionReport| TestScore {
        source: source.source.to_string(),
        condition: c.condition.to_string(),
        accuracy: c.scores.accuracy.value,
        auc: c.scores.auc.map(|auc| auc.value),
    };
    let sources = report.sources.iter();
    sources.flat_map(|s| s.conditions.iter().map(move |c| of(s, c))).collect()
}

/// Those of a network that labels voxels.
fn scores_of_voxels(model: &VoxelModel) -> Vec<TestScore> {
    let of = |s: &VoxelScores| {
        let (source, condition) = (s.source.to_string(), s.condition.to_string());
        Some(TestScore { source, condition, accuracy: s.accuracy?.value, auc: None })
    };
    model.scores.iter().filter_map(of).collect()
}
