//! The models that a user names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::Device;
use steer3d_dataset::Dataset;
use steer3d_nn::checkpoint;

use crate::error::EvalError;
use crate::fit::fit;
use crate::network::NetworkPredictor;
#[cfg(feature = "onnx")]
use crate::onnx::{OnnxOptions, OnnxPredictor};
use crate::precomputed::Precomputed;
use crate::predictor::{AnswerKind, Predictor};
use crate::spec::AnswerSpec;
use crate::subprocess::SubprocessPredictor;

/// Models of this project and of other makers, by files, commands and folders.
#[derive(Clone, Debug, Default)]
pub struct Models {
    /// Networks (`.safetensors`) and ONNX models (`.onnx`).
    pub files: Vec<PathBuf>,
    /// Commands of [`SubprocessPredictor`]s.
    pub commands: Vec<String>,
    /// Folders of [`Precomputed`] predictions.
    pub predictions: Vec<PathBuf>,
    /// What models of other makers answer; none is as the networks beside them, or classes.
    pub answers: Option<AnswerKind>,
    /// Names of the classes of models of other makers, where neither the dataset nor a network beside them has some.
    pub class_names: Vec<String>,
    /// Whether networks whose classes have the names of the dataset's in another order answer in its order; else they
    /// are refused.
    pub map_classes: bool,
    /// Time that a command has for a batch, instead of [`SubprocessPredictor::TIMEOUT`].
    pub timeout: Option<Duration>,
}

impl Models {
    /// Whether no model is named.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.commands.is_empty() && self.predictions.is_empty()
    }

    /// Opens all of them for one dataset: files, commands and predictions in turn. `note` hears of what the file of a
    /// network, of an older version say, does not tell, so that it is not compared with the dataset.
    ///
    /// # Errors
    /// When a model cannot be read or started, was trained on other voxels, channels, classes or targets than the
    /// dataset has, or answers something else than the others ([`EvalError::MixedAnswers`]).
    pub fn open(
        &self,
        dataset: &Dataset,
        device: &Device,
        note: &dyn Fn(&str),
    ) -> Result<Vec<Box<dyn Predictor>>, EvalError> {
        let mut networks = vec![];
        for path in &self.files {
            networks.push(match is_onnx(path) {
                true => None,
                false => Some(self.network(path, dataset, device, note)?),
            });
        }
        let first = networks.iter().flatten().next().map(NetworkPredictor::answers);
        let answers = self.answers.or(first).unwrap_or_default();
        if networks.iter().flatten().any(|network| network.answers() != answers) {
            return Err(EvalError::MixedAnswers);
        }
        let first = networks.iter().flatten().next();
        let names = first.map_or_else(|| self.class_names.clone(), Predictor::class_names);
        let spec = || match AnswerSpec::or_named(dataset, answers, &names) {
            Err(EvalError::Missing { .. }) if answers == AnswerKind::Classes => {
                let what = "classes to name the answers of models of other makers by";
                let advice =
                    "name them with --class-names, or evaluate a network of steer3d beside them";
                Err(EvalError::missing(dataset.meta(), what, advice))
            }
            spec => spec,
        };
        let mut all: Vec<Box<dyn Predictor>> = vec![];
        for (path, network) in self.files.iter().zip(networks) {
            all.push(match network {
                Some(network) => Box::new(network),
                None => onnx(self.name(path), path, spec()?)?,
            });
        }
        for command in &self.commands {
            let program = SubprocessPredictor::start(command, spec()?)?;
            let timeout = self.timeout.unwrap_or(SubprocessPredictor::TIMEOUT);
            all.push(Box::new(program.with_timeout(timeout)));
        }
        for folder in &self.predictions {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            all.push(Box::new(Precomputed::load(name, folder, spec()?)?));
        }
        Ok(all)
    }

    fn network(
        &self,
        path: &Path,
        dataset: &Dataset,
        device: &Device,
        note: &dyn Fn(&str),
    ) -> Result<NetworkPredictor, EvalError> {
        let (network, card) = checkpoint::load(path, device)?;
        let network = NetworkPredictor::new(self.name(path), network)?;
        let fit = fit(&card, network.answers(), dataset, self.map_classes)
            .map_err(|problem| EvalError::ModelFile { path: path.into(), problem })?;
        if !fit.unknown.is_empty() {
            let (path, unknown) = (path.display(), fit.unknown.join(", "));
            note(&format!(
                "{path}: not compared, since only one of model and dataset says it: {unknown}"
            ));
        }
        Ok(network.with_places(fit.places).with_class_names(card.class_names))
    }

    /// The file's name, or its folder's where several models have the same file name.
    fn name(&self, path: &Path) -> String {
        let stem = |p: &Path| p.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let shared = self.files.iter().filter(|p| stem(p) == stem(path)).count() > 1;
        let folder = path.parent().map(stem).filter(|f| !f.is_empty());
        match folder {
            Some(folder) if shared || stem(path) == "model" => folder,
            _ => stem(path),
        }
    }
}

fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "onnx")
}

#[cfg(feature = "onnx")]
fn onnx(name: String, path: &Path, spec: AnswerSpec) -> Result<Box<dyn Predictor>, EvalError> {
    Ok(Box::new(OnnxPredictor::load(name, path, &OnnxOptions::beside(path)?, spec)?))
}

#[cfg(not(feature = "onnx"))]
fn onnx(_name: String, path: &Path, _spec: AnswerSpec) -> Result<Box<dyn Predictor>, EvalError> {
    let problem = "this build cannot run ONNX models; build it with `cargo build --release -p steer3d-cli --features onnx`";
    Err(EvalError::ModelFile { path: path.into(), problem: problem.into() })
}
