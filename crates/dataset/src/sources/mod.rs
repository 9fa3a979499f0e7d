//! The sources of items: one file each.

use crate::source::Importer;

pub(crate) mod archive;
pub(crate) mod arrays;
pub(crate) mod backbone;
pub(crate) mod cath;
pub(crate) mod files;
pub(crate) mod listing;
pub(crate) mod medmnist;
pub(crate) mod recipe;
pub(crate) mod tetris;

/// The sources that `steer3d dataset import` knows.
pub const IMPORTERS: [Importer; 5] =
    [cath::IMPORTER, medmnist::IMPORTER, arrays::IMPORTER, backbone::IMPORTER, tetris::IMPORTER];
