use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use steer3d_dataset::{DatasetMeta, Fit, Recipe};
use steer3d_eval::AnswerKind;
use steer3d_files::AtPath;
use steer3d_files::digest::PartHasher;
use steer3d_nn::checkpoint::{self, ModelCard};
use steer3d_nn::{FoldedNetwork, FoldedNetworks, Network};
use steer3d_so3::Irreps;

use crate::builtin::{self, Builtin};
use crate::error::PredictError;

/// What a network gives for a volume.
pub(crate) struct Output {
    /// Features of the whole volume, if it has some.
    pub(crate) features: Vec<f32>,
    pub(crate) output: Vec<f32>,
}

/// A network ready to answer, and what turns files into its input.
#[derive(Debug)]
pub struct Model {
    pub(crate) name: String,
    pub(crate) card: ModelCard,
    pub(crate) recipe: Option<Recipe>,
    pub(crate) answers: AnswerKind,
    folded: FoldedNetworks,
    pub(crate) network: Network,
    /// Whether each volume keeps its voxels.
    pub(crate) native: bool,
}

impl Model {
    /// The model of a file (`.safetensors`), or one that comes with the program, by its name. `recipe` stands in the
    /// place of that of its card.
    ///
    /// # Errors
    /// If there is no such model, it cannot be read, gives a field that is not predicted, or the recipe is of another
    /// grid or of other channels.
    pub fn open(name: &str, recipe: Option<Recipe>, device: &Device) -> Result<Self, PredictError> {
        let (network, card) = Self::load(Path::new(name), device)?;
        Self::new(name, network, card, recipe)
    }

    /// The network and the card of a file (`.safetensors`), or of a model that comes with the program, by its name.
    ///
    /// # Errors
    /// If there is no such model, or it cannot be read.
    pub fn load(name: &Path, device: &Device) -> Result<(Network, ModelCard), PredictError> {
        Ok(match Self::bundled(name)? {
            Some(model) => checkpoint::read(name, model.bytes, device)?,
            None => checkpoint::load(name, device)?,
        })
    }

