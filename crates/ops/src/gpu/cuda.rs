//! Routines on a GPU: kernels compiled by NVRTC when first used, launched on the stream of the device.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUdevice_attribute, CUfunction_attribute_enum,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaView, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::sys::nvrtcVersion;
use candle_core::cuda_backend::cudarc::nvrtc::{
    CompileError, CompileOptions, compile_ptx_with_opts,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice};
use candle_core::{CudaStorage, Error, Layout, Result, WithDType};
use half::bf16;

use super::cache::{self, Cache};
use super::routine::{
    Arg, Buffer, Call, DEVICE, Element, KernelText, Limits, Routine, Slot, nvrtc_options,
};

/// A parameter that is a struct of ints, no larger than this.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ints([i32; 32]);

// SAFETY: plain ints in a repr(C) array, which a kernel parameter may be copied from.
#[allow(unsafe_code)]
unsafe impl DeviceRepr for Ints {}

pub(crate) type Argument<'a> = (&'a CudaStorage, &'a Layout);

/// The result of a routine, on the device of its arguments.
pub(crate) fn launch(
    routine: &Routine,
    inputs: &[Argument<'_>],
    op: &'static str,
) -> Result<CudaStorage> {
    match routine.element {
        Element::F32 => launch_as::<f32, f32>(routine, inputs, op),
        Element::F64 => launch_as::<f64, f64>(routine, inputs, op),
        Element::Bf16 => launch_as::<bf16, f32>(routine, inputs, op),
    }
}

fn attribute(device: &CudaDevice, attribute: CUdevice_attribute) -> Result<usize> {
    let value = device.cuda_stream().context().attribute(attribute).map_err(Error::wrap)?;
    Ok(value as usize)
}

pub(crate) fn limits(device: &CudaDevice) -> Result<Limits> {
    use CUdevice_attribute::*;
    let of = |wanted| attribute(device, wanted);
    Ok(Limits {
        multiprocessors: of(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_per_block: of(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        shared_per_multiprocessor: of(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
        // Compute capability 8.0 brought TF32.
        tf32: crate::tf32::tf32_is_permitted()
            && of(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? >= 8,
    })
}

/// The compiled form of a text for the architecture of a device.
fn compiled(source: &KernelText, device: &CudaDevice) -> Result<Arc<str>> {
    static PTX: LazyLock<Cache> = LazyLock::new(Cache::default);
    static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(cache::folder);
    // A driver may refuse what a later compiler gives than the one that is there.
    static COMPILER: LazyLock<String> = LazyLock::new(|| {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: NVRTC writes two numbers.
        #[allow(unsafe_code)]
        let _ = unsafe { nvrtcVersion(&raw mut major, &raw mut minor) };
        format!("nvrtc{major}.{minor}-{}", env!("CARGO_PKG_VERSION"))
    });
    use CUdevice_attribute as A;
    let major = attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(device, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let name = format!("{:016x}-{major}{minor}-{}.ptx", source.key, *COMPILER);
    PTX.get(FOLDER.as_deref(), &name, || {
        let options = nvrtc_options(&format!("compute_{major}{minor}")).into();
        let options = CompileOptions { options, ..CompileOptions::default() };
        let text = format!("{DEVICE}{}", source.text);
        let ptx = compile_ptx_with_opts(text, options).map_err(|error| match error {
            CompileError::CompileError { log, .. } => Error::msg(log.to_string_lossy()),
            other => Error::wrap(other),
        })?;
        Ok(ptx.to_src())
    })
}

/// The elements of a contiguous argument.
pub(super) fn view<'a, T: CudaDType>(
    argument: Argument<'a>,
    op: &'static str,
) -> Result<CudaView<'a, T>> {
    let (storage, layout) = argument;
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| Error::RequiresContiguous { op }.bt())?;
    Ok(storage.as_cuda_slice::<T>()?.slice(start..end))
}

/// A routine of tensors of `T` whose arithmetic is of `R`.
fn launch_as<T: CudaDType + DeviceRepr, R: CudaDType + DeviceRepr + WithDType>(
    routine: &Routine,
    inputs: &[Argument<'_>],
    op: &'static str,
) -> Result<CudaStorage> {
    enum Held<'a, T, R> {
        Input(CudaView<'a, T>),
        Bytes(CudaSlice<u8>),
        Ints(CudaSlice<i32>),
        Reals(CudaSlice<R>),
        Doubles(CudaSlice<f64>),
        Output(CudaSlice<T>),
    }
    let device = inputs[0].0.device();
    let mut inputs = inputs.iter();
    let hold = |buffer: &Buffer| -> Result<Held<'_, T, R>> {
        Ok(match buffer {
            Buffer::Input(_) => {
                let input = inputs.next().ok_or_else(|| Error::msg("an argument is missing"))?;
                Held::Input(view(*input, op)?)
            }
            Buffer::Ints(values) => Held::Ints(device.clone_htod(values)?),
            Buffer::Reals(values) => {
                let values: Vec<R> = values.iter().map(|&v| R::from_f64(v)).collect();
                Held::Reals(device.clone_htod(&values)?)
            }
            Buffer::Doubles(values) => Held::Doubles(device.clone_htod(values)?),
            // SAFETY: kernels write scratch and results before they read them, which the tests on the
            // host check with buffers of NaN.
            #[allow(unsafe_code)]
            Buffer::Scratch(bytes) => Held::Bytes(unsafe { device.alloc(*bytes)? }),
            #[allow(unsafe_code)]
            // SAFETY: as above.
            Buffer::Output { len, real: true } => Held::Reals(unsafe { device.alloc(*len)? }),
            #[allow(unsafe_code)]
            // SAFETY: as above.
            Buffer::Output { len, real: false } => Held::Output(unsafe { device.alloc(*len)? }),
        })
    };
    let held: Vec<Held<'_, T, R>> = routine.buffers.iter().map(hold).collect::<Result<_>>()?;
    let stream = &device.cuda_stream();
    let pointer = |held: &Held<'_, T, R>| match held {
        Held::Input(view) => view.device_ptr(stream).0,
        Held::Bytes(slice) => slice.device_ptr(stream).0,
        Held::Ints(slice) => slice.device_ptr(stream).0,
        Held::Reals(slice) => slice.device_ptr(stream).0,
        Held::Doubles(slice) => slice.device_ptr(stream).0,
        Held::Output(slice) => slice.device_ptr(stream).0,
    };
    let pointers: Vec<u64> = held.iter().map(pointer).collect();
    for call in &routine.calls {
        start(call, &pointers, device)?;
    }
    let result =
        held.into_iter().zip(&routine.buffers).find_map(|(held, buffer)| match (held, buffer) {
            (Held::Output(out), _) => Some(CudaStorage::wrap_cuda_slice(out, device.clone())),
            (Held::Reals(out), Buffer::Output { .. }) => {
                Some(CudaStorage::wrap_cuda_slice(out, device.clone()))
            }
            _ => None,
        });
    result.ok_or_else(|| Error::msg("a routine without a result"))
}

fn start(call: &Call, pointers: &[u64], device: &CudaDevice) -> Result<()> {
    enum Value {
        Pointer(u64),
        I32(i32),
        I64(i64),
        Ints(Ints),
    }
    let value = |arg: &Arg| match arg {
        Arg::Buffer(Slot(slot)) => Value::Pointer(pointers[*slot]),
        Arg::Null => Value::Pointer(0),
        Arg::I32(v) => Value::I32(*v),
        Arg::I64(v) => Value::I64(*v),
        Arg::Ints(v) => {
            let mut ints = [0; 32];
            ints[..v.len()].copy_from_slice(v);
            Value::Ints(Ints(ints))
        }
    };
    let values: Vec<Value> = call.args.iter().map(value).collect();
    // The text is a kernel's identity; so is its hash, for the device's table of modules.
    let module = format!("steer3d-{:016x}", call.source.key);
    let ptx = compiled(&call.source, device)?;
    let function = device.get_or_load_custom_func(call.function, &module, &ptx)?;
    if call.shared_bytes > 48 << 10 {
        let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, call.shared_bytes as i32).map_err(Error::wrap)?;
    }
    let mut builder = function.builder();
    for value in &values {
        match value {
            Value::Pointer(v) => builder.arg(v),
            Value::I32(v) => builder.arg(v),
            Value::I64(v) => builder.arg(v),
            Value::Ints(v) => builder.arg(v),
        };
    }
    let [x, y, z] = call.grid;
    let config = LaunchConfig {
        grid_dim: (x, y, z),
        block_dim: (call.block, 1, 1),
        shared_mem_bytes: call.shared_bytes as u32,
    };
    // SAFETY: the arguments have the types of the kernel's parameters and buffers the sizes that it
    // uses: the tests on the host run the same calls with guards around every buffer.
    #[allow(unsafe_code)]
    unsafe {
        builder.launch(config).map_err(Error::wrap)?;
    }
    Ok(())
}
