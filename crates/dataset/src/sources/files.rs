//! Files of a tree or a table, each an item, or a file of several molecules.

use std::path::Path;

use crate::meta::DatasetMeta;
use crate::source::{BuildError, Entry, ImportOptions, ItemData, ItemError, ItemSource};
use crate::sources::listing::Listing;
use crate::sources::recipe::{Recipe, SettledRecipe};
use crate::split::Fractions;

/// Files with the recipe by which they become volumes.
pub struct Files {
    meta: DatasetMeta,
    entries: Vec<Entry>,
    settled: SettledRecipe,
    recipe: Recipe,
}

impl Files {
    /// Takes up a listing, draws the splits that it lacks by `fractions` and the seed, and settles
    /// the recipe by the first file, or with `skip_broken` by the first that can be read.
    ///
    /// # Errors
    /// If two records get the same identifier, no file can be read, or the recipe does not suit.
    pub fn new(
        mut listing: Listing,
        recipe: Recipe,
        fractions: &Fractions,
        skip_broken: bool,
        options: &ImportOptions,
    ) -> Result<Self, BuildError> {
        listing.expand_records()?;
        let notes = listing.settle_splits(fractions, options.seed);
        let count = listing.entries.len();
        let mut files = listing.entries.iter().filter(|entry| entry.record.unwrap_or(1) == 1);
        let settled = files.find_map(|entry| match recipe.settled_by(&entry.path) {
            Err(_) if skip_broken => None,
            other => Some(other),
        });
        let Some(settled) = settled else {
            let (expected, found) = ("a file that can be read", format!("none of {count}"));
            return Err(BuildError::Source {
                path: listing.place,
                expected: expected.to_owned(),
                found,
            });
        };
        let settled = settled.map_err(BuildError::First)?;
        let name = options.name.clone().or_else(|| stem(&listing.place)).unwrap_or_default();
        let provenance = options.provenance("build", name.clone(), None, notes);
        let wrong = BuildError::meta(&listing.place);
        let meta = settled.meta(&name, listing.class_names, provenance).map_err(wrong)?;
        Ok(Self { meta, entries: listing.entries, settled, recipe })
    }
}

/// The name of a folder or table, whatever the path to it is.
fn stem(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned())
}

impl ItemSource for Files {
    fn meta(&self) -> &DatasetMeta {
        &self.meta
    }

    fn entries(&self) -> &[Entry] {
        &self.entries
    }

    fn options(&self) -> String {
        serde_json::to_string(&self.recipe).expect("plain data have a JSON form")
    }

    fn item(&self, index: usize) -> Result<ItemData, ItemError> {
        self.settled.make(&self.entries[index])
    }
}