    /// The model that comes with the program and has this name; none where a file has it.
    ///
    /// # Errors
    /// If neither has it.
    pub fn bundled(name: &Path) -> Result<Option<&'static Builtin>, PredictError> {
        let text = name.to_string_lossy();
        match builtin::find(&text) {
            Some(model) if !name.is_file() => Ok(Some(model)),
            None if !name.exists() => {
                let advice = builtin::advice(&text);
                Err(PredictError::NoModel { name: text.into_owned(), advice })
            }
            _ => Ok(None),
        }
    }

    /// The model of a network and its card.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn new(
        name: &str,
        network: Network,
        card: ModelCard,
        recipe: Option<Recipe>,
    ) -> Result<Self, PredictError> {
        let problem = |problem: String| PredictError::Model { model: name.to_owned(), problem };
        let answers = AnswerKind::of_head(network.config().head()).ok_or_else(|| {
            problem("gives a field; classes, labels of voxels and values are predicted".to_owned())
        })?;
        let wrong = |problem: String| PredictError::Recipe { place: name.to_owned(), problem };
        let recipe = match (recipe, &card.meaning.recipe) {
            (Some(recipe), _) => Some(recipe),
            (None, Some(table)) => Some(
                Recipe::deserialize(table.clone()).map_err(|e| wrong(format!("recipe: {e}")))?,
            ),
            (None, None) => None,
        };
        if let Some(recipe) = &recipe {
            check(recipe, &card).map_err(wrong)?;
        }
        let folded = FoldedNetworks::new(&network)?;
        if let Some(typical) = &card.origin.typical {
            typical.check(typical.mean.len()).map_err(problem)?;
        }
        let (name, native) = (name.to_owned(), recipe.as_ref().is_some_and(Recipe::keeps_voxels));
        Ok(Self { name, card, recipe, answers, folded, network, native })
    }

    /// The same with another way to bring volumes to the grid of the recipe.
    ///
    /// # Errors
    /// If the recipe is not for volumes, or there is none.
    pub fn with_fit(mut self, fit: Fit) -> Result<Self, PredictError> {
        let name = self.name.clone();
        match &mut self.recipe {
            Some(Recipe::Volumes { fit: old, .. }) => *old = fit,
            Some(other) => {
                let problem =
                    format!("expected a model of volumes, found one of {}s", &other.subject()[2..]);
                return Err(PredictError::Model { model: name, problem });
            }
            None => {
                self.recipe()?;
            }
        }
        Ok(self)
    }

    /// The same, whose kernels are sampled for the voxels of each volume ([`Network::at_spacing`]) instead of the volume
    /// being resampled to those of the recipe.
    ///
    /// # Errors
    /// If it does not label the voxels of volumes, is not steerable, or its voxels have no unit of length.
    pub fn with_native_voxels(mut self) -> Result<Self, PredictError> {
        let problem = |problem: &str| PredictError::Model {
            model: self.name.clone(),
            problem: problem.to_owned(),
        };
        if self.answers != AnswerKind::Voxels {
            return Err(problem("expected a model that labels voxels, found one that does not"));
        }
        self.network.at_spacing(self.network.spacing())?;
        match &mut self.recipe {
            Some(Recipe::Volumes { unit, .. }) if unit != "voxel" => {
                // The voxels of a file are not compared with those of such a recipe.
                "voxel".clone_into(unit);
            }
            _ => {
                return Err(problem(
                    "expected a recipe of volumes whose voxels have a size in a unit of length",
                ));
            }
        }
        self.native = true;
        Ok(self)
    }

    /// Reads a recipe from a file of TOML.
    ///
    /// # Errors
    /// If it cannot be read, lacks a field or has another one.
    pub fn read_recipe(path: &Path) -> Result<Recipe, PredictError> {
        let text = std::fs::read_to_string(path).at_path(path)?;
        let wrong =
            |problem: String| PredictError::Recipe { place: path.display().to_string(), problem };
        let whole = "`steer3d info cath-class` and `steer3d info adrenal` print whole recipes";
        let recipe: Recipe = toml::from_str(&text).map_err(|e| {
            wrong(format!("{}; {whole}", e.to_string().trim_end().replace('\n', " ")))
        })?;
        recipe.check().map_err(|e| wrong(e.to_string()))?;
        Ok(recipe)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its card.
    pub fn card(&self) -> &ModelCard {
        &self.card
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The network as it answers.
    pub fn folded(&self) -> &FoldedNetwork {
        self.folded.own()
    }

    /// What it answers.
    pub fn answers(&self) -> AnswerKind {
        self.answers
    }

    /// What turns files into its input.
    ///
    /// # Errors
    /// If neither its card nor the user says it.
    pub fn recipe(&self) -> Result<&Recipe, PredictError> {
        self.recipe.as_ref().ok_or_else(|| PredictError::Recipe {
            place: self.name.clone(),
            problem: "its card does not say how files become volumes, since it was made by an older version or of \
                      data that were no files; give --recipe FILE.toml"
                .to_owned(),
        })
    }

    /// What tells it from every other: SHA-256 of weights, card and recipe.
    pub(crate) fn fingerprint(&self) -> Result<String, PredictError> {
        let mut hash = PartHasher::default();
        hash.add(&serde_json::to_vec(&(&self.card, &self.recipe)).unwrap_or_default());
        self.network.params().hash_into(&mut hash)?;
        Ok(hash.text())
    }

    /// Names of what it chooses among, of volumes or voxels.
    pub(crate) fn classes(&self) -> Vec<String> {
        let card = &self.card;
        let named = match self.answers {
            AnswerKind::Voxels => &card.meaning.voxel_classes,
            _ => &card.class_names,
        };
        let count = card.model.classes();
        if named.len() == count {
            named.clone()
        } else {
            (0..count).map(|i| i.to_string()).collect()
        }
    }

    /// How its values turn.
    pub(crate) fn targets(&self) -> Irreps {
        let count = self.card.model.classes();
        let stated = self.card.meaning.targets.clone().filter(|irreps| irreps.dim() == count);
        stated.unwrap_or_else(|| format!("{count}x0").parse().expect("scalars are irreps"))
    }

    /// How many times as coarse as those of the model voxels with edges (x, y, z) are, where each volume keeps its own.
    pub(crate) fn coarsening(&self, voxel_size: [f64; 3]) -> Option<[f64; 3]> {
        self.native.then(|| self.network.coarsening(self.card.voxel_size, Some(voxel_size)))
    }

    /// The network for a volume whose voxels have these edges (x, y, z).
    pub(crate) fn folded_for(
        &self,
        voxel_size: [f64; 3],
    ) -> Result<Arc<FoldedNetwork>, PredictError> {
        let ratios = self.coarsening(voxel_size).unwrap_or([1.0; 3]);
        Ok(self.folded.coarsened(&self.network, ratios)?)
    }

    /// What a network for their voxels gives for each of `count` volumes of these dims.
    pub(crate) fn answer(
        &self,
        folded: &FoldedNetwork,
        volumes: Vec<f32>,
        count: usize,
        [d, h, w]: [usize; 3],
    ) -> Result<Vec<Output>, PredictError> {
        let params = self.network.params();
        let shape = (count, self.card.model.channels(), d, h, w);
        let x = Tensor::from_vec(volumes, shape, &Device::Cpu)?;
        let x = x.to_device(params.device())?.to_dtype(params.dtype())?;
        let [features, output] = folded.forward_with_features(&x)?;
        let rows = |values: &Tensor| -> Result<Vec<Vec<f32>>, PredictError> {
            Ok(values.flatten_from(1)?.to_dtype(DType::F32)?.to_vec2::<f32>()?)
        };
        let outputs = rows(&output.values)?;
        let features = match features.values.dims().len() {
            2 => rows(&features.values)?,
            _ => vec![vec![]; count],
        };
        let each = features.into_iter().zip(outputs);
        Ok(each.map(|(features, output)| Output { features, output }).collect())
    }

    /// Whether the volumes of a dataset or an archive are what it takes.
    pub(crate) fn check_volumes(&self, meta: &DatasetMeta) -> Result<(), String> {
        if let (Some(ours), Some(theirs)) = (&self.recipe, &meta.recipe)
            && ours.subject() != theirs.subject()
        {
            let (ours, theirs) = (ours.subject(), theirs.subject());
            return Err(format!(
                "expected items that are {ours} each, as {} is for, found {theirs}",
                self.name
            ));
        }
        let channels = self.card.model.channels();
        if meta.channels != channels {
            return Err(format!(
                "expected volumes of {channels} channels, as {} was trained on, found {}",
                self.name, meta.channels
            ));
        }
        steer3d_eval::check_volumes(&self.card, meta, self.native).map(|_| ())
    }
}

/// Whether edges of voxels are the same, but for the digits of a header.
fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-3 * a.abs().max(b.abs())
}

/// Whether a recipe makes what a network was trained on.
fn check(recipe: &Recipe, card: &ModelCard) -> Result<(), String> {
    recipe.check().map_err(|e| format!("recipe: {e}"))?;
    let (channels, expected) = (recipe.channels(), card.model.channels());
    if channels != expected {
        return Err(format!(
            "recipe: expected {expected} channels, as the network takes, found {channels}"
        ));
    }
    let grid = recipe.grid().map_err(|e| format!("recipe: {e}"))?;
    if !card.voxel_size.iter().zip(grid.voxel_size()).all(|(&a, b)| close(a, b)) {
        return Err(format!(
            "recipe: expected voxels of {:?} {}, as the network was trained on, found {:?}",
            card.voxel_size,
            card.unit,
            grid.voxel_size()
        ));
    }
    Ok(())
}
