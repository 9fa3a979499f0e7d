//! What tells models from each other: digests of what they are made of.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use sha2::{Digest, Sha256};
use steer3d_files::hex;

/// SHA-256 of parts, each after its length in bytes as u64, little-endian.
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self(Sha256::new())
    }

    pub(crate) fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds what a file holds.
    pub(crate) fn file(&mut self, path: &Path) -> io::Result<()> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        self.0.update(length.to_le_bytes());
        let (mut reader, mut buffer) = (BufReader::new(file).take(length), vec![0; 1 << 16]);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(()),
                read => self.0.update(&buffer[..read]),
            }
        }
    }

    /// In hexadecimal.
    pub(crate) fn text(self) -> String {
        hex(&self.0.finalize())
    }
}
