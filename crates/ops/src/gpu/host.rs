//! Routines on the host: their text compiled as C++ against `host.h`, on buffers with guards around them.

use std::collections::HashMap;
use std::ffi::{c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use candle_core::{DType, Tensor};
use libloading::Library;

use super::routine::{Arg, Buffer, Call, Element, Limits, Routine, Slot};

const SHIM: &str = include_str!("kernels/host.h");

/// `HOST_ENTRY` of `host.h`: arguments, grid, threads of a block, bytes of shared memory.
type Entry = unsafe extern "C" fn(*mut *mut c_void, *const c_uint, c_uint, usize);

/// Bytes of NaN before and after each buffer.
pub(crate) const GUARD: usize = 256;

pub(crate) const LIMITS: Limits = Limits {
    multiprocessors: 3,
    shared_per_block: 227 << 10,
    shared_per_multiprocessor: 228 << 10,
    tf32: false,
};

/// A library for each text; kernels have static state, so one launch at a time.
static LIBRARIES: LazyLock<Mutex<HashMap<String, Library>>> = LazyLock::new(Default::default);

fn compiler() -> Option<&'static str> {
    static FOUND: LazyLock<Option<&'static str>> = LazyLock::new(|| {
        let works =
            |c: &&str| Command::new(c).arg("--version").output().is_ok_and(|o| o.status.success());
        ["c++", "g++", "clang++"].into_iter().find(works)
    });
    *FOUND
}

/// Whether kernels can be compiled here; says so if not.
pub(crate) fn available() -> bool {
    if compiler().is_none() {
        eprintln!("skipped: no C++ compiler (c++, g++, clang++) to run kernels on the host");
    }
    cfg!(target_os = "linux") && compiler().is_some()
}

/// Compiles a text to a library in `folder`.
pub(crate) fn compile(text: &str, folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("text.cc"), folder.join("text.so"));
    std::fs::write(&source, text).unwrap();
    let output = Command::new(compiler().unwrap())
        .args(["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-ffp-contract=off", "-o"])
        .arg(&library)
        .arg(&source)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

fn library(text: &str, functions: &[&str]) -> Library {
    let folder = tempfile::tempdir().unwrap();
    let entries: String = functions.iter().map(|f| format!("HOST_ENTRY({f})\n")).collect();
    let text = format!("#define __constant__ static const\n{SHIM}\n{text}\n{entries}");
    let library = compile(&text, folder.path());
    // SAFETY: the library is what was just compiled; it has no initialisers beyond those of C++.
    #[allow(unsafe_code)]
    unsafe {
        Library::new(&library).unwrap()
    }
}

/// Names of the kernels in a text.
fn functions(text: &str) -> Vec<&str> {
    let after = text.split("extern \"C\" __global__ void").skip(1);
    after
        .filter_map(|rest| {
            let rest = rest.trim_start();
            let rest = match rest.strip_prefix("__launch_bounds__(") {
                Some(bounds) => bounds.split_once(')')?.1,
                None => rest,
            };
            Some(rest.split('(').next()?.trim())
        })
        .collect()
}

fn launch(call: &Call, buffers: &mut [Vec<u64>]) {
    let mut libraries = LIBRARIES.lock().unwrap();
    let functions = functions(&call.source.text);
    let library = libraries
        .entry(call.source.text.to_string())
        .or_insert_with(|| library(&call.source.text, &functions));
    let mut values: Vec<Vec<u64>> = call
        .args
        .iter()
        .map(|arg| match arg {
            Arg::Buffer(Slot(slot)) => vec![buffers[*slot].as_mut_ptr() as u64 + GUARD as u64],
            Arg::Null => vec![0],
            Arg::I32(v) => vec![u64::from(*v as u32)],
            Arg::I64(v) => vec![*v as u64],
            Arg::Ints(v) => v
                .chunks(2)
                .map(|p| u64::from(p[0] as u32) | u64::from(*p.get(1).unwrap_or(&0) as u32) << 32)
                .collect(),
        })
        .collect();
    let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| v.as_mut_ptr().cast()).collect();
    let name = format!("host_{}", call.function);
    // SAFETY: the entry has this signature by host.h; the pointers are to live values of the kernel's
    // parameter types, and buffers are as large as the routine says.
    #[allow(unsafe_code)]
    unsafe {
        let entry = library.get::<Entry>(name.as_bytes()).unwrap();
        entry(pointers.as_mut_ptr(), call.grid.as_ptr(), call.block, call.shared_bytes);
    }
}

