//! What an operation does on a GPU: kernels, buffers and launches.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use candle_core::{DType, Error, Result};

use crate::fields::Span;

const COMMON: &str = include_str!("kernels/common.cuh");

/// What stands before a text on a device, as `host.h` on the host.
pub(crate) const DEVICE: &str = include_str!("kernels/device.h");

/// Threads of a block, where nothing else decides.
const BLOCK: u32 = 256;

/// Most blocks along the first axis of a grid whose threads loop over elements.
const BLOCKS: u64 = 1 << 16;

/// Element type of tensors; bf16 is computed with in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Element {
    F32,
    F64,
    Bf16,
}

impl Element {
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) fn of(dtype: DType, op: &'static str) -> Result<Self> {
        match dtype {
            DType::F32 => Ok(Self::F32),
            DType::F64 => Ok(Self::F64),
            DType::BF16 => Ok(Self::Bf16),
            other => Err(Error::UnsupportedDTypeForOp(other, op).bt()),
        }
    }

    /// Bytes of a number in arithmetic.
    pub(crate) fn real_bytes(self) -> usize {
        if self == Self::F64 { 8 } else { 4 }
    }

    pub(crate) fn prelude(self) -> String {
        let name = match self {
            Self::F32 => "F32",
            Self::F64 => "F64",
            Self::Bf16 => "BF16",
        };
        format!("#define ELEMENT_{name}\n{COMMON}\n")
    }
}

/// Options of NVRTC for a GPU (`compute_90` for text of Hopper, `sm_90` for its machine code).
pub(crate) fn nvrtc_options(architecture: &str) -> [String; 3] {
    [
        format!("--gpu-architecture={architecture}"),
        "--std=c++17".into(),
        "--device-as-default-execution-space".into(),
    ]
}

/// What a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Limits {
    pub(crate) multiprocessors: usize,
    /// Bytes of shared memory.
    pub(crate) shared_per_block: usize,
    pub(crate) shared_per_multiprocessor: usize,
    /// Whether tensor cores may multiply f32 rounded to TF32.
    pub(crate) tf32: bool,
}

/// The text of one or more kernels.
#[derive(Clone, Debug)]
pub(crate) struct KernelText {
    pub(crate) text: Arc<str>,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) key: u64,
}

impl KernelText {
    pub(crate) fn new(text: String) -> Self {
        let mut hasher = DefaultHasher::new();
        (DEVICE, &text).hash(&mut hasher);
        Self { text: text.into(), key: hasher.finish() }
    }
}

macro_rules! sources {
    ($($name:ident: $file:literal;)*) => {
        $(pub(crate) fn $name(element: Element) -> KernelText {
            static SOURCES: LazyLock<[KernelText; 3]> = LazyLock::new(|| {
                [Element::F32, Element::F64, Element::Bf16].map(|element| {
                    KernelText::new(element.prelude() + include_str!(concat!("kernels/", $file)))
                })
            });
            SOURCES[element as usize].clone()
        })*
    };
}

sources! {
    fields: "fields.cu";
    space: "space.cu";
    shares: "shares.cu";
    dense: "dense.cu";
}

/// A place among the buffers of a [`Routine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) usize);

#[derive(Clone, Debug)]
pub(crate) enum Arg {
    Buffer(Slot),
    /// No buffer.
    Null,
    I32(i32),
    I64(i64),
    /// A struct of C ints.
    Ints(Vec<i32>),
}

/// What no size, place or count is: it stands for one that is no 32-bit int, and [`Routine::checked`] refuses it.
const TOO_LARGE: i32 = i32::MIN;

/// A size, place or count as kernels take it.
pub(crate) fn int(value: impl TryInto<i32>) -> i32 {
    value.try_into().unwrap_or(TOO_LARGE)
}

macro_rules! impl_arg {
    ($($type:ty: $value:ident => $arg:expr;)*) => {
        $(impl From<$type> for Arg {
            fn from($value: $type) -> Self {
                $arg
            }
        })*
    };
}

