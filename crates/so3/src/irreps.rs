//! Irreps of SO(3) and O(3), and direct sums of them with multiplicities ("16x0+8x1+4x2").
//!
//! Without parity an irrep is one of SO(3). With parity, `e` (even) or `o` (odd), it is one of
//! O(3): the inversion -1 acts as +1 or -1, so that D(-R) = p D(R). The harmonics Y_l are
//! "0e", "1o", "2e", ...; a pseudovector is "1e".

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use nalgebra::{DMatrix, Matrix3};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rotations::{RotationError, split_improper};
use crate::{L_MAX, Parity, Rotation, wigner};

/// Largest multiplicity of one block.
pub const MULTIPLICITY_MAX: usize = 1 << 16;

/// Largest dimension of an [`Irreps`].
pub const DIM_MAX: usize = 1 << 20;

/// An irreducible representation: of SO(3), or of O(3) when it has a parity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Irrep {
    /// Degree; the dimension is 2l+1.
    pub l: usize,
    /// `None` for an irrep of SO(3).
    pub parity: Option<Parity>,
}

impl Irrep {
    /// The irrep of SO(3) of degree `l`.
    pub fn so3(l: usize) -> Self {
        Self { l, parity: None }
    }

    /// The irrep of O(3) of degree `l` and the given parity.
    pub fn o3(l: usize, parity: Parity) -> Self {
        Self { l, parity: Some(parity) }
    }

    /// Returns the dimension 2l+1, the number of components of one field.
    pub fn dim(self) -> usize {
        2 * self.l + 1
    }

    /// Returns the matrix (2l+1, 2l+1) by which components turn under an orthogonal matrix, which may be a
    /// reflection: D(-R) = p D(R) with the parity p = ±1.
    ///
    /// # Errors
    /// If the matrix is not orthogonal, or is a reflection while the irrep has no parity.
    ///
    /// # Panics
    /// If `l` is above [`L_MAX`].
    pub fn matrix(self, matrix: &Matrix3<f64>) -> Result<DMatrix<f64>, RotationError> {
        let (rotation, inversion) = split_improper(matrix)?;
        let sign = self.sign_under(inversion)?;
        Ok(wigner::wigner_d(self.l, &rotation) * sign)
    }

    /// Factor of a rotation (even) or a rotation times the inversion (odd).
    fn sign_under(self, inversion: Parity) -> Result<f64, RotationError> {
        match (inversion, self.parity) {
            (Parity::Even, _) => Ok(1.0),
            (Parity::Odd, Some(parity)) => Ok(parity.sign()),
            (Parity::Odd, None) => Err(RotationError::NoParity { l: self.l }),
        }
    }
}

impl fmt::Display for Irrep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.l)?;
        match self.parity {
            None => Ok(()),
            Some(Parity::Even) => write!(f, "e"),
            Some(Parity::Odd) => write!(f, "o"),
        }
    }
}

/// `mul` copies of one irrep inside an [`Irreps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Multiplicity.
    pub mul: usize,
    /// The irrep.
    pub irrep: Irrep,
    /// First channel of the block.
    pub offset: usize,
}

impl Block {
    /// Number of channels of the block, mul (2l+1).
    pub fn dim(&self) -> usize {
        self.mul * self.irrep.dim()
    }
}

/// A direct sum of irreps with multiplicities: the type of a field with [`dim`](Self::dim)
/// channels.
///
/// Channel layout: component m = -l..=l of copy u of a block is channel
/// `offset + u (2l+1) + l + m`. Blocks keep the order in which they are given.
///
/// The text form is a sum of `<multiplicity>x<l>[e|o]`; a missing multiplicity means 1. Either
/// all terms carry a parity (O(3)) or none does (SO(3)). l is at most [`L_MAX`], a multiplicity
/// at most [`MULTIPLICITY_MAX`], the dimension at most [`DIM_MAX`].
///
/// ```
/// use steer3d_so3::Irreps;
/// let irreps: Irreps = "16x0 + 8x1 + 2".parse()?;
/// assert_eq!(irreps.to_string(), "16x0+8x1+1x2");
/// assert_eq!(irreps.dim(), 16 + 8 * 3 + 5);
/// # Ok::<(), steer3d_so3::IrrepsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Irreps(Vec<(usize, Irrep)>);

