//! All kernels by the compiler that a GPU gets.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr::{null, null_mut};

use libloading::Library;
use steer3d_kernels::{Family, KernelBasis, SeparablePlan};
use steer3d_so3::Irreps;

use crate::gpu::dynamic::dynamic_library;
use crate::gpu::routine::{DEVICE, nvrtc_options};
use crate::gpu::{Element, KernelText, Limits, dense, fields, shares, space};
use crate::separable::{Use, Variant, kernels};

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
            let created = (self.create)(&raw mut program, text.as_ptr(), null(), 0, null(), null());
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
fn texts() -> Vec<(String, KernelText)> {
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
                let exchanged = stride == 2;
                let variant = Variant { using, exchanged, stride, element, limits: HOPPER };
                let made = kernels(&plan, variant);
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