/// A buffer of `bytes` with guards, all ones (NaN in every type).
pub(crate) fn guarded(bytes: &[u8], len: usize) -> Vec<u64> {
    let mut all = vec![0xff; GUARD];
    all.extend_from_slice(bytes);
    all.resize(GUARD + len.next_multiple_of(8) + GUARD, 0xff);
    all.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
}

pub(crate) fn bytes_of(values: &[f64], element: Element) -> Vec<u8> {
    match element {
        Element::F64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Element::F32 => values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
        Element::Bf16 => {
            values.iter().flat_map(|&v| half::bf16::from_f64(v).to_le_bytes()).collect()
        }
    }
}

pub(crate) fn values_of(bytes: &[u8], element: Element) -> Vec<f64> {
    match element {
        Element::F64 => {
            bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
        }
        Element::F32 => bytes
            .chunks_exact(4)
            .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
            .collect(),
        Element::Bf16 => bytes
            .chunks_exact(2)
            .map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f64())
            .collect(),
    }
}

/// The result of a routine; panics where a kernel writes outside its buffers.
pub(crate) fn run(routine: &Routine, inputs: &[Vec<f64>]) -> Vec<f64> {
    let real = if routine.element == Element::F64 { Element::F64 } else { Element::F32 };
    let size = |element| bytes_of(&[0.0], element).len();
    let mut lengths = vec![];
    let mut result = None;
    let mut inputs = inputs.iter();
    let mut buffers: Vec<Vec<u64>> = vec![];
    for (slot, buffer) in routine.buffers.iter().enumerate() {
        let (bytes, len) = match buffer {
            Buffer::Input(_) => (bytes_of(inputs.next().unwrap(), routine.element), None),
            Buffer::Ints(v) => (v.iter().flat_map(|i| i.to_le_bytes()).collect(), None),
            Buffer::Reals(v) => (bytes_of(v, real), None),
            Buffer::Doubles(v) => (bytes_of(v, Element::F64), None),
            Buffer::Scratch(len) => (vec![], Some(*len)),
            Buffer::Output { len, real: of_real } => {
                let element = if *of_real { real } else { routine.element };
                result = Some((slot, element));
                (vec![], Some(len * size(element)))
            }
        };
        let len = len.unwrap_or(bytes.len());
        lengths.push(len);
        buffers.push(guarded(&bytes, len));
    }
    let before = buffers.clone();
    for call in &routine.calls {
        launch(call, &mut buffers);
    }
    let bytes =
        |buffer: &Vec<u64>| -> Vec<u8> { buffer.iter().flat_map(|w| w.to_le_bytes()).collect() };
    for (slot, (buffer, len)) in buffers.iter().zip(&lengths).enumerate() {
        let (buffer, before) = (bytes(buffer), bytes(&before[slot]));
        let end = GUARD + len;
        assert!(
            buffer[..GUARD] == before[..GUARD] && buffer[end..] == before[end..],
            "buffer {slot} overrun"
        );
        if !matches!(routine.buffers[slot], Buffer::Scratch(_) | Buffer::Output { .. }) {
            assert!(buffer == before, "kernel wrote to buffer {slot}, which it may only read");
        }
    }
    let (slot, element) = result.expect("a routine has a result");
    values_of(&bytes(&buffers[slot])[GUARD..][..lengths[slot]], element)
}

/// Element types with the largest difference over the largest element that a routine may have.
pub(crate) const ALL: [(Element, f64); 3] =
    [(Element::F64, 1e-11), (Element::F32, 2e-5), (Element::Bf16, 2e-2)];

/// What a tensor of elements of this type holds of `x`, in f64.
pub(crate) fn held(x: &Tensor, element: Element) -> Tensor {
    let dtype = match element {
        Element::F64 => DType::F64,
        Element::F32 => DType::F32,
        Element::Bf16 => DType::BF16,
    };
    x.to_dtype(dtype).unwrap().to_dtype(DType::F64).unwrap().contiguous().unwrap()
}

pub(crate) fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}