impl_arg! {
    Slot: slot => Self::Buffer(slot);
    Option<Slot>: slot => slot.map_or(Self::Null, Self::Buffer);
    usize: value => Self::I32(int(value));
    i64: value => Self::I64(value);
    Vec<i32>: values => Self::Ints(values);
}

/// Memory of a routine.
#[derive(Clone, Debug)]
pub(crate) enum Buffer {
    /// A contiguous argument of the operation, in order, of this many elements.
    Input(usize),
    Ints(Vec<i32>),
    /// In the type of the arithmetic.
    Reals(Vec<f64>),
    Doubles(Vec<f64>),
    /// This many bytes of no defined content.
    Scratch(usize),
    /// The result: this many elements of the tensors' type, or f32 for bf16 where `real`.
    Output {
        len: usize,
        real: bool,
    },
}

/// One launch.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) source: KernelText,
    pub(crate) function: &'static str,
    pub(crate) grid: [u32; 3],
    pub(crate) block: u32,
    pub(crate) shared_bytes: usize,
    pub(crate) args: Vec<Arg>,
}

/// Launches over a table of buffers, one of which is the result.
#[derive(Clone, Debug)]
pub(crate) struct Routine {
    pub(crate) element: Element,
    pub(crate) limits: Limits,
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) calls: Vec<Call>,
}

macro_rules! args {
    ($($arg:expr),* $(,)?) => { vec![$($crate::gpu::routine::Arg::from($arg)),*] };
}
pub(crate) use args;

impl Routine {
    pub(crate) fn new(element: Element, limits: Limits) -> Self {
        Self { element, limits, buffers: vec![], calls: vec![] }
    }

    fn push(&mut self, buffer: Buffer) -> Slot {
        self.buffers.push(buffer);
        Slot(self.buffers.len() - 1)
    }

    pub(crate) fn input(&mut self, len: usize) -> Slot {
        self.push(Buffer::Input(len))
    }

    /// The result, in the type of the arithmetic where `real`.
    pub(crate) fn output(&mut self, len: usize, real: bool) -> Slot {
        self.push(Buffer::Output { len, real })
    }

    /// Elements of an argument or of the result; 0 for others.
    pub(crate) fn len(&self, slot: Slot) -> usize {
        match self.buffers[slot.0] {
            Buffer::Input(len) | Buffer::Output { len, .. } => len,
            _ => 0,
        }
    }

    pub(crate) fn ints(&mut self, values: impl IntoIterator<Item = usize>) -> Slot {
        self.push(Buffer::Ints(values.into_iter().map(int).collect()))
    }

    /// First channel and number of channels of each field; there are no empty buffers.
    pub(crate) fn spans(&mut self, fields: &[Span]) -> Slot {
        self.ints(fields.iter().flat_map(|f| [f.offset, f.dim]).chain([0]))
    }

    /// Places, −1 for `None`.
    pub(crate) fn places(&mut self, values: impl IntoIterator<Item = Option<usize>>) -> Slot {
        let values = values.into_iter().map(|v| v.map_or(-1, int));
        self.push(Buffer::Ints(values.collect()))
    }

    pub(crate) fn reals(&mut self, values: Vec<f64>) -> Slot {
        self.push(Buffer::Reals(values))
    }

    pub(crate) fn doubles(&mut self, values: Vec<f64>) -> Slot {
        self.push(Buffer::Doubles(values))
    }

    pub(crate) fn scratch_bytes(&mut self, bytes: usize) -> Slot {
        self.push(Buffer::Scratch(bytes.max(1)))
    }

    /// `len` numbers of the type of the arithmetic.
    pub(crate) fn scratch(&mut self, len: usize) -> Slot {
        self.scratch_bytes(len * self.element.real_bytes())
    }

    /// The routine, if a GPU can be given its numbers.
    pub(crate) fn checked(self, op: &'static str) -> Result<Self> {
        let in_buffer = |b: &Buffer| matches!(b, Buffer::Ints(v) if v.contains(&TOO_LARGE));
        let in_arg = |arg: &Arg| match arg {
            Arg::I32(value) => *value == TOO_LARGE,
            Arg::Ints(values) => values.contains(&TOO_LARGE),
            _ => false,
        };
        let in_call = |call: &Call| call.args.iter().any(in_arg) || call.grid[0] > i32::MAX as u32;
        if self.buffers.iter().any(in_buffer) || self.calls.iter().any(in_call) {
            let most = i32::MAX;
            let problem =
                format!("{op}: a size above {most}, the most on a GPU; use smaller tensors");
            return Err(Error::Msg(problem));
        }
        Ok(self)
    }