/// Why irreps could not be built or parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IrrepsError {
    /// The text form has a mistake at one character.
    #[error(
        "irreps \"{text}\", column {column}: {problem}; write a sum such as 16x0+8x1 or 16x0e+8x1o"
    )]
    Parse {
        /// The text that was parsed.
        text: String,
        /// Column of the offending character, counted in characters from 1.
        column: usize,
        /// What was expected and found there.
        problem: String,
    },
    /// No block at all.
    #[error("irreps have no block; give at least one, such as 1x0")]
    Empty,
    /// A multiplicity of 0 or above [`MULTIPLICITY_MAX`].
    #[error("multiplicity {mul} of l = {l} is outside 1..={MULTIPLICITY_MAX}")]
    Multiplicity {
        /// The multiplicity.
        mul: usize,
        /// Degree of its irrep.
        l: usize,
    },
    /// A degree above [`L_MAX`].
    #[error(transparent)]
    Degree(#[from] crate::DegreeError),
    /// The sum of all block dimensions is above [`DIM_MAX`].
    #[error("irreps have more than {DIM_MAX} channels; lower the multiplicities")]
    TooLarge,
    /// Terms with and without parity in one sum.
    #[error("irreps mix terms with and without parity; give e or o to all of them or to none")]
    MixedParity,
}

impl IrrepsError {
    /// The text with a caret under the offending character, in two lines; `None` when the error
    /// does not stem from a text.
    pub fn caret(&self) -> Option<String> {
        match self {
            Self::Parse { text, column, .. } => Some(format!("{text}\n{:>column$}", '^')),
            _ => None,
        }
    }
}

impl Irreps {
    /// The direct sum of `mul` copies of each irrep, in the given order.
    ///
    /// # Errors
    /// If there is no block, a multiplicity is 0 or too large, a degree is above [`L_MAX`], the
    /// dimension is above [`DIM_MAX`] or only some irreps have a parity.
    pub fn new(blocks: impl IntoIterator<Item = (usize, Irrep)>) -> Result<Self, IrrepsError> {
        let blocks: Vec<_> = blocks.into_iter().collect();
        let Some(&(_, first)) = blocks.first() else {
            return Err(IrrepsError::Empty);
        };
        let mut dim = 0;
        for &(mul, irrep) in &blocks {
            if mul == 0 || mul > MULTIPLICITY_MAX {
                return Err(IrrepsError::Multiplicity { mul, l: irrep.l });
            }
            crate::check_degree(irrep.l)?;
            if irrep.parity.is_some() != first.parity.is_some() {
                return Err(IrrepsError::MixedParity);
            }
            dim += mul * irrep.dim();
            if dim > DIM_MAX {
                return Err(IrrepsError::TooLarge);
            }
        }
        Ok(Self(blocks))
    }

    /// Returns the number of channels, the sum of mul (2l+1) over all blocks.
    pub fn dim(&self) -> usize {
        self.0.iter().map(|(mul, irrep)| mul * irrep.dim()).sum()
    }

    /// The blocks with their channel offsets, in order.
    pub fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        self.0.iter().scan(0, |next, &(mul, irrep)| {
            let offset = *next;
            *next += mul * irrep.dim();
            Some(Block { mul, irrep, offset })
        })
    }

    /// Returns the number of irreducible fields, the sum of all multiplicities.
    pub fn num_fields(&self) -> usize {
        self.0.iter().map(|(mul, _)| mul).sum()
    }

    /// Returns the largest degree of all blocks.
    pub fn lmax(&self) -> usize {
        self.0.iter().map(|(_, irrep)| irrep.l).max().unwrap_or(0)
    }

    /// Whether the irreps are of O(3), that is, carry parities.
    pub fn has_parity(&self) -> bool {
        self.0.iter().any(|(_, irrep)| irrep.parity.is_some())
    }

    /// The same representation with blocks sorted by degree, even before odd, and equal irreps
    /// merged.
    ///
    /// # Errors
    /// If a merged multiplicity is above [`MULTIPLICITY_MAX`].
    pub fn sorted(&self) -> Result<Self, IrrepsError> {
        let mut blocks = self.0.clone();
        blocks.sort_by_key(|&(_, irrep)| irrep);
        blocks.dedup_by(|next, kept| {
            let equal = next.1 == kept.1;
            if equal {
                kept.0 += next.0;
            }
            equal
        });
        Self::new(blocks)
    }

    /// Returns the block-diagonal matrix (dim, dim) by which the channels turn under a rotation. Parities play
    /// no part: a rotation is proper.
    pub fn wigner_d(&self, rotation: &Rotation) -> DMatrix<f64> {
        let by_degree = wigner::wigner_d_all(self.lmax(), rotation);
        let Ok(full) = self.block_diagonal(|irrep| Ok::<_, Infallible>(by_degree[irrep.l].clone()));
        full
    }

    /// Returns the block-diagonal matrix (dim, dim) by which the channels turn under an orthogonal matrix, which
    /// may be a reflection: D(-R) = p D(R) with the parity p = ±1 of each irrep.
    ///
    /// # Errors
    /// If the matrix is not orthogonal, or is a reflection while the irreps have no parity.
    pub fn matrix(&self, matrix: &Matrix3<f64>) -> Result<DMatrix<f64>, RotationError> {
        let (rotation, inversion) = split_improper(matrix)?;
        let by_degree = wigner::wigner_d_all(self.lmax(), &rotation);
        self.block_diagonal(|irrep| Ok(&by_degree[irrep.l] * irrep.sign_under(inversion)?))
    }

    fn block_diagonal<E>(
        &self,
        matrix: impl Fn(Irrep) -> Result<DMatrix<f64>, E>,
    ) -> Result<DMatrix<f64>, E> {
        let mut full = DMatrix::zeros(self.dim(), self.dim());
        for block in self.blocks() {
            let d = matrix(block.irrep)?;
            for u in 0..block.mul {
                let start = block.offset + u * d.nrows();
                full.view_mut((start, start), d.shape()).copy_from(&d);
            }
        }
        Ok(full)
    }
}

