//! What recipes make of files whose voxels or elements are not all known.

use std::fs;
use std::path::{Path, PathBuf};

use steer3d_dataset::{Atoms, Entry, FileRecipe, ItemData, RecipeOptions};
use steer3d_formats::Nan;
use steer3d_volume::{ChannelScheme, Grid, Volume};

fn made(recipe: &RecipeOptions, path: &Path) -> Result<ItemData, String> {
    let entry = Entry { path: path.to_owned(), ..Entry::default() };
    let settled = recipe.settled_by(path).map_err(|error| error.to_string())?;
    FileRecipe::new(settled, recipe.store).make(&entry).map_err(|error| error.to_string())
}

fn scratch(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

#[test]
fn voxels_that_are_not_numbers_are_refused_or_zero() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("masked.mrc");
    let ones = Volume::centred(vec![1.0; 27], 1, Grid::new([3; 3], [1.0; 3]).unwrap()).unwrap();
    steer3d_formats::write_volume(&path, &ones, steer3d_formats::Voxels::Values).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[1024 + 8..1024 + 12].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = made(&RecipeOptions::default(), &path).unwrap_err();
    assert!(error.contains("masked.mrc") && error.contains("byte 1032"), "{error}");
    let zero = RecipeOptions { nan: Nan::Zero, ..RecipeOptions::default() };
    let volume = made(&zero, &path).unwrap().volume.unwrap();
    assert_eq!(volume.data()[..4], [1.0, 1.0, 0.0, 1.0]);

    bytes[1024 + 8..1024 + 12].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    assert!(made(&zero, &path).unwrap_err().contains("found inf"));
}

#[test]
fn an_element_that_a_file_does_not_tell_is_asked_for_not_guessed() {
    let text = "@<TRIPOS>MOLECULE\nx\n2 0\nSMALL\nNO_CHARGES\n@<TRIPOS>ATOM\n\
                1 O1 0 0 0 opls_236\n2 CT 1 0 0 opls_135\n";
    let (_folder, path) = scratch("opls.mol2", text.as_bytes());
    let of = |channels, atoms| RecipeOptions {
        channels,
        atoms,
        size: Some([8; 3]),
        ..RecipeOptions::default()
    };
    let elements = |other| ChannelScheme::Elements { listed: vec![6, 8], other };
    for (recipe, channels) in
        [(of(ChannelScheme::Single, Atoms::All), 1), (of(elements(true), Atoms::All), 3)]
    {
        let volume = made(&recipe, &path).unwrap().volume.unwrap();
        assert_eq!(volume.channels(), channels);
    }
    for recipe in [of(elements(false), Atoms::All), of(ChannelScheme::Single, Atoms::Heavy)] {
        let error = made(&recipe, &path).unwrap_err();
        assert!(error.contains("none for atom 2 (CT)"), "{error}");
    }
}
