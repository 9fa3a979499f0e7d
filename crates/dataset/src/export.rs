//! Items and the list of items as files of other programs.

use std::path::Path;

use crate::error::{Context, DatasetError, wrong_argument};
use crate::reader::Dataset;
use steer3d_files::{hex, write_with};
use steer3d_formats::npz::{npy, npz};
use steer3d_formats::{Voxels, write_volume_along};
use steer3d_volume::volume::Volume;

impl Dataset {
    /// Writes the volume of an item to a file of the format that its extension names: `npz` with the arrays `volume` (C, D,
    /// H, W, f32), `origin` and `voxel_size` (both x, y, z, f64) and `label` (i64), or one of [`write_volume_along`].
    ///
    /// # Errors
    /// If there is no such item, the extension names no such format, or the file cannot be written.
    pub fn export(&self, item: usize, path: &Path) -> Result<(), DatasetError> {
        let volume = self.read(item)?;
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let bytes = match extension {
            "npz" => npz(&[
                ("volume", volume_npy(&volume)),
                ("origin", f64_npy(&volume.origin())),
                ("voxel_size", f64_npy(&volume.voxel_size())),
                ("label", npy("<i8", &[], &i64::from(self.labels()[item]).to_le_bytes())),
            ])
            .at(path, "")?,
            "npy" | "nii" | "gz" | "mrc" | "map" | "ccp4" => {
                let direction = self.direction(item);
                return write_volume_along(path, &volume, Voxels::Values, &direction)
                    .map_err(DatasetError::Export);
            }
            _ => {
                let found = format!("`{extension}`");
                return wrong_argument(path, "extension", "npy, npz, mrc or nii", found);
            }
        };
        steer3d_files::write(path, &bytes).at(path, "")
    }

    /// Writes the list of items as a table (CSV) with the columns id, label, split, group, source
    /// and sha256; the label is empty without classes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn export_list(&self, path: &Path) -> Result<(), DatasetError> {
        let text = |list: Option<&[String]>, i: usize| list.map_or(String::new(), |l| l[i].clone());
        write_with(path, |file| {
            let mut table = csv::Writer::from_writer(file);
            table.write_record(["id", "label", "split", "group", "source", "sha256"])?;
            for (i, id) in self.ids().iter().enumerate() {
                table.write_record([
                    id,
                    self.class(i).unwrap_or_default(),
                    &self.splits()[i].to_string(),
                    &text(self.groups(), i),
                    &text(self.sources(), i),
                    &self.checksums().map_or_else(String::new, |sums| hex(&sums[i])),
                ])?;
            }
            table.flush()
        })
        .at(path, "")
    }
}

fn volume_npy(volume: &Volume) -> Vec<u8> {
    let [d, h, w] = volume.dims();
    let values: Vec<u8> = volume.data().iter().flat_map(|value| value.to_le_bytes()).collect();
    npy("<f4", &[volume.channels(), d, h, w], &values)
}

fn f64_npy(values: &[f64; 3]) -> Vec<u8> {
    npy("<f8", &[3], values.map(f64::to_le_bytes).as_flattened())
}
