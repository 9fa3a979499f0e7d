//! Reading NumPy's `.npz` archives (format:
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).
//!
//! The header of an array is parsed strictly and its declared size compared with a cap and with
//! the size of the archive's member, of at most [`MAX_RATIO`](crate::MAX_RATIO) times what it takes
//! packed, before anything is allocated. Members are stored, deflated or packed by bzip2. Arrays of
//! Python objects (pickles) are refused.

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use steer3d_files::memory::{self, NoRoom, Room};
use steer3d_files::{AtPath, FileError};
use zip::ZipArchive;
use zip::result::ZipError;

use crate::bytes::most_unpacked;
use crate::samples::Element;

/// Largest array, in bytes: 4 GiB.
pub const MAX_ARRAY_BYTES: u64 = 1 << 32;

/// Longest header of an array, in bytes; NumPy's own limit is 10,000.
pub const MAX_HEADER_BYTES: usize = 1 << 14;

/// Most axes of an array, as many as NumPy has.
const MAX_AXES: usize = 64;

/// How an array begins.
const MAGIC: &[u8] = b"\x93NUMPY";

/// Most members of an archive.
const MAX_MEMBERS: usize = 1 << 12;

/// An archive that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NpzError {
    /// The file cannot be opened or read.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The file is not a zip archive, or is cut short.
    #[error("{path}: not a readable npz archive: {source}; save it again with numpy.savez",
            path = path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: ZipError,
    },
    /// The memory for input has too little left for an array.
    #[error("{path}: array `{key}`: {source}", path = path.display())]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// Name of the array.
        key: String,
        /// How much was asked for, and how much there is.
        source: NoRoom,
    },
    /// An array is absent.
    #[error("{path}: array `{key}` is missing; the file has {found}", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Name of the array.
        key: String,
        /// The arrays that it has.
        found: String,
    },
    /// An array is damaged, too large, or not of the type or shape asked for.
    #[error("{path}: array `{key}`: expected {expected}, found {found}", path = path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// Name of the array.
        key: String,
        /// What was asked for.
        expected: String,
        /// What the file holds.
        found: String,
    },
}

/// An open archive.
#[derive(Debug)]
pub struct Npz {
    path: PathBuf,
    archive: Archive<BufReader<File>>,
}

/// An open archive, in a file or in memory.
#[derive(Debug)]
pub(crate) struct Archive<R>(ZipArchive<R>);

/// Why an array cannot be read.
pub(crate) enum Unread {
    Missing,
    Archive(ZipError),
    Array(Problem),
    NoRoom(NoRoom),
}

impl From<Problem> for Unread {
    fn from(problem: Problem) -> Self {
        Self::Array(problem)
    }
}

impl From<NoRoom> for Unread {
    fn from(no_room: NoRoom) -> Self {
        Self::NoRoom(no_room)
    }
}

impl<R: Read + Seek> Archive<R> {
    pub(crate) fn open(reader: R) -> Result<Self, ZipError> {
        let archive = ZipArchive::new(reader)?;
        if archive.len() > MAX_MEMBERS {
            return Err(ZipError::InvalidArchive("too many members".into()));
        }
        Ok(Self(archive))
    }

    /// Names of the arrays, sorted.
    pub(crate) fn keys(&self) -> Vec<String> {
        let names = self.0.file_names_raw().map(String::from_utf8_lossy);
        let mut keys: Vec<String> =
            names.filter_map(|name| name.strip_suffix(".npy").map(str::to_owned)).collect();
        keys.sort();
        keys
    }

    fn index(&self, key: &str) -> Option<usize> {
        self.0.index_for_name_raw(format!("{key}.npy").as_bytes())
    }

