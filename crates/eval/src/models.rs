//! The models that a user names.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::Device;
use steer3d_dataset::{Dataset, Grids};
use steer3d_nn::Network;
use steer3d_nn::checkpoint::{self, ModelCard};
use steer3d_nn::onnx::OnnxCard;

use crate::error::EvalError;
use crate::fit::fit;
use crate::network::{GIVES_A_FIELD, NetworkPredictor, Windows};
#[cfg(feature = "onnx")]
use crate::onnx::{OnnxOptions, OnnxPredictor};
use crate::precomputed::Precomputed;
use crate::predictor::AnswerSpec;
use crate::predictor::{AnswerKind, Predictor};
use crate::subprocess::SubprocessPredictor;

/// Models of this project and of other makers, by files, commands and folders.
#[derive(Clone, Debug, Default)]
pub struct Models {
    /// Networks (`.safetensors`) and ONNX models (`.onnx`).
    pub files: Vec<PathBuf>,
    /// What networks of `files` hold that are no files, but names of models that come with a program.
    pub bundled: HashMap<PathBuf, &'static [u8]>,
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
    /// Windows in which networks that label voxels take larger volumes; other models take volumes as they do.
    pub windows: Option<Windows>,
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
        let fixed = self.files.iter().find(|path| is_onnx(path)).or(self.predictions.first());
        if let Some(path) = fixed.filter(|_| dataset.meta().grids == Grids::Each) {
            let problem = "takes volumes of one shape, and those of the dataset have grids of their own; build it with \
                           one (--size, --fit), or evaluate a network of steer3d or a command";
            return Err(EvalError::ModelFile { path: path.clone(), problem: problem.into() });
        }
        let mut files = vec![];
        for path in &self.files {
            files.push(if is_onnx(path) {
                File::Onnx(self.exported(path, dataset, note)?)
            } else {
                let read = match self.bundled.get(path) {
                    Some(bytes) => checkpoint::read(path, bytes, device)?,
                    None => checkpoint::load(path, device)?,
                };
                File::Network(Box::new(self.network(self.name(path), path, read, dataset, note)?))
            });
        }
        let mut known = files.iter().filter_map(File::answers);
        let answers = self.answers.or(known.clone().next()).unwrap_or_default();
        if known.any(|of_file| of_file != answers) {
            return Err(EvalError::MixedAnswers);
        }
        let first = files.iter().find_map(File::class_names);
        let names = first.unwrap_or_else(|| self.class_names.clone());
        let spec = || AnswerSpec::or_named(dataset, answers, &names);
        let mut all: Vec<Box<dyn Predictor>> = vec![];
        for (path, file) in self.files.iter().zip(files) {
            all.push(match file {
                File::Network(network) => network,
                File::Onnx(exported) => onnx(self.name(path), path, spec()?, exported)?,
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

    /// Opens a network that was read before, with its card, as [`open`](Self::open) does those of files. Errors name it by
    /// `path`, whether or not there is such a file.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn network(
        &self,
        name: String,
        path: &Path,
        (network, card): (Network, ModelCard),
        dataset: &Dataset,
        note: &dyn Fn(&str),
    ) -> Result<NetworkPredictor, EvalError> {
        let meta = dataset.meta();
        let edges = (meta.grids == Grids::One).then_some(meta.voxel_size);
        let ratios = network.coarsening(card.voxel_size, edges);
        let network = NetworkPredictor::new(name, network)?;
        let places = self.places(path, &card, network.answers(), dataset, note)?;
        let network = network.for_ratios(ratios)?;
        let network = network.with_places(places).with_class_names(card.class_names);
        let network = network.with_voxel_size(card.voxel_size);
        match self.windows {
            Some(windows) => network.with_windows(windows),
            None => Ok(network),
        }
    }

    /// What an ONNX model says of the network that it was, if it was one of this project.
    fn exported(
        &self,
        path: &Path,
        dataset: &Dataset,
        note: &dyn Fn(&str),
    ) -> Result<Option<Exported>, EvalError> {
        let fault = |problem: String| EvalError::ModelFile { path: path.into(), problem };
        let bytes = fs::read(path).map_err(|e| fault(e.to_string()))?;
        let Some(OnnxCard { card, parameters }) = OnnxCard::of(path, &bytes)? else {
            return Ok(None);
        };
        let Some(answers) = AnswerKind::of_head(card.model.head()) else {
            return Err(EvalError::answer(&self.name(path), GIVES_A_FIELD.into()));
        };
        let places = self.places(path, &card, answers, dataset, note)?;
        let class_names = card.class_names;
        Ok(Some(Exported { answers, class_names, parameters, places }))
    }

    /// The place of each class of the dataset among the answers of a network with this card, if it is another.
    fn places(
        &self,
        path: &Path,
        card: &ModelCard,
        answers: AnswerKind,
        dataset: &Dataset,
        note: &dyn Fn(&str),
    ) -> Result<Option<Vec<u32>>, EvalError> {
        let fit = fit(card, answers, dataset, self.map_classes)
            .map_err(|problem| EvalError::ModelFile { path: path.into(), problem })?;
        if !fit.unknown.is_empty() {
            let (path, unknown) = (path.display(), fit.unknown.join(", "));
            note(&format!(
                "{path}: not compared, since only one of model and dataset says it: {unknown}"
            ));
        }
        Ok(fit.places)
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

/// A model of a file.
enum File {
    Network(Box<NetworkPredictor>),
    Onnx(Option<Exported>),
}

/// A network of this project as an ONNX model.
#[cfg_attr(not(feature = "onnx"), expect(dead_code, reason = "this build cannot run it"))]
pub(crate) struct Exported {
    pub(crate) answers: AnswerKind,
    pub(crate) class_names: Vec<String>,
    /// Of the network, not of its dense filters.
    pub(crate) parameters: Option<usize>,
    /// The place in the output of each class of the dataset, where they are in another order.
    pub(crate) places: Option<Vec<u32>>,
}

impl File {
    fn answers(&self) -> Option<AnswerKind> {
        match self {
            Self::Network(network) => Some(network.answers()),
            Self::Onnx(exported) => exported.as_ref().map(|exported| exported.answers),
        }
    }

    fn class_names(&self) -> Option<Vec<String>> {
        match self {
            Self::Network(network) => Some(network.class_names()),
            Self::Onnx(exported) => exported.as_ref().map(|exported| exported.class_names.clone()),
        }
    }
}

fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "onnx")
}

#[cfg(feature = "onnx")]
fn onnx(
    name: String,
    path: &Path,
    spec: AnswerSpec,
    exported: Option<Exported>,
) -> Result<Box<dyn Predictor>, EvalError> {
    let model = OnnxPredictor::load(name, path, &OnnxOptions::beside(path)?, spec)?;
    Ok(Box::new(match exported {
        Some(Exported { parameters, places, .. }) => model.of_network(parameters, places),
        None => model,
    }))
}

#[cfg(not(feature = "onnx"))]
fn onnx(
    _name: String,
    path: &Path,
    _spec: AnswerSpec,
    _exported: Option<Exported>,
) -> Result<Box<dyn Predictor>, EvalError> {
    let problem = "this build cannot run ONNX models; take the program of an archive or a container of steer3d, or one \
                   that was built with --features onnx";
    Err(EvalError::ModelFile { path: path.into(), problem: problem.into() })
}
