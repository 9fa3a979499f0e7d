//! The records of a run that is not over, in a file of lines that later runs of the same go on with.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use steer3d_files::{AtPath, FileError, hex};

use crate::record::Record;

/// A record and the SHA-256 of the file that it is of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) sha256: Option<String>,
    pub(crate) record: Record,
}

/// Lines of JSON, each after a checksum that includes all lines before. The first is the identity of the run.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    chain: [u8; 32],
}

impl Journal {
    /// Begins a journal, or takes up that of the same run: its records, up to the first line that is damaged.
    pub(crate) fn open(
        path: &Path,
        identity: &str,
        resume: bool,
    ) -> Result<(Self, Vec<Kept>), FileError> {
        let (mut chain, mut length, mut records) = ([0; 32], 0, vec![]);
        if resume && path.is_file() {
            let mut reader = BufReader::new(File::open(path).at_path(path)?);
            let mut line = vec![];
            let mut first = true;
            loop {
                line.clear();
                let bytes = reader.read_until(b'\n', &mut line).at_path(path)?;
                let Some((text, next)) = text_of(&line, &chain) else { break };
                match serde_json::from_str(text) {
                    _ if first && text == identity => first = false,
                    Ok(kept) if !first => records.push(kept),
                    _ => break,
                }
                (chain, length) = (next, length + bytes as u64);
            }
        }
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(path).at_path(path)?;
        file.set_len(length).at_path(path)?;
        let mut journal = Self { file, path: path.to_owned(), chain };
        std::io::Seek::seek(&mut journal.file, std::io::SeekFrom::End(0)).at_path(path)?;
        if length == 0 {
            journal.add_line(identity)?;
        }
        Ok((journal, records))
    }

    /// Begins anew after these records.
    pub(crate) fn cut(&mut self, identity: &str, kept: &[Kept]) -> Result<(), FileError> {
        self.file.set_len(0).at_path(&self.path)?;
        std::io::Seek::seek(&mut self.file, std::io::SeekFrom::Start(0)).at_path(&self.path)?;
        self.chain = [0; 32];
        self.add_line(identity)?;
        kept.iter().try_for_each(|kept| self.add(kept))
    }

    pub(crate) fn add(&mut self, kept: &Kept) -> Result<(), FileError> {
        self.add_line(&serde_json::to_string(kept).expect("plain data have a JSON form"))
    }

    fn add_line(&mut self, text: &str) -> Result<(), FileError> {
        self.chain = chained(&self.chain, text);
        let line = format!("{} {text}\n", hex(&self.chain[..8]));
        self.file.write_all(line.as_bytes()).at_path(&self.path)
    }
}

fn chained(before: &[u8; 32], text: &str) -> [u8; 32] {
    Sha256::new().chain_update(before).chain_update(text).finalize().into()
}

/// The text of a whole line with the right checksum, and the checksum.
fn text_of<'a>(line: &'a [u8], before: &[u8; 32]) -> Option<(&'a str, [u8; 32])> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (sum, text) = line.split_once(' ')?;
    let next = chained(before, text);
    (sum == hex(&next[..8])).then_some((text, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_goes_on_after_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.partial");
        let kept = |i: usize| Kept {
            sha256: Some(i.to_string()),
            record: Record::failed(&format!("item {i}"), "broken".into()),
        };
        let (mut journal, none) = Journal::open(&path, "run 1", true).unwrap();
        assert!(none.is_empty());
        (0..5).for_each(|i| journal.add(&kept(i)).unwrap());
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let records = |bytes: &[u8], identity: &str, resume: bool| {
            std::fs::write(&path, bytes).unwrap();
            Journal::open(&path, identity, resume).unwrap().1.len()
        };
        assert_eq!(records(&whole, "run 1", true), 5);
        assert_eq!(records(&whole, "run 1", false), 0);
        assert_eq!(records(&whole, "run 2", true), 0);
        assert_eq!(records(&whole[..whole.len() - 3], "run 1", true), 4);
        let mut changed = whole.clone();
        let at = whole.windows(6).position(|w| w == b"item 2").unwrap();
        changed[at + 5] = b'9';
        assert_eq!(records(&changed, "run 1", true), 2);
        let mut zeroed = whole.clone();
        zeroed[at..].fill(0);
        assert_eq!(records(&zeroed, "run 1", true), 2);
        // What follows the cut is gone, and new lines fit the old ones.
        let (mut journal, kept_before) = Journal::open(&path, "run 1", true).unwrap();
        journal.add(&kept(7)).unwrap();
        assert_eq!(kept_before.len(), 2);
        assert_eq!(Journal::open(&path, "run 1", true).unwrap().1.len(), 3);
    }
}