    /// The header of an array, its values as they are stored, and their room.
    pub(crate) fn read(&mut self, key: &str) -> Result<(Header, Vec<u8>, Room), Unread> {
        let index = self.index(key).ok_or(Unread::Missing)?;
        let mut member = self.0.by_index(index).map_err(Unread::Archive)?;
        let (declared, most) = (member.size(), most_unpacked(member.compressed_size()));
        if declared > most {
            let found = format!("{declared} bytes packed in {}", member.compressed_size());
            return Err(Unread::Array((format!("at most {most} bytes"), found)));
        }
        let header = read_header(&mut member)?;
        let len = header.len(declared)?;
        let room = memory::take(len)?;
        let mut data = Vec::with_capacity(len as usize);
        // One byte more makes the archive's reader reach the end and verify its checksum.
        let unreadable = |e: std::io::Error| ("readable bytes".to_owned(), e.to_string());
        member.take(len + 1).read_to_end(&mut data).map_err(unreadable)?;
        header.len(data.len() as u64).and_then(|len| exactly(len, data.len() as u64))?;
        Ok((header, data, room))
    }
}

/// Expectation and finding of a problem in an array, without its file and name.
pub type Problem = (String, String);

pub(crate) fn problem<T>(
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Result<T, Problem> {
    Err((expected.into(), found.into()))
}

impl Npz {
    /// Opens an archive.
    ///
    /// # Errors
    /// If the file is missing or not a zip archive.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, NpzError> {
        let path = path.into();
        let file = File::open(&path).at_path(&path)?;
        let archive = Archive::open(BufReader::new(file))
            .map_err(|source| NpzError::Archive { path: path.clone(), source })?;
        Ok(Self { path, archive })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the arrays, sorted.
    pub fn keys(&self) -> Vec<String> {
        self.archive.keys()
    }

    /// Is there an array of this name?
    pub fn has(&self, key: &str) -> bool {
        self.archive.index(key).is_some()
    }

    /// Reads an array.
    ///
    /// # Errors
    /// If it is missing, damaged, pickled, or larger than [`MAX_ARRAY_BYTES`] or than the memory
    /// for input.
    pub fn read(&mut self, key: &str) -> Result<NpyArray, NpzError> {
        let array = self.archive.read(key).and_then(|(header, data, room)| {
            let Header { kind, fortran, shape } = header;
            let array = NpyArray { shape, kind, data, _room: Some(room) };
            if fortran { Ok(array.into_c_order()?) } else { Ok(array) }
        });
        let (path, name) = (self.path.clone(), key.to_owned());
        array.map_err(|unread| match unread {
            Unread::Missing => NpzError::Missing { path, key: name, found: self.keys().join(", ") },
            Unread::Archive(source) => NpzError::Archive { path, source },
            Unread::Array(problem) => self.error(key, problem),
            Unread::NoRoom(source) => NpzError::NoRoom { path, key: name, source },
        })
    }

    /// An error about an array of this file: what was expected and what was found.
    pub fn error(&self, key: &str, (expected, found): Problem) -> NpzError {
        NpzError::Array { path: self.path.clone(), key: key.to_owned(), expected, found }
    }

    /// Reads an array whose shape satisfies `accepts`, described by `expected`.
    ///
    /// # Errors
    /// As [`Npz::read`], and for another shape.
    pub fn read_shaped(
        &mut self,
        key: &str,
        expected: &str,
        accepts: impl Fn(&[usize]) -> bool,
    ) -> Result<NpyArray, NpzError> {
        let array = self.read(key)?;
        if accepts(&array.shape) {
            return Ok(array);
        }
        Err(self.error(key, (expected.to_owned(), format!("shape {:?}", array.shape))))
    }
}

/// What the header of an array says.
#[derive(Debug)]
pub(crate) struct Header {
    kind: Kind,
    pub(crate) fortran: bool,
    pub(crate) shape: Vec<usize>,
}

impl Header {
    /// The bytes of its values, of which `present` are there or promised.
    pub(crate) fn len(&self, present: u64) -> Result<u64, Problem> {
        let bytes = self
            .shape
            .iter()
            .try_fold(self.kind.size as u64, |bytes, &n| bytes.checked_mul(n as u64))
            .filter(|&bytes| bytes <= MAX_ARRAY_BYTES);
        let Some(bytes) = bytes else {
            let found = format!("shape {:?} of {}", self.shape, self.kind);
            return problem(format!("at most {MAX_ARRAY_BYTES} bytes"), found);
        };
        if bytes > present {
            return problem(format!("{bytes} bytes of values"), format!("{present} bytes"));
        }
        Ok(bytes)
    }

    /// The type of its numbers, and whether they are in big-endian order; `None` for byte strings.
    pub(crate) fn numbers(&self) -> Option<(Element, bool)> {
        Some((self.kind.element()?, self.kind.big_endian))
    }
}

/// `expected` bytes of values and no more.
pub(crate) fn exactly(expected: u64, found: u64) -> Result<(), Problem> {
    match found == expected {
        true => Ok(()),
        false => problem(format!("{expected} bytes of values"), "more"),
    }
}

/// Type of the elements: NumPy's kind character, size in bytes and byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    code: char,
    size: usize,
    big_endian: bool,
}

