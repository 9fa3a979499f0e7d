//! The sources of items: one file each.

pub(crate) mod archive;
pub(crate) mod arrays;
pub(crate) mod cath;
pub(crate) mod files;
pub(crate) mod listing;
pub(crate) mod medmnist;
pub(crate) mod recipe;
pub(crate) mod tetris;