    /// Adds a launch of one block.
    pub(crate) fn call(
        &mut self,
        source: impl FnOnce(Element) -> KernelText,
        function: &'static str,
        args: Vec<Arg>,
    ) -> &mut Call {
        let source = source(self.element);
        self.calls.push(Call {
            source,
            function,
            grid: [1; 3],
            block: BLOCK,
            shared_bytes: 0,
            args,
        });
        let last = self.calls.len() - 1;
        &mut self.calls[last]
    }

    /// Adds sums over the `values` values of each of `count` fields, in shares, and then their totals.
    pub(crate) fn sum_over_fields(
        &mut self,
        (count, values): (usize, usize),
        sums: Launch<'_, Slot>,
        totals: Launch<'_, (Slot, usize)>,
    ) {
        let wanted = (4 * self.limits.multiprocessors).div_ceil(count.max(1));
        let shares = wanted.clamp(1, values.div_ceil(BLOCK as usize * 8).max(1));
        let partial = self.scratch_bytes(16 * count * shares);
        self.call(fields, sums.0, sums.1(partial)).grid(shares, count).summing();
        self.call(fields, totals.0, totals.1((partial, shares))).over(count);
    }
}

/// A kernel and its arguments, from the slot of the sums (and the number of shares).
pub(crate) type Launch<'a, T> = (&'static str, &'a dyn Fn(T) -> Vec<Arg>);

impl Call {
    pub(crate) fn grid(&mut self, x: usize, y: usize) -> &mut Self {
        let [x, y] = [x, y].map(|blocks| u32::try_from(blocks).unwrap_or(u32::MAX));
        self.grid = [x, y, 1];
        self
    }

    /// Threads that loop over `count` elements.
    pub(crate) fn over(&mut self, count: usize) -> &mut Self {
        self.over_rows(count, 1)
    }

    /// Threads that loop over `count` elements, for each of `rows`.
    pub(crate) fn over_rows(&mut self, count: usize, rows: usize) -> &mut Self {
        let x = (count as u64).div_ceil(u64::from(BLOCK)).clamp(1, BLOCKS) as u32;
        self.grid = [x, rows.min(65535) as u32, 1];
        self
    }

    pub(crate) fn block(&mut self, threads: usize, shared_bytes: usize) -> &mut Self {
        (self.block, self.shared_bytes) = (threads as u32, shared_bytes);
        self
    }

    /// Shared memory for a block's sum of doubles.
    pub(crate) fn summing(&mut self) -> &mut Self {
        self.shared_bytes = 8 * BLOCK as usize;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::host::LIMITS;

    fn with(add: impl FnOnce(&mut Routine)) -> Result<Routine> {
        let mut routine = Routine::new(Element::F32, LIMITS);
        add(&mut routine);
        routine.checked("gate")
    }

    #[test]
    fn numbers_that_are_no_ints_of_a_kernel_are_refused() {
        let large = i32::MAX as usize + 1;
        let refused: [&dyn Fn(&mut Routine); 5] = [
            &|r| _ = r.call(fields, "f", args![large]),
            &|r| _ = r.call(fields, "f", args![[1, large].map(int).to_vec()]),
            &|r| _ = r.ints([0, usize::MAX]),
            &|r| _ = r.places([None, Some(large)]),
            &|r| _ = r.call(fields, "f", vec![]).grid(large, 1),
        ];
        for add in refused {
            let text = with(add).unwrap_err().to_string();
            assert!(text.contains("gate: a size above 2147483647"), "{text}");
        }
        let taken = |r: &mut Routine| {
            r.places([None, Some(large - 1)]);
            r.call(fields, "f", args![large - 1, large as i64]).grid(large - 1, 1);
        };
        with(taken).unwrap();
    }
}