impl Kind {
    fn element(self) -> Option<Element> {
        Some(match (self.code, self.size) {
            ('b' | 'u', 1) => Element::U8,
            ('i', 1) => Element::I8,
            ('u', 2) => Element::U16,
            ('i', 2) => Element::I16,
            ('f', 2) => Element::F16,
            ('u', 4) => Element::U32,
            ('i', 4) => Element::I32,
            ('f', 4) => Element::F32,
            ('u', 8) => Element::U64,
            ('i', 8) => Element::I64,
            ('f', 8) => Element::F64,
            _ => return None,
        })
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "dtype {}{}{}", if self.big_endian { '>' } else { '<' }, self.code, self.size)
    }
}

pub(crate) fn read_header(stream: &mut impl Read) -> Result<Header, Problem> {
    let (mut start, mut len) = ([0; 8], [0; 4]);
    let mut bytes = |buffer: &mut [u8]| {
        stream.read_exact(buffer).or_else(|e| problem("an npy header", e.to_string()))
    };
    bytes(&mut start)?;
    match start.strip_prefix(MAGIC) {
        Some([1, _]) => bytes(&mut len[..2])?,
        Some([2 | 3, _]) => bytes(&mut len)?,
        Some([version, ..]) => return problem("npy version 1 to 3", format!("version {version}")),
        _ => return problem("an npy header", "other bytes"),
    }
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_HEADER_BYTES {
        return problem(format!("a header of at most {MAX_HEADER_BYTES} bytes"), len.to_string());
    }
    let mut text = vec![0; len];
    bytes(&mut text)?;
    let Some(fields) = std::str::from_utf8(&text).ok().and_then(parse_header) else {
        let found: String = String::from_utf8_lossy(&text).trim().chars().take(80).collect();
        return problem("a plain descr, fortran_order and shape", format!("{found:?}"));
    };
    let HeaderFields { descr, fortran_order, shape } = fields;
    if shape.len() > MAX_AXES {
        return problem(format!("at most {MAX_AXES} axes"), shape.len().to_string());
    }
    Ok(Header { kind: parse_kind(&descr)?, fortran: fortran_order, shape })
}

/// The header of an array as its text has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderFields {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

/// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`, a literal of Python (in old
/// files with numbers such as `2L`), as the JSON that it almost is.
fn parse_header(text: &str) -> Option<HeaderFields> {
    const TO_JSON: [(&str, &str); 10] = [
        ("'", "\""),
        ("L,", ","),
        ("L)", ")"),
        (",)", ")"),
        ("(", "["),
        (")", "]"),
        (", }", "}"),
        (",}", "}"),
        ("True", "true"),
        ("False", "false"),
    ];
    let json = TO_JSON.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    serde_json::from_str(&json).ok()
}

/// The header of an array of little-endian values in C order (version 1.0), padded to 64 bytes.
pub fn npy_header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let lens: String = shape.iter().map(|len| format!("{len}, ")).collect();
    let lens = if shape.len() > 1 { lens.trim_end_matches(", ") } else { lens.trim_end() };
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({lens}), }}");
    let len = (11 + text.len()).next_multiple_of(64) - 10;
    let text = format!("{text:<0$}\n", len - 1);
    [MAGIC, &[1, 0], &(len as u16).to_le_bytes(), text.as_bytes()].concat()
}