impl fmt::Display for Irreps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (mul, irrep)) in self.0.iter().enumerate() {
            let plus = if i == 0 { "" } else { "+" };
            write!(f, "{plus}{mul}x{irrep}")?;
        }
        Ok(())
    }
}

impl FromStr for Irreps {
    type Err = IrrepsError;

    fn from_str(text: &str) -> Result<Self, IrrepsError> {
        let mut parser = Parser { text, position: 0, with_parity: None };
        let mut blocks = Vec::new();
        loop {
            blocks.push(parser.term()?);
            match parser.peek() {
                None => break,
                Some('+') => parser.bump(),
                Some(_) => return Err(parser.error("expected '+' or the end")),
            }
        }
        Self::new(blocks)
    }
}

/// Cursor over the text form; `position` is a byte offset, `with_parity` what the first term has.
struct Parser<'a> {
    text: &'a str,
    position: usize,
    with_parity: Option<bool>,
}

impl Parser<'_> {
    /// The next character after white space.
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.position..];
        self.position += rest.len() - rest.trim_start().len();
        self.text[self.position..].chars().next()
    }

    fn bump(&mut self) {
        let rest = &self.text[self.position..];
        self.position += rest.chars().next().map_or(0, char::len_utf8);
    }

    fn error(&self, problem: &str) -> IrrepsError {
        let found = match self.text[self.position..].chars().next() {
            Some(c) => format!("'{c}'"),
            None => "the end".to_owned(),
        };
        self.error_at(self.position, format!("{problem}, found {found}"))
    }

    fn error_at(&self, position: usize, problem: String) -> IrrepsError {
        let column = self.text[..position].chars().count() + 1;
        IrrepsError::Parse { text: self.text.to_owned(), column, problem }
    }

    fn term(&mut self) -> Result<(usize, Irrep), IrrepsError> {
        self.peek();
        let start = self.position;
        let first = self.number()?;
        let (mul, l, l_start) = match self.peek() {
            Some('x') => {
                self.bump();
                self.peek();
                let l_start = self.position;
                (first, self.number()?, l_start)
            }
            _ => (1, first, start),
        };
        if mul == 0 || mul > MULTIPLICITY_MAX {
            let problem = format!("multiplicity {mul} is outside 1..={MULTIPLICITY_MAX}");
            return Err(self.error_at(start, problem));
        }
        if l > L_MAX {
            let problem = format!("l = {l} is above the supported maximum {L_MAX}");
            return Err(self.error_at(l_start, problem));
        }
        let parity = match self.text[self.position..].chars().next() {
            Some('e') => Some(Parity::Even),
            Some('o') => Some(Parity::Odd),
            _ => None,
        };
        match (self.with_parity.get_or_insert(parity.is_some()), parity) {
            (true, None) => return Err(self.error("expected e or o, as in the first term")),
            (false, Some(_)) => {
                return Err(self.error("expected no parity, as in the first term"));
            }
            (true, Some(_)) => self.bump(),
            (false, None) => {}
        }
        Ok((mul, Irrep { l, parity }))
    }

    fn number(&mut self) -> Result<usize, IrrepsError> {
        let rest = &self.text[self.position..];
        let digits =
            &rest[..rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len()];
        if digits.is_empty() {
            return Err(self.error("expected a non-negative integer"));
        }
        let number = digits
            .parse()
            .map_err(|_| self.error_at(self.position, format!("{digits} is too large")))?;
        self.position += digits.len();
        Ok(number)
    }
}

impl Serialize for Irreps {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Irreps {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
