//! Maps of voxels, in files of any format, written some planes at a time.

use std::path::{Path, PathBuf};

use steer3d_dataset::Hdf5Map;
use steer3d_formats::{Frame, MapWriter};

use crate::error::PredictError;

/// A format of maps of labels and probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MapFormat {
    /// NIfTI.
    Nifti,
    /// NIfTI, packed by gzip.
    PackedNifti,
    /// MRC.
    Mrc,
    /// An array of NumPy.
    Npy,
    /// HDF5 with the array and the attributes of an [`Hdf5Map`].
    Hdf5,
}

impl MapFormat {
    /// All formats.
    pub const ALL: [Self; 5] = [Self::Nifti, Self::PackedNifti, Self::Mrc, Self::Npy, Self::Hdf5];

    /// What the names of files end in.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Nifti => "nii",
            Self::PackedNifti => "nii.gz",
            Self::Mrc => "mrc",
            Self::Npy => "npy",
            Self::Hdf5 => "h5",
        }
    }

    /// The format whose files have names that end so.
    pub fn of_extension(extension: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.extension() == extension)
    }
}

/// A map that is being written.
pub(crate) struct Map {
    path: PathBuf,
    file: File,
}

enum File {
    Plain(MapWriter),
    Hdf5(Hdf5Map),
}

impl Map {
    /// Begins a map in the format that the extension of `path` names: of HDF5 with the names of the classes and the unit of
    /// lengths, else with the voxels as they lie in the file `like`.
    pub(crate) fn create(
        path: PathBuf,
        frame: &Frame,
        classes: &[String],
        unit: &str,
        like: Option<&Path>,
    ) -> Result<Self, PredictError> {
        let hdf5 = path.extension().is_some_and(|e| e == MapFormat::Hdf5.extension());
        let made = if hdf5 {
            let made = Hdf5Map::create(&path, frame, classes, unit);
            made.map(File::Hdf5).map_err(|e| e.to_string())
        } else {
            let made = MapWriter::create(&path, frame, like);
            made.map(File::Plain).map_err(|e| e.to_string())
        };
        match made {
            Ok(file) => Ok(Self { path, file }),
            Err(problem) => Err(PredictError::output(&path, &problem)),
        }
    }

    /// Writes planes of a channel, H × W values each, from plane `first` on.
    pub(crate) fn write(
        &mut self,
        channel: usize,
        first: usize,
        values: &[f32],
    ) -> Result<(), PredictError> {
        let written = match &mut self.file {
            File::Plain(file) => file.write(channel, first, values).map_err(|e| e.to_string()),
            File::Hdf5(file) => file.write(channel, first, values).map_err(|e| e.to_string()),
        };
        written.map_err(|problem| PredictError::output(&self.path, &problem))
    }

    /// Makes the file appear, and says which it is.
    pub(crate) fn finish(self) -> Result<PathBuf, PredictError> {
        let Self { path, file } = self;
        let finished = match file {
            File::Plain(file) => file.finish().map_err(|e| e.to_string()),
            File::Hdf5(file) => file.finish().map_err(|e| e.to_string()),
        };
        finished.map_err(|problem| PredictError::output(&path, &problem))?;
        Ok(path)
    }
}
