//! The demonstration: a steerable and a plain network on bundled data.

use std::path::{Path, PathBuf};

use candle_core::DType;
use steer3d_dataset::{Dataset, ImportOptions, Split, import_cath, import_medmnist};
use steer3d_eval::{AnswerKind, NetworkPredictor, Predictor, Protocol, Section, Source};
use steer3d_nn::Network;
use steer3d_report::Evaluation;
use steer3d_train::TrainConfig;
use steer3d_volume::{Interpolation, Voxeliser};

use crate::error::ExperimentError;
use crate::evaluation::progress;
use crate::rivals::{Architecture, Budget, Prototypes};
use crate::session::Session;
use crate::training::{RunOptions, train_into};

/// Data that come with the source code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bundled {
    /// 480 protein domains in 3 classes: `data/cath/cath_3class_ca_small.npz`.
    Cath,
    /// 1,286 adrenal glands in 2 classes: `data/adrenal/adrenalmnist3d_trainval.npz`.
    Adrenal,
}

/// How the demonstration is run.
#[derive(Debug, Clone)]
pub struct DemoConfig {
    /// Seed of trainings and rotations.
    pub seed: u64,
    /// Random rotations of each test volume.
    pub rotations: usize,
    /// Passes over the training set, instead of each dataset's own number.
    pub epochs: Option<usize>,
    /// Folder for datasets and run folders.
    pub folder: PathBuf,
}

/// Makes the dataset of a bundled archive (`.npz`), trains a steerable and a plain network on it, and measures how they
/// survive rotation.
///
/// # Errors
/// If the archive is another one, a file cannot be written or a training diverges.
pub fn demo(
    bundled: Bundled,
    archive: &Path,
    config: &DemoConfig,
    session: &Session<'_>,
) -> Result<Section, ExperimentError> {
    let dataset = bundled.dataset(archive, config, session)?;
    let protocol = protocol(&dataset, config);
    protocol.check(&dataset, Split::Test)?;
    let prototypes = bundled.prototypes(&dataset)?;
    let epochs = config.epochs.unwrap_or(match bundled {
        Bundled::Cath => 12,
        Bundled::Adrenal => 5,
    });
    let training = TrainConfig { epochs, seed: config.seed, ..TrainConfig::default() };
    let mut networks = vec![];
    for architecture in [Architecture::Steerable, Architecture::Plain] {
        let model = prototypes.rival(architecture, Budget::Parameters, session.device())?;
        let network = Network::new(&model, config.seed, DType::F32, session.device())?;
        let folder = config.folder.join(&dataset.meta().name).join(architecture.name());
        let options = RunOptions::default();
        let run = train_into(&folder, network, &dataset, &training, options, session)?;
        networks.push(NetworkPredictor::new(architecture.to_string(), run.network)?);
    }
    let models: Vec<&dyn Predictor> = networks.iter().map(|n| n as &dyn Predictor).collect();
    let evaluation = Evaluation { dataset: &dataset, split: Split::Test, protocol: &protocol };
    Ok(evaluation.section(&models, None, &progress(&dataset, session))?)
}

fn protocol(dataset: &Dataset, config: &DemoConfig) -> Protocol {
    let voxels = Source::Voxels(Interpolation::Cubic);
    let sources = if dataset.can_voxelise() { vec![Source::Points, voxels] } else { vec![voxels] };
    Protocol {
        seed: config.seed,
        rotations: config.rotations,
        angles: vec![15.0, 30.0, 45.0, 60.0, 90.0, 135.0, 180.0],
        per_angle: 1,
        translations: vec![1.0, 2.0, 4.0],
        per_distance: 1,
        groups: vec![],
        sources,
        batch: 32,
        ..Protocol::default()
    }
}

impl Bundled {
    /// All.
    pub const ALL: [Self; 2] = [Self::Cath, Self::Adrenal];

    /// The layout of its archive, as `steer3d dataset import` names it.
    pub fn layout(self) -> &'static str {
        match self {
            Self::Cath => "cath",
            Self::Adrenal => "medmnist",
        }
    }

    /// Its name, grid, class names, credit and licence.
    pub fn options(self) -> ImportOptions {
        let (name, source, licence) = match self {
            Self::Cath => (
                "cath",
                "CATH v4.2 (Orengo group, UCL), C-alpha positions of PDB entries",
                "CC BY 4.0 (labels), CC0 (coordinates)",
            ),
            Self::Adrenal => {
                ("adrenal", "AdrenalMNIST3D of MedMNIST v2 (Yang et al. 2023)", "CC BY 4.0")
            }
        };
        let options = ImportOptions {
            name: Some(name.into()),
            source: Some(source.into()),
            licence: Some(licence.into()),
            ..ImportOptions::default()
        };
        match self {
            Self::Cath => ImportOptions { size: Some(24), voxel_size: Some([2.0; 3]), ..options },
            Self::Adrenal => {
                let names = ["normal", "mass"].map(String::from).to_vec();
                ImportOptions { class_names: Some(names), ..options }
            }
        }
    }

    fn dataset(
        self,
        archive: &Path,
        config: &DemoConfig,
        session: &Session<'_>,
    ) -> Result<Dataset, ExperimentError> {
        let options = ImportOptions { command: Some(session.command.to_owned()), ..self.options() };
        let name = options.name.as_deref().unwrap_or_default();
        let path = config.folder.join(name).with_extension("h5");
        match self {
            Self::Cath => import_cath(archive, &path, &Voxeliser::paper(24, 2.0), &options)?,
            Self::Adrenal => import_medmnist(archive, &path, &options)?,
        }
        Ok(Dataset::open(&path)?)
    }

    fn prototypes(self, dataset: &Dataset) -> Result<Prototypes, ExperimentError> {
        let mut prototypes = Prototypes::new(dataset, AnswerKind::Classes)?;
        if self == Self::Adrenal {
            let fields = ["2x0+2x1", "4x0+2x1+1x2", "8x0+4x1+2x2", "32x0"];
            for (block, fields) in prototypes.steerable.blocks.iter_mut().zip(fields) {
                block.fields = fields.parse().map_err(steer3d_nn::NnError::from)?;
            }
        }
        Ok(prototypes)
    }
}
