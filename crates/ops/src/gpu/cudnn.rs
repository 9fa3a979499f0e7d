//! The dense convolution of NVIDIA's cuDNN.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;

use super::dynamic::dynamic_library;
use super::routine::Element;

/// A handle or a descriptor.
type Object = *mut c_void;

/// Most bytes that an algorithm may ask for.
const WORKSPACE_MAX: usize = 1 << 30;

/// What is computed of input, filter and output, of the other two in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// The output.
    Forward,
    /// The gradient of the input, of filter and output gradient.
    InputGradient,
    /// The gradient of the filter, of input and output gradient.
    WeightGradient,
}

/// A convolution of contiguous tensors N,C,D,H,W.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convolution {
    pub(crate) pass: Pass,
    pub(crate) input: [usize; 5],
    /// C_out,C_in,kd,kh,kw.
    pub(crate) filter: [usize; 5],
    pub(crate) output: [usize; 5],
    pub(crate) padding: [usize; 3],
    pub(crate) stride: [usize; 3],
}

impl Convolution {
    /// Elements of the result.
    #[cfg(feature = "cudnn")]
    fn result_len(&self) -> usize {
        let result = match self.pass {
            Pass::Forward => self.output,
            Pass::InputGradient => self.input,
            Pass::WeightGradient => self.filter,
        };
        result.iter().product()
    }
}

impl Pass {
    /// Algorithms that take sums in an order of their own, so that two runs give the same bits, best first: the
    /// implicit products with and without precomputed indices, and the `ALGO_1` of the gradients.
    fn algorithms(self) -> &'static [c_uint] {
        match self {
            Self::Forward => &[1, 0],
            Self::InputGradient | Self::WeightGradient => &[1],
        }
    }
}

type Create = unsafe extern "C" fn(*mut Object) -> c_int;
type Destroy = unsafe extern "C" fn(Object) -> c_int;
/// Handle; descriptors of two arguments, the convolution and the result; algorithm.
type Size =
    unsafe extern "C" fn(Object, Object, Object, Object, Object, c_uint, *mut usize) -> c_int;
/// Handle; factor; descriptor and values of two arguments; convolution; algorithm; workspace and its bytes; factor of
/// what the result was; its descriptor and values.
type Run = unsafe extern "C" fn(
    Object,
    *const c_void,
    Object,
    *const c_void,
    Object,
    *const c_void,
    Object,
    c_uint,
    *mut c_void,
    usize,
    *const c_void,
    Object,
    *mut c_void,
) -> c_int;

dynamic_library! { Cudnn, "cuDNN 9";
    version: b"cudnnGetVersion\0", unsafe extern "C" fn() -> usize;
    create: b"cudnnCreate\0", Create;
    set_stream: b"cudnnSetStream\0", unsafe extern "C" fn(Object, *mut c_void) -> c_int;
    create_tensor: b"cudnnCreateTensorDescriptor\0", Create;
    set_tensor: b"cudnnSetTensorNdDescriptor\0",
        unsafe extern "C" fn(Object, c_uint, c_int, *const c_int, *const c_int) -> c_int;
    destroy_tensor: b"cudnnDestroyTensorDescriptor\0", Destroy;
    create_filter: b"cudnnCreateFilterDescriptor\0", Create;
    set_filter: b"cudnnSetFilterNdDescriptor\0",
        unsafe extern "C" fn(Object, c_uint, c_uint, c_int, *const c_int) -> c_int;
    destroy_filter: b"cudnnDestroyFilterDescriptor\0", Destroy;
    create_convolution: b"cudnnCreateConvolutionDescriptor\0", Create;
    set_convolution: b"cudnnSetConvolutionNdDescriptor\0",
        unsafe extern "C" fn(
            Object, c_int, *const c_int, *const c_int, *const c_int, c_uint, c_uint,
        ) -> c_int;
    set_math: b"cudnnSetConvolutionMathType\0", unsafe extern "C" fn(Object, c_uint) -> c_int;
    destroy_convolution: b"cudnnDestroyConvolutionDescriptor\0", Destroy;
    forward_size: b"cudnnGetConvolutionForwardWorkspaceSize\0", Size;
    forward: b"cudnnConvolutionForward\0", Run;
    input_gradient_size: b"cudnnGetConvolutionBackwardDataWorkspaceSize\0", Size;
    input_gradient: b"cudnnConvolutionBackwardData\0", Run;
    weight_gradient_size: b"cudnnGetConvolutionBackwardFilterWorkspaceSize\0", Size;
    weight_gradient: b"cudnnConvolutionBackwardFilter\0", Run;
}

