//! What is kept of the answers of an unfinished evaluation in a file, so that it can go on after an interruption.
//!
//! The file is a line of JSON that says what is evaluated, followed by the rows in the order in which
//! they are computed: of width the logits, of values the values turned back, of labels of voxels the counts of
//! voxels, each number a little-endian f64.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::EvalError;

/// Rows known from an earlier run, and the file to which new ones are added.
pub(crate) struct Journal {
    width: usize,
    known: Vec<f64>,
    /// How many of the known values were used.
    used: usize,
    file: Option<(PathBuf, File, u64)>,
}

impl Journal {
    /// A journal that keeps nothing.
    pub(crate) fn none() -> Self {
        Self { width: 1, known: vec![], used: 0, file: None }
    }

    /// Opens or makes the file. What it holds is used if its first line is `identity`; whole rows of
    /// `width` numbers only, since the last one may have been cut off.
    pub(crate) fn open(path: &Path, identity: &str, width: usize) -> Result<Self, EvalError> {
        let fail = |source| EvalError::Write { path: path.into(), source };
        let (mut file, known) = read(path, identity, width).map_err(fail)?;
        let start = identity.len() as u64 + 1;
        file.set_len(start + 8 * known.len() as u64).map_err(fail)?;
        file.seek(SeekFrom::End(0)).map_err(fail)?;
        Ok(Self { width, known, used: 0, file: Some((path.into(), file, start)) })
    }

    /// The next rows that are known, at most `rows`.
    pub(crate) fn next(&mut self, rows: usize) -> Vec<Vec<f64>> {
        let rest = &self.known[self.used..];
        let taken = &rest[..rest.len().min(rows * self.width)];
        self.used += taken.len();
        taken.chunks_exact(self.width).map(<[f64]>::to_vec).collect()
    }

    /// Forgets everything, if the first known rows are not those that the model gives now.
    pub(crate) fn check(&mut self, first: &[Vec<f64>]) -> Result<(), EvalError> {
        let known = self.known.chunks_exact(self.width);
        if known.zip(first).all(|(known, now)| known == &now[..]) {
            return Ok(());
        }
        self.known.clear();
        let Some((path, file, start)) = &mut self.file else { return Ok(()) };
        let cut = file.set_len(*start).and_then(|()| file.seek(SeekFrom::End(0)));
        cut.map(|_| ()).map_err(|source| EvalError::Write { path: path.clone(), source })
    }

    /// Whether rows from an earlier run wait to be used, none having been used yet.
    pub(crate) fn is_unchecked(&self) -> bool {
        self.used == 0 && !self.known.is_empty()
    }

    /// Adds new rows to the file.
    pub(crate) fn add(&mut self, rows: &[Vec<f64>]) -> Result<(), EvalError> {
        let Some((path, file, _)) = &mut self.file else { return Ok(()) };
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
        file.write_all(&bytes).map_err(|source| EvalError::Write { path: path.clone(), source })
    }
}

/// The file, and its values if it has the given first line; else a new file with that line.
fn read(path: &Path, identity: &str, width: usize) -> io::Result<(File, Vec<f64>)> {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let mut reader = BufReader::new(&mut file);
    let mut line = vec![];
    // A foreign file may have no line end: read no more than the line that is looked for.
    reader.by_ref().take(identity.len() as u64 + 1).read_until(b'\n', &mut line)?;
    if line.strip_suffix(b"\n") == Some(identity.as_bytes()) {
        let mut bytes = vec![];
        reader.read_to_end(&mut bytes)?;
        let rows = bytes.len() / (8 * width);
        let values = bytes[..8 * rows * width].chunks_exact(8);
        let value = |b: &[u8]| f64::from_le_bytes(std::array::from_fn(|i| b[i]));
        return Ok((file, values.map(value).collect()));
    }
    drop(reader);
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{identity}")?;
    Ok((file, vec![]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_rows_of_the_same_evaluation_are_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logits");
        let rows = [vec![1.0, f64::MIN_POSITIVE], vec![-0.0, 3.5], vec![5.0, 6.0]];
        let mut journal = Journal::open(&path, "{\"a\":1}", 2).unwrap();
        assert!(!journal.is_unchecked() && journal.next(4).is_empty());
        journal.add(&rows[..2]).unwrap();
        journal.add(&rows[2..]).unwrap();
        drop(journal);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 3).unwrap();

        let mut journal = Journal::open(&path, "{\"a\":1}", 2).unwrap();
        assert!(journal.is_unchecked());
        assert_eq!(journal.next(1), rows[..1]);
        assert_eq!(journal.next(5), rows[1..2]);
        journal.add(&rows[2..]).unwrap();
        drop(journal);
        assert_eq!(Journal::open(&path, "{\"a\":1}", 2).unwrap().next(9), rows);
        assert!(Journal::open(&path, "{\"a\":2}", 2).unwrap().next(9).is_empty());
        assert!(Journal::open(&path, "{\"a\":1}", 2).unwrap().next(9).is_empty());
    }

    #[test]
    fn rows_that_the_model_no_longer_gives_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logits");
        Journal::open(&path, "{}", 1).unwrap().add(&[vec![1.0], vec![2.0]]).unwrap();
        let mut journal = Journal::open(&path, "{}", 1).unwrap();
        journal.check(&[vec![1.0]]).unwrap();
        assert!(journal.is_unchecked());
        journal.check(&[vec![1.5]]).unwrap();
        assert!(!journal.is_unchecked());
        journal.add(&[vec![7.0]]).unwrap();
        assert_eq!(Journal::open(&path, "{}", 1).unwrap().next(9), [[7.0]]);
    }

    #[test]
    fn a_foreign_file_is_replaced_and_a_folder_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logits");
        std::fs::write(&path, "something else").unwrap();
        assert!(!Journal::open(&path, "{\"a\":1}", 2).unwrap().is_unchecked());
        let message = Journal::open(dir.path(), "{}", 2).err().unwrap().to_string();
        assert!(message.contains(&dir.path().display().to_string()), "{message}");
    }
}
