//! SHA-256 of files, and of parts that are told from each other.

use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{AtPath, FileError, hex, open};

/// SHA-256 of parts, each after its length in bytes as u64, little-endian.
#[derive(Default)]
pub struct PartHasher(Sha256);

impl PartHasher {
    /// Adds a part.
    pub fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// Adds what a file holds as a part.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn add_file(&mut self, path: &Path) -> io::Result<()> {
        let file = open(path)?;
        let length = file.metadata()?.len();
        self.0.update(length.to_le_bytes());
        update(&mut self.0, file.take(length))
    }

    /// The SHA-256.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// The SHA-256 in hexadecimal.
    pub fn text(self) -> String {
        hex(&self.finish())
    }
}

/// SHA-256 of a file in hexadecimal.
///
/// # Errors
/// If the file cannot be read.
pub fn sha256_of(path: &Path) -> Result<String, FileError> {
    let mut hash = Sha256::new();
    open(path).and_then(|file| update(&mut hash, file)).at_path(path)?;
    Ok(hex(&hash.finalize()))
}

fn update(hash: &mut Sha256, mut bytes: impl Read) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match bytes.read(&mut buffer)? {
            0 => return Ok(()),
            length => hash.update(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_part_as_its_bytes_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"abc").unwrap();
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_of(&path).unwrap(), known);
        let [mut file, mut bytes, mut split] = [(); 3].map(|()| PartHasher::default());
        file.add_file(&path).unwrap();
        bytes.add(b"abc");
        split.add(b"ab");
        split.add(b"c");
        let (file, bytes) = (file.finish(), bytes.finish());
        assert_eq!(file, bytes);
        assert_ne!(bytes, split.finish());
        assert!(PartHasher::default().add_file(folder.path()).is_err());
    }
}