/// A handle, whose work goes to one stream. It is never destroyed: at the end of a program the driver may be gone
/// before it.
#[derive(Debug)]
pub(crate) struct Handle(Object);

// SAFETY: cuDNN lets a handle be used on any thread, by one at a time; it is used through `&mut` only.
#[allow(unsafe_code)]
unsafe impl Send for Handle {}

/// A descriptor, destroyed when dropped.
struct Descriptor {
    object: Object,
    destroy: Destroy,
}

impl Descriptor {
    fn new(create: Create, destroy: Destroy) -> Option<Self> {
        let mut object = null_mut();
        // SAFETY: cuDNN writes one pointer.
        #[allow(unsafe_code)]
        let status = unsafe { create(&raw mut object) };
        (status == 0).then_some(Self { object, destroy })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the object was created by the function that belongs to this one, and is used no more.
        #[allow(unsafe_code)]
        unsafe {
            (self.destroy)(self.object);
        }
    }
}

/// `cudnnDataType_t`.
fn data_type(element: Element) -> c_uint {
    match element {
        Element::F32 => 0,
        Element::F64 => 1,
        Element::Bf16 => 9,
    }
}

/// `cudnnMathType_t`: bf16 multiplies exactly on tensor cores; in f32 these would round the factors to TF32.
fn math_type(element: Element, tf32: bool) -> c_uint {
    const DEFAULT: c_uint = 0;
    const TENSOR_OP: c_uint = 1;
    const FMA: c_uint = 3;
    match element {
        Element::Bf16 => TENSOR_OP,
        Element::F32 if !tf32 => FMA,
        Element::F32 | Element::F64 => DEFAULT,
    }
}

/// Sizes as cuDNN takes them, if there are fewer than 2³¹ elements.
fn ints<const N: usize>(sizes: [usize; N]) -> Option<[c_int; N]> {
    c_int::try_from(sizes.iter().product::<usize>()).ok()?;
    Some(sizes.map(|n| n as c_int))
}

impl Cudnn {
    /// 10000 times the major and 100 times the minor version and the patch level.
    #[cfg_attr(not(feature = "cudnn"), allow(dead_code))]
    pub(crate) fn version(&self) -> usize {
        // SAFETY: it takes nothing and gives a number.
        #[allow(unsafe_code)]
        unsafe {
            (self.version)()
        }
    }

