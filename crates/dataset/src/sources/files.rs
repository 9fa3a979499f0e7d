//! Files of a tree or a table, each an item, or a file of several molecules.

use crate::source::{BuildError, ImportOptions, ItemSource};
use crate::sources::listing::Listing;
use crate::sources::recipe::Recipe;
use crate::split::Fractions;

/// The items of a listing by a recipe, which the first file settles, or with `skip_broken` the
/// first that can be read. Splits that the listing lacks are drawn by `fractions` and the seed.
///
/// # Errors
/// If two records get the same identifier, no file can be read, or the recipe does not suit.
pub fn files(
    mut listing: Listing,
    recipe: &Recipe,
    fractions: &Fractions,
    skip_broken: bool,
    options: &ImportOptions,
) -> Result<ItemSource, BuildError> {
    listing.expand_records()?;
    let notes = listing.settle_splits(fractions, options.seed);
    let Listing { place, class_names, entries, .. } = listing;
    let mut first = entries.iter().filter(|entry| entry.record.unwrap_or(1) == 1);
    let settled = first.find_map(|entry| match recipe.settled_by(&entry.path) {
        Err(_) if skip_broken => None,
        other => Some(other.map_err(BuildError::First)),
    });
    let settled = settled.transpose()?.ok_or_else(|| BuildError::Source {
        path: place.clone(),
        expected: "a file that can be read".to_owned(),
        found: format!("none of {}", entries.len()),
    })?;
    let absolute = place.canonicalize().ok();
    let stem = absolute.as_ref().and_then(|path| path.file_stem());
    let stem = stem.map(|stem| stem.to_string_lossy().into_owned());
    let name = options.name.clone().or(stem).unwrap_or_default();
    let provenance = options.provenance("build", name.clone(), None, notes);
    let meta = settled.meta(&name, class_names, provenance).map_err(BuildError::meta(&place))?;
    let options = serde_json::to_string(recipe).expect("plain data have a JSON form");
    let make = Box::new(move |_, entry: &_| settled.make(entry));
    Ok(ItemSource { meta, tasks: None, entries, options, make })
}
