//! The operations as CUDA kernels: what is launched, on which buffers, with which sizes, independent of any
//! device. `cuda` runs it on a GPU; in tests `host` runs the same text as C++.

pub(crate) mod cache;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(test, feature = "cudnn"))]
pub(crate) mod cudnn;
#[cfg(any(test, feature = "cudnn", feature = "nccl"))]
mod dynamic;
#[cfg(test)]
pub(crate) mod host;
#[cfg(any(test, feature = "nccl"))]
pub(crate) mod nccl;
pub(crate) mod separable;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use candle_core::{DType, Result, Shape};

use crate::fields::Span;

#[cfg(feature = "cuda")]
pub(crate) use cuda::run;

const COMMON: &str = include_str!("kernels/common.cuh");

/// What stands before a text on a device, as `host.h` on the host.
const DEVICE: &str = include_str!("kernels/device.h");

/// Threads of a block, where nothing else decides.
pub(crate) const BLOCK: u32 = 256;

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
            other => Err(candle_core::Error::UnsupportedDTypeForOp(other, op).bt()),
        }
    }

    /// Bytes of a number in arithmetic.
    pub(crate) fn real_bytes(self) -> usize {
        if self == Self::F64 { 8 } else { 4 }
    }

    fn prelude(self) -> String {
        let name = match self {
            Self::F32 => "F32",
            Self::F64 => "F64",
            Self::Bf16 => "BF16",
        };
        format!("#define ELEMENT_{name}\n{COMMON}\n")
    }
}