    /// A handle for a stream of the current context; none where cuDNN cannot use the device.
    ///
    /// # Safety
    /// The stream lives as long as the handle.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn handle(&self, stream: *mut c_void) -> Option<Handle> {
        let mut handle = null_mut();
        // SAFETY: cuDNN writes one pointer, which is then a handle; the caller vouches for the stream.
        unsafe {
            if (self.create)(&raw mut handle) != 0 || (self.set_stream)(handle, stream) != 0 {
                return None;
            }
        }
        Some(Handle(handle))
    }

    fn tensor(&self, sizes: [usize; 5], element: Element) -> Option<Descriptor> {
        let dims = ints(sizes)?;
        let mut strides = [1; 5];
        for axis in (0..4).rev() {
            strides[axis] = strides[axis + 1] * dims[axis + 1];
        }
        let tensor = Descriptor::new(self.create_tensor, self.destroy_tensor)?;
        let (dims, strides) = (dims.as_ptr(), strides.as_ptr());
        // SAFETY: both arrays have five elements.
        #[allow(unsafe_code)]
        let status =
            unsafe { (self.set_tensor)(tensor.object, data_type(element), 5, dims, strides) };
        (status == 0).then_some(tensor)
    }

    fn filter(&self, sizes: [usize; 5], element: Element) -> Option<Descriptor> {
        const NCHW: c_uint = 0;
        let dims = ints(sizes)?;
        let filter = Descriptor::new(self.create_filter, self.destroy_filter)?;
        let data_type = data_type(element);
        // SAFETY: the array has five elements.
        #[allow(unsafe_code)]
        let status = unsafe { (self.set_filter)(filter.object, data_type, NCHW, 5, dims.as_ptr()) };
        (status == 0).then_some(filter)
    }

    fn convolution(
        &self,
        convolution: &Convolution,
        element: Element,
        tf32: bool,
    ) -> Option<Descriptor> {
        const CROSS_CORRELATION: c_uint = 1;
        let (padding, stride) = (ints(convolution.padding)?, ints(convolution.stride)?);
        let compute = if element == Element::F64 { Element::F64 } else { Element::F32 };
        let made = Descriptor::new(self.create_convolution, self.destroy_convolution)?;
        // SAFETY: the arrays have three elements.
        #[allow(unsafe_code)]
        let status = unsafe {
            (self.set_convolution)(
                made.object,
                3,
                padding.as_ptr(),
                stride.as_ptr(),
                [1, 1, 1].as_ptr(),
                CROSS_CORRELATION,
                data_type(compute),
            )
        };
        // SAFETY: a descriptor and a number.
        #[allow(unsafe_code)]
        let math = unsafe { (self.set_math)(made.object, math_type(element, tf32)) };
        (status == 0 && math == 0).then_some(made)
    }

    /// Computes `convolution` of the first two buffers into the third, with the workspace that `allocate` gives for a
    /// number of bytes. None where cuDNN does not: the result is then undefined.
    ///
    /// # Safety
    /// The buffers have the sizes of the convolution, live on the device of the handle, and the workspace lives
    /// until what is on the stream now is done.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn run(
        &self,
        handle: &mut Handle,
        convolution: &Convolution,
        element: Element,
        tf32: bool,
        [a, b, out]: [u64; 3],
        mut allocate: impl FnMut(usize) -> Option<u64>,
    ) -> Option<()> {
        let Convolution { pass, input, filter, output, .. } = *convolution;
        let [input, output] = [self.tensor(input, element)?, self.tensor(output, element)?];
        let filter = self.filter(filter, element)?;
        let described = self.convolution(convolution, element, tf32)?;
        let (objects, size, run) = match pass {
            Pass::Forward => ([&input, &filter, &output], self.forward_size, self.forward),
            Pass::InputGradient => {
                ([&filter, &output, &input], self.input_gradient_size, self.input_gradient)
            }
            Pass::WeightGradient => {
                ([&input, &output, &filter], self.weight_gradient_size, self.weight_gradient)
            }
        };
        let [of_a, of_b, of_out] = objects.map(|descriptor| descriptor.object);
        let (double, single) = ([1f64, 0.0], [1f32, 0.0]);
        let factor = |i: usize| match element {
            Element::F64 => (&raw const double[i]).cast::<c_void>(),
            Element::F32 | Element::Bf16 => (&raw const single[i]).cast(),
        };
        for &algorithm in pass.algorithms() {
            let (handle, convolution, mut bytes) = (handle.0, described.object, 0);
            // SAFETY: live descriptors; cuDNN writes one number.
            let status =
                unsafe { size(handle, of_a, of_b, convolution, of_out, algorithm, &raw mut bytes) };
            if status != 0 || bytes > WORKSPACE_MAX {
                continue;
            }
            let workspace = if bytes == 0 { 0 } else { allocate(bytes)? };
            // SAFETY: live descriptors; the caller vouches for the buffers, and the workspace has the size asked for.
            let status = unsafe {
                run(
                    handle,
                    factor(0),
                    of_a,
                    a as *const c_void,
                    of_b,
                    b as *const c_void,
                    convolution,
                    algorithm,
                    workspace as *mut c_void,
                    bytes,
                    factor(1),
                    of_out,
                    out as *mut c_void,
                )
            };
            if status == 0 {
                return Some(());
            }
        }
        None
    }
}

#[cfg(feature = "cudnn")]
pub(crate) use on_device::{convolve, version};

