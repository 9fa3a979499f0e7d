//! Says of every file below the given folders what it holds, or why it cannot be read.
//!
//! ```sh
//! cargo run --release --example read_files -p steer3d-formats -- FOLDER ...
//! ```

#![allow(clippy::print_stdout, reason = "the list is the output")]

use std::path::{Path, PathBuf};

use steer3d_formats::{FileContents, read};

fn main() -> std::io::Result<()> {
    let mut paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (mut good, mut bad) = (0, 0);
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            for child in std::fs::read_dir(path)? {
                paths.push(child?.path());
            }
            continue;
        }
        match described(&path) {
            Ok(text) => {
                good += 1;
                println!("{}: {text}", path.display());
            }
            Err(error) => {
                bad += 1;
                println!("error: {error}");
            }
        }
    }
    println!("{good} files read, {bad} refused");
    Ok(())
}

fn described(path: &Path) -> Result<String, Box<dyn std::error::Error>> {
    Ok(match read(path)? {
        FileContents::Molecules(molecules) => {
            let atoms: usize = molecules.iter().map(|molecule| molecule.atoms.len()).sum();
            format!("{} molecules, {atoms} atoms", molecules.len())
        }
        FileContents::Mesh(mesh) => {
            let (vertices, triangles) = (mesh.vertices().len(), mesh.triangles().len());
            format!("{vertices} vertices, {triangles} triangles")
        }
        FileContents::Volume(volume) => {
            let (channels, dims, size) = (volume.channels(), volume.dims(), volume.voxel_size());
            format!("{channels} x {dims:?} voxels (C, D, H, W) of {size:?}")
        }
    })
}
