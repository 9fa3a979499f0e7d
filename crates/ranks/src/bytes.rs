//! Numbers and lists of bytes as bytes.

use std::ops::AddAssign;

/// Numbers that ranks add up.
pub trait Number: Copy + AddAssign {
    /// The same numbers as one of the types that there are.
    fn numbers(values: &mut [Self]) -> Numbers<'_>;

    /// Their bytes, little-endian.
    fn to_bytes(values: &[Self]) -> Vec<u8>;

    /// The numbers of bytes; what is left over at the end is not read.
    fn of_bytes(bytes: &[u8]) -> Vec<Self>;
}

/// Numbers of any of the types that ranks add up.
#[derive(Debug)]
pub enum Numbers<'a> {
    /// Numbers of 32 bits.
    F32(&'a mut [f32]),
    /// Numbers of 64 bits.
    F64(&'a mut [f64]),
}

macro_rules! number {
    ($type:ty, $size:literal, $kind:ident) => {
        impl Number for $type {
            fn numbers(values: &mut [Self]) -> Numbers<'_> {
                Numbers::$kind(values)
            }

            fn to_bytes(values: &[Self]) -> Vec<u8> {
                values.iter().flat_map(|value| value.to_le_bytes()).collect()
            }

            fn of_bytes(bytes: &[u8]) -> Vec<Self> {
                let (chunks, _) = bytes.as_chunks::<$size>();
                chunks.iter().map(|chunk| Self::from_le_bytes(*chunk)).collect()
            }
        }
    };
}

number!(f32, 4, F32);
number!(f64, 8, F64);

/// Several lists of bytes in one: each after its length.
pub(crate) fn pack(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(parts.iter().map(|part| 8 + part.len()).sum());
    for part in parts {
        packed.extend((part.len() as u64).to_le_bytes());
        packed.extend(part);
    }
    packed
}

/// What [`pack`] packed.
pub(crate) fn unpack(mut packed: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut parts = vec![];
    while !packed.is_empty() {
        let (length, rest) = packed.split_first_chunk::<8>()?;
        let (part, rest) = rest.split_at_checked(u64::from_le_bytes(*length).try_into().ok()?)?;
        parts.push(part.to_vec());
        packed = rest;
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_bytes_come_out_as_they_went_in() {
        for parts in [vec![], vec![vec![]], vec![vec![1, 2], vec![], vec![3; 300]]] {
            let packed = pack(&parts);
            assert_eq!(unpack(&packed).unwrap(), parts);
            for cut in 1..packed.len() {
                assert_ne!(unpack(&packed[..cut]), Some(parts.clone()));
            }
        }
        assert_eq!(unpack(&[255; 9]), None);
    }

    #[test]
    fn numbers_keep_their_bits() {
        let values = [1.5, -0.0, f64::NAN, f64::MIN_POSITIVE];
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&f64::of_bytes(&f64::to_bytes(&values))), bits(&values));
        assert_eq!(f32::of_bytes(&f32::to_bytes(&[0.1, 7.0])), [0.1, 7.0]);
    }
}