#[cfg(feature = "cudnn")]
mod on_device {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, LazyLock, Mutex};

    use candle_core::CudaStorage;
    use candle_core::backend::BackendStorage;
    use candle_core::cuda_backend::CudaDType;
    use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr};
    use half::bf16;

    use super::super::cuda::{Argument, view};
    use super::{Convolution, Cudnn, Element, Handle};

    const NAMES: [&str; 3] = ["libcudnn.so.9", "libcudnn.so", "cudnn64_9.dll"];

    static CUDNN: LazyLock<Option<Cudnn>> = LazyLock::new(|| Cudnn::load(&NAMES));

    /// A handle for each GPU and stream, which lives as long; none where cuDNN refused it.
    type Handles = HashMap<(usize, usize), (Arc<CudaStream>, Option<Handle>)>;
    static HANDLES: LazyLock<Mutex<Handles>> = LazyLock::new(Mutex::default);

    static LAUNCHES: AtomicU64 = AtomicU64::new(0);

    /// The version of the library and how many convolutions it has computed.
    pub(crate) fn version() -> Option<(usize, u64)> {
        CUDNN.as_ref().map(|cudnn| (cudnn.version(), LAUNCHES.load(Ordering::Relaxed)))
    }

    /// The result of a convolution of the first two of `inputs`; none where cuDNN is not there or does not compute it.
    pub(crate) fn convolve(
        convolution: &Convolution,
        tf32: bool,
        inputs: &[Argument<'_>],
    ) -> Option<CudaStorage> {
        let element = Element::of(inputs[0].0.dtype(), "conv3d").ok()?;
        match element {
            Element::F32 => of::<f32>(convolution, element, tf32, inputs),
            Element::F64 => of::<f64>(convolution, element, tf32, inputs),
            Element::Bf16 => of::<bf16>(convolution, element, tf32, inputs),
        }
    }

    fn of<T: CudaDType + DeviceRepr>(
        convolution: &Convolution,
        element: Element,
        tf32: bool,
        inputs: &[Argument<'_>],
    ) -> Option<CudaStorage> {
        let (cudnn, device) = (CUDNN.as_ref()?, inputs[0].0.device());
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().ok()?;
        let mut handles = HANDLES.lock().ok()?;
        let place = handles.entry((stream.context().ordinal(), stream.cu_stream() as usize));
        let (_, handle) = place.or_insert_with(|| {
            // SAFETY: the map keeps the stream, whose context is current.
            #[allow(unsafe_code)]
            let handle = unsafe { cudnn.handle(stream.cu_stream().cast()) };
            (Arc::clone(&stream), handle)
        });
        let handle = handle.as_mut()?;
        let [a, b] = [view::<T>(inputs[0], "conv3d").ok()?, view::<T>(inputs[1], "conv3d").ok()?];
        // SAFETY: cuDNN writes the whole result, whose old values it is told to take none of.
        #[allow(unsafe_code)]
        let out: CudaSlice<T> = unsafe { device.alloc(convolution.result_len()).ok()? };
        let pointers =
            [a.device_ptr(&stream).0, b.device_ptr(&stream).0, out.device_ptr(&stream).0];
        let mut workspaces: Vec<CudaSlice<u8>> = vec![];
        let allocate = |bytes: usize| {
            // SAFETY: cuDNN writes a workspace before it reads it.
            #[allow(unsafe_code)]
            let workspace = unsafe { device.alloc(bytes).ok()? };
            workspaces.push(workspace);
            workspaces.last().map(|workspace| workspace.device_ptr(&stream).0)
        };
        // SAFETY: the buffers are as large as the convolution says and of this device; what frees them and the
        // workspace comes after this on the stream.
        #[allow(unsafe_code)]
        unsafe {
            cudnn.run(handle, convolution, element, tf32, pointers, allocate)?;
        }
        LAUNCHES.fetch_add(1, Ordering::Relaxed);
        Some(CudaStorage::wrap_cuda_slice(out, device.clone()))
    }
}

/// The calls, by a library that computes on the host.
#[cfg(test)]
pub(crate) mod host {
    use std::ffi::c_void;
    use std::sync::Mutex;

    use candle_core::Tensor;
    use libloading::Library;

    use super::super::host::{
        ALL, GUARD, available, bytes_of, compile, guarded, held, values, values_of,
    };
    use super::{Convolution, Cudnn, Element, Handle, Pass};

    const STREAM: *mut c_void = 0x5eed as *mut c_void;

    /// What the library gives for a call with these arguments, whose elements are of type `element`.
    fn run(
        cudnn: &Cudnn,
        handle: &mut Handle,
        convolution: &Convolution,
        [a, b]: [&[f64]; 2],
        len: usize,
        element: Element,
        tf32: bool,
    ) -> Vec<f64> {
        let out = vec![0xff; bytes_of(&[0.0], element).len() * len];
        let bytes = [bytes_of(a, element), bytes_of(b, element), out];
        let mut buffers = bytes.each_ref().map(|bytes| guarded(bytes, bytes.len()));
        let before = buffers.clone();
        let start = |buffer: &mut Vec<u64>| buffer.as_mut_ptr() as u64 + GUARD as u64;
        let pointers = buffers.each_mut().map(start);
        let (mut workspace, mut length) = (vec![], 0);
        let allocate = |bytes: usize| {
            (workspace, length) = (guarded(&[], bytes), bytes);
            workspace[GUARD / 8..][..bytes.div_ceil(8)].fill(0);
            Some(start(&mut workspace))
        };
        // SAFETY: host memory of the sizes of the convolution, for a library that computes on the host.
        #[allow(unsafe_code)]
        let done = unsafe { cudnn.run(handle, convolution, element, tf32, pointers, allocate) };
        assert!(done.is_some(), "{element:?}");
        assert!(buffers[..2] == before[..2], "an argument was written to");
        // All of the workspace was written to and nothing beside it.
        assert!(length > 0 && workspace == guarded(&[], length));
        let bytes: Vec<u8> = buffers[2].iter().flat_map(|w| w.to_le_bytes()).collect();
        let end = GUARD + bytes_of(&[0.0], element).len() * len;
        assert!(bytes[..GUARD].iter().chain(&bytes[end..]).all(|b| *b == 0xff));
        values_of(&bytes[GUARD..end], element)
    }

    /// The library itself, which describes without a GPU.
    #[test]
    fn cudnn_takes_the_descriptors() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/cuda/lib64/libcudnn.so.9");
        let Some(cudnn) = Cudnn::load(&[folder, "libcudnn.so.9"]) else {
            eprintln!("skipped: no libcudnn.so.9; scripts/cuda-toolchain --cudnn installs it");
            return;
        };
        assert!(cudnn.version() >= 90000);
        for (stride, padding) in [([1; 3], [2; 3]), ([2, 1, 3], [0, 1, 2])] {
            let convolution = Convolution {
                pass: Pass::Forward,
                input: [2, 3, 10, 11, 12],
                filter: [4, 3, 5, 5, 5],
                output: [2, 4, 10, 11, 12],
                padding,
                stride,
            };
            for (element, _) in ALL {
                assert!(cudnn.tensor(convolution.input, element).is_some());
                assert!(cudnn.filter(convolution.filter, element).is_some());
                for tf32 in [false, true] {
                    assert!(cudnn.convolution(&convolution, element, tf32).is_some());
                }
            }
            assert!(cudnn.tensor([1 << 20, 1 << 12, 1, 1, 1], Element::F32).is_none());
        }
    }

    /// Compares what cuDNN is asked for with what `cpu` computes instead, in f64.
    pub(crate) fn check_calls(
        convolution: &Convolution,
        inputs: [&Tensor; 2],
        cpu: impl Fn([&Tensor; 2]) -> Tensor,
    ) {
        // The library counts its descriptors.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        if !available() {
            return;
        }
        let _alone = ONE_AT_A_TIME.lock();
        let folder = tempfile::tempdir().unwrap();
        let path = compile(include_str!("kernels/cudnn_host.cc"), folder.path());
        assert!(Cudnn::load(&["no-such-library.so"]).is_none());
        let cudnn = Cudnn::load(&["no-such-library.so".as_ref(), path.as_os_str()]).unwrap();
        assert_eq!(cudnn.version(), 92101);
        // SAFETY: the library only compares the stream.
        #[allow(unsafe_code)]
        let mut handle = unsafe { cudnn.handle(STREAM).unwrap() };
        for (element, tolerance) in ALL {
            let held = inputs.map(|x| held(x, element));
            let (p, q) = (values(&held[0]), values(&held[1]));
            let expected = values(&cpu(held.each_ref()));
            let scale = expected.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
            let worst = |found: &[f64]| {
                let differences = found.iter().zip(&expected).map(|(f, e)| (f - e).abs() / scale);
                differences.fold(0.0, f64::max)
            };
            let mut of = |tf32| {
                let (inputs, len) = ([&p[..], &q[..]], expected.len());
                worst(&run(&cudnn, &mut handle, convolution, inputs, len, element, tf32))
            };
            let exact = of(false);
            assert!(exact <= tolerance, "{:?} {element:?}: {exact}", convolution.pass);
            let coarse = of(true);
            assert_eq!(coarse > exact, element == Element::F32, "{coarse}");
        }
        // SAFETY: the function takes nothing and gives a number.
        #[allow(unsafe_code)]
        let live = unsafe {
            let library = Library::new(&path).unwrap();
            library.get::<unsafe extern "C" fn() -> i32>(b"fake_live").unwrap()()
        };
        assert_eq!(live, 0, "descriptors that were not destroyed");
    }
}
