//! What is kept of the answers of an unfinished evaluation in a file, so that it can go on after an interruption.
//!
//! The file is a line of JSON that says what is evaluated, followed by blocks of rows in the order in which they are
//! computed: of width the logits, of values the values turned back, of labels of voxels the counts of voxels. A block
//! is the number of its rows as a little-endian u64, their numbers as little-endian f64, and the SHA-256 of the
//! checksum before it (of the first line, for the first block), that number and those rows. So a block counts only if
//! all before it and it are as they were written; the file is cut off before the first that is not.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use steer3d_ranks::{Number, Rank, RankError};

use crate::error::EvalError;

type Sum = [u8; 32];

/// Bytes of a block beside its rows.
const FRAME: u64 = 8 + 32;

/// Rows known from an earlier run, and the file to which new ones are added.
pub(crate) struct Journal {
    width: usize,
    known: Vec<f64>,
    /// How many of the known values were used.
    used: usize,
    file: Option<Open>,
}

struct Open {
    path: PathBuf,
    file: File,
    /// Where the blocks begin.
    start: u64,
    /// Checksum of the first line.
    first: Sum,
    /// Checksum of the last block.
    last: Sum,
}

impl Journal {
    /// A journal that keeps nothing.
    pub(crate) fn none() -> Self {
        Self { width: 1, known: vec![], used: 0, file: None }
    }

    /// The rows that the first rank knows, on all ranks; it alone has the file.
    pub(crate) fn share(&mut self, rank: &Rank, width: usize) -> Result<(), RankError> {
        let known = rank.from_first(|| Ok::<_, RankError>(f64::to_bytes(&self.known)))?;
        (self.known, self.width) = (f64::of_bytes(&known), width);
        Ok(())
    }

    /// Opens or makes the file. What it holds is used if its first line is `identity`: the rows, of `width` numbers,
    /// of all blocks before the first that is cut off or damaged.
    pub(crate) fn open(path: &Path, identity: &str, width: usize) -> Result<Self, EvalError> {
        let fail = |source| EvalError::Write { path: path.into(), source };
        let first = Sha256::digest(identity).into();
        let start = identity.len() as u64 + 1;
        let mut open = Open {
            path: path.into(),
            file: begin(path, identity).map_err(fail)?,
            start,
            first,
            last: first,
        };
        let known = open.read(width).map_err(fail)?;
        Ok(Self { width, known, used: 0, file: Some(open) })
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
        let Some(open) = &mut self.file else { return Ok(()) };
        open.last = open.first;
        let cut = open.file.set_len(open.start).and_then(|()| open.file.seek(SeekFrom::End(0)));
        cut.map(|_| ()).map_err(|source| EvalError::Write { path: open.path.clone(), source })
    }

    /// Whether rows from an earlier run wait to be used, none having been used yet.
    pub(crate) fn is_unchecked(&self) -> bool {
        self.used == 0 && !self.known.is_empty()
    }

    /// Adds new rows to the file.
    pub(crate) fn add(&mut self, rows: &[Vec<f64>]) -> Result<(), EvalError> {
        let Some(open) = &mut self.file else { return Ok(()) };
        let mut block = (rows.len() as u64).to_le_bytes().to_vec();
        block.extend(rows.iter().flatten().flat_map(|v| v.to_le_bytes()));
        open.last = following(&open.last, &block);
        block.extend(open.last);
        open.file
            .write_all(&block)
            .map_err(|source| EvalError::Write { path: open.path.clone(), source })
    }
}

/// The checksum of a block after one with the checksum `before`.
fn following(before: &Sum, block: &[u8]) -> Sum {
    Sha256::new().chain_update(before).chain_update(block).finalize().into()
}

/// The file, after its first line if that is `identity`; else a new one with that line.
fn begin(path: &Path, identity: &str) -> io::Result<File> {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let mut line = vec![];
    // A foreign file may have no line end: read no more than the line that is looked for.
    BufReader::new(&mut file).take(identity.len() as u64 + 1).read_until(b'\n', &mut line)?;
    if line.strip_suffix(b"\n") != Some(identity.as_bytes()) {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{identity}")?;
    }
    Ok(file)
}

impl Open {
    /// The rows of the blocks that are whole; what follows them is cut off.
    fn read(&mut self, width: usize) -> io::Result<Vec<f64>> {
        let length = self.file.metadata()?.len();
        self.file.seek(SeekFrom::Start(self.start))?;
        let reader = BufReader::new(&mut self.file);
        let Blocks { known, last, length } =
            Blocks::read(reader, length - self.start, self.first, width)?;
        self.last = last;
        self.file.set_len(self.start + length)?;
        self.file.seek(SeekFrom::End(0))?;
        Ok(known)
    }
}