/// Options of NVRTC for a GPU (`compute_90` for text of Hopper, `sm_90` for its machine code).
#[cfg(any(test, feature = "cuda"))]
fn nvrtc_options(architecture: &str) -> [String; 3] {
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
pub(crate) struct Source {
    pub(crate) text: Arc<str>,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    key: u64,
}

impl Source {
    pub(crate) fn new(text: String) -> Self {
        let mut hasher = DefaultHasher::new();
        (DEVICE, &text).hash(&mut hasher);
        Self { text: text.into(), key: hasher.finish() }
    }
}

macro_rules! sources {
    ($($name:ident: $file:literal;)*) => {
        $(pub(crate) fn $name(element: Element) -> Source {
            static SOURCES: LazyLock<[Source; 3]> = LazyLock::new(|| {
                [Element::F32, Element::F64, Element::Bf16].map(|element| {
                    Source::new(element.prelude() + include_str!(concat!("kernels/", $file)))
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
pub(crate) struct Slot(usize);

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

impl From<Slot> for Arg {
    fn from(slot: Slot) -> Self {
        Self::Buffer(slot)
    }
}

impl From<Option<Slot>> for Arg {
    fn from(slot: Option<Slot>) -> Self {
        slot.map_or(Self::Null, Self::Buffer)
    }
}

impl From<usize> for Arg {
    fn from(value: usize) -> Self {
        Self::I32(i32::try_from(value).unwrap_or(i32::MAX))
    }
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<Vec<i32>> for Arg {
    fn from(values: Vec<i32>) -> Self {
        Self::Ints(values)
    }
}

/// Memory of a routine.
#[derive(Clone, Debug)]
pub(crate) enum Buffer {
    /// A contiguous argument of the operation, in order.
    Input,
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
    pub(crate) source: Source,
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
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) calls: Vec<Call>,
}

/// An operation that has a routine.
pub(crate) trait OnGpu {
    /// Name for messages.
    const OP: &'static str;

    /// What cuDNN is asked for instead, with the first two arguments, where it is there; a third one is then added
    /// to every channel of its result.
    #[cfg(any(test, feature = "cudnn"))]
    fn convolution(&self) -> Option<cudnn::Convolution> {
        None
    }

    /// The routine for contiguous arguments of these shapes, and the shape of its result.
    fn routine(
        &self,
        shapes: &[&Shape],
        element: Element,
        limits: Limits,
    ) -> Result<(Routine, Shape)>;
}

macro_rules! args {
    ($($arg:expr),* $(,)?) => { vec![$($crate::gpu::Arg::from($arg)),*] };
}
pub(crate) use args;

impl Routine {
    /// A routine of `inputs` arguments, which are slots 0, 1, ...
    pub(crate) fn new(element: Element, inputs: usize) -> (Self, Vec<Slot>) {
        let buffers = vec![Buffer::Input; inputs];
        (Self { element, buffers, calls: vec![] }, (0..inputs).map(Slot).collect())
    }

    fn push(&mut self, buffer: Buffer) -> Slot {
        self.buffers.push(buffer);
        Slot(self.buffers.len() - 1)
    }

    pub(crate) fn output(&mut self, len: usize) -> Slot {
        self.push(Buffer::Output { len, real: false })
    }

    /// A result in the type of the arithmetic.
    pub(crate) fn real_output(&mut self, len: usize) -> Slot {
        self.push(Buffer::Output { len, real: true })
    }

    pub(crate) fn ints(&mut self, values: impl IntoIterator<Item = usize>) -> Slot {
        self.push(Buffer::Ints(values.into_iter().map(|v| v as i32).collect()))
    }

    /// First channel and number of channels of each field; there are no empty buffers.
    pub(crate) fn spans(&mut self, fields: &[Span]) -> Slot {
        self.ints(fields.iter().flat_map(|f| [f.offset, f.dim]).chain([0]))
    }

    /// Places, −1 for `None`.
    pub(crate) fn places(&mut self, values: impl IntoIterator<Item = Option<usize>>) -> Slot {
        let values = values.into_iter().map(|v| v.map_or(-1, |v| v as i32));
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

    pub(crate) fn call(&mut self, call: Call) {
        self.calls.push(call);
    }
}

impl Call {
    /// One block.
    pub(crate) fn new(source: Source, function: &'static str, args: Vec<Arg>) -> Self {
        Self { source, function, grid: [1; 3], block: BLOCK, shared_bytes: 0, args }
    }

    pub(crate) fn grid(self, x: usize, y: usize) -> Self {
        Self { grid: [x as u32, y as u32, 1], ..self }
    }

    /// Threads that loop over `count` elements.
    pub(crate) fn over(self, count: usize) -> Self {
        self.over_rows(count, 1)
    }

    /// Threads that loop over `count` elements, for each of `rows`.
    pub(crate) fn over_rows(self, count: usize, rows: usize) -> Self {
        let x = (count as u64).div_ceil(u64::from(BLOCK)).clamp(1, BLOCKS) as u32;
        Self { grid: [x, rows.min(65535) as u32, 1], ..self }
    }

    pub(crate) fn block(self, threads: usize, shared_bytes: usize) -> Self {
        Self { block: threads as u32, shared_bytes, ..self }
    }

    /// Shared memory for a [`BLOCK`]'s sum of doubles.
    pub(crate) fn summing(self) -> Self {
        Self { shared_bytes: 8 * BLOCK as usize, ..self }
    }
}

/// Sums over the values of each of `fields`, in shares (arguments of the launch from the slot of the sums), and
/// then their totals (arguments from the slot of the sums and the number of shares).
pub(crate) fn sum_over_fields(
    routine: &mut Routine,
    sums: (&'static str, &dyn Fn(Slot) -> Vec<Arg>),
    totals: (&'static str, &dyn Fn(Slot, usize) -> Vec<Arg>),
    count: usize,
    values: usize,
    limits: Limits,
) {
    let wanted = (4 * limits.multiprocessors).div_ceil(count.max(1));
    let shares = wanted.clamp(1, values.div_ceil(BLOCK as usize * 8).max(1));
    let partial = routine.scratch_bytes(16 * count * shares);
    let source = fields(routine.element);
    routine.call(Call::new(source.clone(), sums.0, sums.1(partial)).grid(shares, count).summing());
    routine.call(Call::new(source, totals.0, totals.1(partial, shares)).over(count));
}

#[cfg(test)]
mod tests {
    use std::ffi::{CString, c_char, c_int, c_void};
    use std::path::PathBuf;
    use std::ptr::{null, null_mut};

    use libloading::Library;
    use steer3d_kernels::{Family, KernelBasis, SeparablePlan};
    use steer3d_so3::Irreps;

    use super::dynamic::dynamic_library;
    use super::separable::{Use, kernels};
    use super::*;

    const HOPPER: Limits = Limits {
        multiprocessors: 132,
        shared_per_block: 227 << 10,
        shared_per_multiprocessor: 228 << 10,
        tf32: true,
    };

    dynamic_library! { Nvrtc, "NVRTC 13";
        create: b"nvrtcCreateProgram\0",
            unsafe extern "C" fn(
                *mut Object, *const c_char, *const c_char, c_int, *const c_void, *const c_void,
            ) -> c_int;
        compile: b"nvrtcCompileProgram\0",
            unsafe extern "C" fn(Object, c_int, *const *const c_char) -> c_int;
        log_size: b"nvrtcGetProgramLogSize\0", unsafe extern "C" fn(Object, *mut usize) -> c_int;
        log: b"nvrtcGetProgramLog\0", unsafe extern "C" fn(Object, *mut c_char) -> c_int;
        destroy: b"nvrtcDestroyProgram\0", unsafe extern "C" fn(*mut Object) -> c_int;
    }

    type Object = *mut c_void;

    impl Nvrtc {
        /// The status and what the compiler said.
        #[allow(unsafe_code)]
        fn compiled(&self, text: &str, architecture: &str) -> (c_int, String) {
            let text = CString::new(text).unwrap();
            let options = nvrtc_options(architecture).map(|o| CString::new(o).unwrap());
            let pointers = options.each_ref().map(|o| o.as_ptr());
            let (mut program, mut bytes) = (null_mut(), 0);
            // SAFETY: strings that end with 0 and live longer than the calls; NVRTC writes a pointer, a number, and a
            // text of that many bytes, which is destroyed last.
            unsafe {
                let created =
                    (self.create)(&raw mut program, text.as_ptr(), null(), 0, null(), null());
                assert_eq!(created, 0);
                let status = (self.compile)(program, pointers.len() as c_int, pointers.as_ptr());
                assert_eq!((self.log_size)(program, &raw mut bytes), 0);
                let mut log = vec![0u8; bytes];
                assert_eq!((self.log)(program, log.as_mut_ptr().cast()), 0);
                assert_eq!((self.destroy)(&raw mut program), 0);
                (status, String::from_utf8_lossy(&log).trim_matches(['\0', '\n']).into())
            }
        }
    }

    /// The compiler of .tools/cuda, or one that the loader finds, with what it takes by name alone.
    fn nvrtc() -> Option<(Nvrtc, Option<Library>)> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.tools/cuda/lib64");
        // SAFETY: the initialisers of NVIDIA's libraries ask nothing of the program.
        #[allow(unsafe_code)]
        let builtins = unsafe { Library::new(folder.join("libnvrtc-builtins.so.13.0")).ok() };
        let nvrtc = Nvrtc::load(&[folder.join("libnvrtc.so.13"), "libnvrtc.so.13".into()])?;
        Some((nvrtc, builtins))
    }

    fn plan(irreps: &str, size: usize, order: usize) -> SeparablePlan {
        let irreps: Irreps = irreps.parse().unwrap();
        let family = Family::jets(order);
        let basis = KernelBasis::new(&irreps, &irreps, size, &family, [1.0; 3]).unwrap();
        SeparablePlan::new(&basis, &family).unwrap().unwrap()
    }

    /// The texts of all kernels, and those of some plans, with names for their files.
    fn texts() -> Vec<(String, Source)> {
        const ELEMENTS: [Element; 3] = [Element::F32, Element::F64, Element::Bf16];
        let mut texts = vec![];
        for element in ELEMENTS {
            let all = [fields(element), space(element), shares(element), dense(element)];
            for (name, source) in ["fields", "space", "shares", "dense"].into_iter().zip(all) {
                texts.push((format!("{name}-{element:?}"), source));
            }
        }
        let plans = [
            ("16x0+16x1+16x2", 5, 3, 1, &ELEMENTS[..]),
            ("16x0+16x1+16x2", 7, 4, 1, &ELEMENTS[..1]),
            ("3x0+2x1+5x0+1x3", 3, 2, 2, &ELEMENTS[..]),
            ("40x0+16x1", 5, 1, 1, &ELEMENTS[..1]),
        ];
        for (irreps, size, order, stride, elements) in plans {
            let plan = plan(irreps, size, order);
            for &element in elements {
                for using in [Use::Mix, Use::MixTf32, Use::Contract] {
                    if (using, element) == (Use::MixTf32, Element::F64) {
                        continue;
                    }
                    let made = kernels(&plan, stride == 2, using, stride, element, HOPPER);
                    for (i, kernel) in made.unwrap().into_iter().enumerate() {
                        let name = format!("{irreps}-{size}-{order}-{using:?}-{element:?}-{i}");
                        texts.push((name, kernel.source));
                    }
                }
            }
        }
        texts
    }

    /// By the compiler and with the options that a GPU gets, down to machine code of the oldest with TF32 and without
    /// a warning. The texts go to the folder `STEER3D_KERNELS`, if it is set.
    #[test]
    fn every_kernel_compiles_for_a_gpu() {
        let Some((nvrtc, _builtins)) = nvrtc() else {
            eprintln!("skipped: no libnvrtc.so.13; scripts/cuda-toolchain .tools/cuda installs it");
            return;
        };
        let kept = std::env::var_os("STEER3D_KERNELS").map(PathBuf::from);
        for (name, source) in texts() {
            let text = format!("{DEVICE}{}", source.text);
            if let Some(folder) = &kept {
                std::fs::write(folder.join(format!("{name}.cu")), &text).unwrap();
            }
            assert_eq!(nvrtc.compiled(&text, "sm_80"), (0, String::new()), "{name}");
        }
        let (status, said) = nvrtc.compiled("__global__ void f() { g(); }", "sm_80");
        assert!(status != 0 && said.contains("\"g\" is undefined"), "{status} {said}");
    }
}