/// An array of NumPy in a file, of values in C order.
pub fn npy(descr: &str, shape: &[usize], values: &[u8]) -> Vec<u8> {
    [&npy_header(descr, shape), values].concat()
}

/// An archive of NumPy of such arrays.
///
/// # Errors
/// If it is larger than archives can be.
pub fn npz(arrays: &[(&str, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        zip.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default())?;
        zip.write_all(bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}

fn parse_kind(descr: &str) -> Result<Kind, Problem> {
    let mut chars = descr.chars();
    let big_endian = match chars.next() {
        Some('>') => true,
        Some('<' | '|' | '=') => false,
        _ => return problem("a plain dtype", format!("dtype {descr}")),
    };
    let code = chars.next().unwrap_or(' ');
    let size = chars.as_str().parse().unwrap_or(0);
    let kind = Kind { code, size, big_endian };
    let known = match code {
        'b' => size == 1,
        'i' | 'u' => matches!(size, 1 | 2 | 4 | 8),
        'f' => matches!(size, 2 | 4 | 8),
        'S' => (1..=1 << 10).contains(&size),
        'O' => return problem("plain values", "pickled Python objects, which are never read"),
        _ => false,
    };
    if known { Ok(kind) } else { problem("bool, int, float or bytes", format!("dtype {descr}")) }
}

/// An array in C order (the last axis runs fastest).
#[derive(Debug)]
pub struct NpyArray {
    shape: Vec<usize>,
    kind: Kind,
    data: Vec<u8>,
    /// That of the data of a whole array of a file.
    _room: Option<Room>,
}

impl NpyArray {
    /// Length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements `range`, counted in C order, as an array with one axis.
    ///
    /// # Panics
    /// If the range does not lie within the array.
    pub fn elements(&self, range: Range<usize>) -> Self {
        let (kind, len) = (self.kind, range.len());
        let bytes = range.start * kind.size..range.end * kind.size;
        Self { shape: vec![len], kind, data: self.data[bytes].to_vec(), _room: None }
    }

    /// Are the elements booleans or unsigned bytes?
    pub fn is_bytes(&self) -> bool {
        self.kind.size == 1 && matches!(self.kind.code, 'b' | 'u')
    }

    /// The elements of an array of bytes or booleans, else `None`.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.is_bytes().then_some(self.data.as_slice())
    }

    /// Numbers of any kind as `f64`, else `None`. Integers beyond 2⁵³ are rounded.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        let element = self.kind.element()?;
        Some(self.words().map(|word| element.value(word)).collect())
    }

    /// Integers and booleans as `i64`, else `None` (so too if one is 2⁶³ or more).
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        match self.kind.code {
            'b' | 'u' => {
                self.words().map(|word| u64::from_le_bytes(word).try_into().ok()).collect()
            }
            'i' => {
                let unused = 64 - 8 * self.kind.size;
                let signed = |word| i64::from_le_bytes(word) << unused >> unused;
                Some(self.words().map(signed).collect())
            }
            _ => None,
        }
    }

    /// The numbers, each of up to 8 bytes, least significant first, with zeros behind.
    fn words(&self) -> impl Iterator<Item = [u8; 8]> + '_ {
        let (size, big_endian) = (self.kind.size, self.kind.big_endian);
        self.data.chunks_exact(size).map(move |bytes| {
            let mut word = [0; 8];
            word[..size].copy_from_slice(bytes);
            if big_endian {
                word[..size].reverse();
            }
            word
        })
    }

    /// Byte strings without their zero padding as text, else `None`.
    pub fn to_strings(&self) -> Option<Vec<String>> {
        if self.kind.code != 'S' {
            return None;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        Some(self.data.chunks_exact(self.kind.size).map(text).collect())
    }

    /// The array whose `data` are in Fortran order (the first axis runs fastest), in C order.
    fn into_c_order(self) -> Result<Self, NoRoom> {
        let size = self.kind.size;
        let room = memory::take(self.data.len() as u64)?;
        let mut data = Vec::with_capacity(self.data.len());
        let mut index = vec![0; self.shape.len()];
        for _ in 0..self.data.len() / size {
            let offset = index.iter().zip(&self.shape).rev().fold(0, |at, (i, n)| at * n + i);
            data.extend_from_slice(&self.data[offset * size..(offset + 1) * size]);
            for (i, n) in index.iter_mut().zip(&self.shape).rev() {
                *i += 1;
                if *i < *n {
                    break;
                }
                *i = 0;
            }
        }
        Ok(Self { data, _room: Some(room), ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(header: &str, data: &[u8]) -> Result<NpyArray, Problem> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        read_npy(&bytes)
    }

    fn read_npy(bytes: &[u8]) -> Result<NpyArray, Problem> {
        let mut rest = bytes;
        let header = read_header(&mut rest)?;
        exactly(header.len(rest.len() as u64)?, rest.len() as u64)?;
        let Header { kind, fortran, shape } = header;
        let array = NpyArray { shape, kind, data: rest.to_vec(), _room: None };
        Ok(if fortran { array.into_c_order().unwrap() } else { array })
    }

    #[test]
    fn byte_orders_and_axis_orders_are_understood() {
        let header = "{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }  \n";
        let array = npy(header, &[0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 0xff, 0xfa]).unwrap();
        assert_eq!(array.shape(), [2, 3]);
        assert_eq!(array.to_i64().unwrap(), [1, 2, 3, 4, 5, -6]);
        let header = r#"{"shape": (), "fortran_order": False, "descr": "<f4"}"#;
        assert_eq!(npy(header, &1.5f32.to_le_bytes()).unwrap().to_f64().unwrap(), [1.5]);
        let header = "{'descr': '|S3', 'fortran_order': False, 'shape': (2L,)}";
        assert_eq!(npy(header, b"CA\0CB\0").unwrap().to_strings().unwrap(), ["CA", "CB"]);
    }

    #[test]
    fn hostile_headers_are_refused() {
        let header = |descr: &str, shape: &str| {
            format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}")
        };
        for (descr, shape) in [
            ("'<f4'", "(18446744073709551615, 18446744073709551615)"),
            ("'<f4'", "(4294967296, 4294967296)"),
            ("'<f4'", "(1000000, 1000)"),
            ("'<f4'", "(-1,)"),
            ("'<f4'", "(2.5,)"),
            ("'<f4'", "((((((("),
            ("'|O'", "(1,)"),
            ("'<f16'", "(1,)"),
            ("'<c8'", "(1,)"),
            ("'|S99999999999999999999'", "(1,)"),
            ("'<U4'", "(1,)"),
            ("[('a', '<f4')]", "(1,)"),
            ("''", "(1,)"),
            ("'é'", "(1,)"),
        ] {
            assert!(npy(&header(descr, shape), &[0; 64]).is_err(), "{descr} {shape}");
        }
        for bad in ["", "{}", "{'descr'", "{'descr': '<f4'}", "{'fortran_order': Tru", "{é: 1}"] {
            assert!(npy(bad, &[0; 64]).is_err(), "{bad}");
        }
        let good = header("'<f4'", "(2,)");
        assert!(npy(&good, &[0; 8]).is_ok());
        assert!(npy(&good, &[0; 7]).is_err(), "too short");
        assert!(npy(&good, &[0; 9]).is_err(), "too long");
        // As slow as axes times values, and NumPy has no such array.
        let axes = header("'<f4'", &format!("({}2)", "1, ".repeat(64)));
        assert_eq!(npy(&axes, &[0; 8]).unwrap_err().0, "at most 64 axes");
        let huge = [b"\x93NUMPY\x02\x00".as_slice(), &u32::MAX.to_le_bytes()].concat();
        assert!(read_npy(&huge).is_err());
    }
}