/// The blocks of a journal that are whole.
#[derive(Debug)]
pub struct Blocks {
    /// The numbers of their rows.
    pub known: Vec<f64>,
    /// Checksum of the last block.
    pub last: Sum,
    /// Bytes of the blocks.
    pub length: u64,
}

impl Blocks {
    /// Reads the blocks before the first that is damaged, of `length` bytes, after what has the checksum `first`.
    ///
    /// # Errors
    /// If the reader fails.
    pub fn read(mut reader: impl Read, length: u64, first: Sum, width: usize) -> io::Result<Self> {
        let mut blocks = Self { known: vec![], last: first, length: 0 };
        while length - blocks.length >= FRAME {
            let rest = length - blocks.length - FRAME;
            let mut block = vec![0; 8];
            reader.read_exact(&mut block)?;
            let rows = u64::from_le_bytes(std::array::from_fn(|i| block[i]));
            let values = rows.checked_mul(8 * width as u64);
            let Some(values) = values.filter(|&values| values <= rest) else { break };
            block.resize(8 + values as usize, 0);
            reader.read_exact(&mut block[8..])?;
            let mut sum = [0; 32];
            reader.read_exact(&mut sum)?;
            if sum != following(&blocks.last, &block) {
                break;
            }
            let value = |b: &[u8]| f64::from_le_bytes(std::array::from_fn(|i| b[i]));
            blocks.known.extend(block[8..].chunks_exact(8).map(value));
            blocks.last = sum;
            blocks.length += FRAME + values;
        }
        Ok(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: &str = "{\"a\":1}";

    #[test]
    fn whole_rows_of_the_same_evaluation_are_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logits");
        let rows = [vec![1.0, f64::MIN_POSITIVE], vec![-0.0, 3.5], vec![5.0, 6.0]];
        let mut journal = Journal::open(&path, IDENTITY, 2).unwrap();
        assert!(!journal.is_unchecked() && journal.next(4).is_empty());
        journal.add(&rows[..2]).unwrap();
        journal.add(&rows[2..]).unwrap();
        drop(journal);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 3).unwrap();

        let mut journal = Journal::open(&path, IDENTITY, 2).unwrap();
        assert!(journal.is_unchecked());
        assert_eq!(journal.next(1), rows[..1]);
        assert_eq!(journal.next(5), rows[1..2]);
        journal.add(&rows[2..]).unwrap();
        drop(journal);
        assert_eq!(Journal::open(&path, IDENTITY, 2).unwrap().next(9), rows);
        assert!(Journal::open(&path, "{\"a\":2}", 2).unwrap().next(9).is_empty());
        assert!(Journal::open(&path, IDENTITY, 2).unwrap().next(9).is_empty());
    }

    #[test]
    fn nothing_is_believed_from_the_first_changed_byte_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logits");
        let mut journal = Journal::open(&path, IDENTITY, 1).unwrap();
        let rows: Vec<Vec<f64>> = (0..6).map(|i| vec![f64::from(i)]).collect();
        rows.chunks(2).for_each(|rows| journal.add(rows).unwrap());
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let (start, block) = (IDENTITY.len() + 1, 2 * 8 + FRAME as usize);
        let known = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let known = Journal::open(&path, IDENTITY, 1).unwrap().next(9);
            assert_eq!(known, rows[..known.len()]);
            // What is not believed is gone.
            assert_eq!(std::fs::read(&path).unwrap(), bytes[..start + block * known.len() / 2]);
            known.len()
        };
        for place in start..whole.len() {
            for value in [0, 1, 255] {
                let mut bytes = whole.clone();
                let changed = bytes[place] != value;
                bytes[place] = value;
                let expected = if changed { 2 * ((place - start) / block) } else { 6 };
                assert_eq!(known(&bytes), expected, "byte {place}");
            }
        }
        let tail = |at: usize| [&whole[..at], &vec![0; whole.len() - at]].concat();
        assert_eq!(known(&tail(start + block)), 2);
        let (second, third) = (start + block, start + 2 * block);
        let exchanged = [&whole[..second], &whole[third..], &whole[second..third]].concat();
        assert_eq!(known(&exchanged), 2);
        assert_eq!(known(&[&whole[..third], &whole[second..third]].concat()), 4);
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
