//! A recipe in TOML, and what it makes of a small file of each kind.

#![no_main]

use libfuzzer_sys::fuzz_target;
use steer3d_dataset::Recipe;
use steer3d_formats::{FileContents, Format, read_as};
use steer3d_so3::Rotation;
use steer3d_volume::{Grid, Volume};

/// Values of a volume that is made: larger ones are slow and come from the same code.
const MOST: usize = 1 << 12;

const MOLECULE: &[u8] = b"3\n\nC 0 0 0\nN 1.5 0 0\nO 0 2 -1\n";
const MESH: &[u8] = b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0.5\n3 0 1 2\n";

fuzz_target!(|text: &str| {
    let Ok(recipe) = toml::from_str::<Recipe>(text) else { return };
    if recipe.check().is_err() {
        return;
    }
    let grid = recipe.grid().expect("the grid of a recipe that was checked");
    if grid.voxels().saturating_mul(recipe.channels()) > MOST {
        return;
    }
    let volume = Grid::new([2, 3, 4], [1.0, 2.0, 1.5])
        .and_then(|grid| Volume::centred((0..24).map(|i| i as f32 - 7.5).collect(), 1, grid))
        .expect("a valid volume");
    let read = |bytes, format| read_as(bytes, format).expect("a valid file");
    let files =
        [read(MOLECULE, Format::Xyz), read(MESH, Format::Off), FileContents::Volume(volume)];
    for contents in files {
        if let Ok(prepared) = recipe.prepare(contents) {
            let _ = recipe.volume(&prepared, &Rotation::identity());
        }
    }
});
