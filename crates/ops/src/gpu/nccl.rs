//! Sums and copies between GPUs by NVIDIA's NCCL. Nothing waits for another rank without a limit.

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};
use std::fmt;
use std::ptr::null_mut;
use std::sync::mpsc::channel;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use candle_core::{Error, Result};

use super::dynamic::dynamic_library;
use super::routine::Element;

/// A communicator.
type Object = *mut c_void;

/// A call that ends a communicator.
type End = unsafe extern "C" fn(Object) -> c_int;

/// `ncclUniqueId`: by what the processes of a communicator find each other.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Id(pub(crate) [u8; 128]);

/// `ncclConfig_t` of NCCL 2.14, which later ones take, too.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

impl Config {
    /// Of communicators whose calls return before they are done, so that they can be given up.
    const NON_BLOCKING: Self =
        Self { size: size_of::<Self>(), magic: 0xcafe_beef, version: 21_400, blocking: 0 };
}

dynamic_library! { Nccl, "NCCL 2.14";
    unique_id: b"ncclGetUniqueId\0", unsafe extern "C" fn(*mut Id) -> c_int;
    init_rank: b"ncclCommInitRankConfig\0",
        unsafe extern "C" fn(*mut Object, c_int, Id, c_int, *mut Config) -> c_int;
    async_error: b"ncclCommGetAsyncError\0", unsafe extern "C" fn(Object, *mut c_int) -> c_int;
    abort: b"ncclCommAbort\0", End;
    destroy: b"ncclCommDestroy\0", End;
    group_start: b"ncclGroupStart\0", unsafe extern "C" fn() -> c_int;
    group_end: b"ncclGroupEnd\0", unsafe extern "C" fn() -> c_int;
    all_reduce: b"ncclAllReduce\0",
        unsafe extern "C" fn(
            *const c_void, *mut c_void, usize, c_uint, c_uint, Object, *mut c_void,
        ) -> c_int;
    reduce: b"ncclReduce\0",
        unsafe extern "C" fn(
            *const c_void, *mut c_void, usize, c_uint, c_uint, c_int, Object, *mut c_void,
        ) -> c_int;
    broadcast: b"ncclBroadcast\0",
        unsafe extern "C" fn(
            *const c_void, *mut c_void, usize, c_uint, c_int, Object, *mut c_void,
        ) -> c_int;
}

/// `ncclSum`.
const SUM: c_uint = 0;

/// `ncclUnhandledCudaError`.
const CUDA_ERROR: c_int = 1;

/// `ncclInProgress`.
const IN_PROGRESS: c_int = 7;

/// How long a thread sleeps at most before it looks again.
const PAUSE: Duration = Duration::from_millis(2);

/// How long the end of communicators may take.
const TO_END: Duration = Duration::from_secs(10);

/// Why GPUs do not exchange tensors; an [`Error::Cuda`] holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NcclError {
    /// `what` fails with this `ncclResult_t`.
    Failed { what: &'static str, status: c_int },
    /// `what` takes longer than that.
    TimedOut { what: &'static str, limit: Duration },
    /// An earlier call has failed.
    GivenUp,
}

impl fmt::Display for NcclError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Failed { what, status } => {
                let reason = match status {
                    1 => "an error of CUDA",
                    2 => "an error of the system",
                    5 => "wrong use, such as two ranks on one GPU",
                    6 => "another rank has ended, or the connection to it broke",
                    _ => "an error of NCCL",
                };
                write!(
                    f,
                    "NCCL: {what} failed with status {status}: {reason}; NCCL_DEBUG=WARN shows more"
                )
            }
            Self::TimedOut { what, limit } => write!(
                f,
                "NCCL: expected the end of {what} within {} s, found none; see whether another rank has ended or a GPU hangs",
                limit.as_secs()
            ),
            Self::GivenUp => f.write_str("NCCL: an earlier call failed"),
        }
    }
}

impl std::error::Error for NcclError {}

impl From<NcclError> for Error {
    fn from(error: NcclError) -> Self {
        Self::Cuda(Box::new(error))
    }
}

fn checked(what: &'static str, status: c_int) -> Result<()> {
    match status {
        0 | IN_PROGRESS => Ok(()),
        _ => Err(NcclError::Failed { what, status }.into()),
    }
}

/// `ncclDataType_t`.
fn data_type(element: Element) -> Result<c_uint> {
    match element {
        Element::F32 => Ok(7),
        Element::F64 => Ok(8),
        Element::Bf16 => Err(Error::msg("NCCL: expected f32 or f64")),
    }
}

impl Nccl {
    /// What [`Communicators::connect`] takes on all ranks.
    pub(crate) fn id(&self) -> Result<Id> {
        let mut id = Id([0; 128]);
        // SAFETY: it writes an id.
        #[allow(unsafe_code)]
        checked("making an id", unsafe { (self.unique_id)(&raw mut id) })?;
        Ok(id)
    }

    /// Makes calls together, on this thread.
    fn grouped(&self, what: &'static str, calls: impl Iterator<Item = c_int>) -> Result<()> {
        // SAFETY: both take nothing.
        #[allow(unsafe_code)]
        unsafe {
            checked(what, (self.group_start)())?;
            let mut statuses: Vec<c_int> = calls.collect();
            statuses.push((self.group_end)());
            statuses.into_iter().try_for_each(|status| checked(what, status))
        }
    }
}

/// Where a device takes part: its communicator and its stream.
#[derive(Clone, Copy, Debug)]
struct Place {
    communicator: Object,
    stream: *mut c_void,
}

/// The communicators of this process, one for each of its devices. Each call is made for all of them and is done when it
/// returns. The first one that fails or takes longer than the limit is the last one.
#[derive(Debug)]
pub(crate) struct Communicators<'a> {
    nccl: &'a Nccl,
    places: Vec<Place>,
    limit: Duration,
    given_up: Cell<bool>,
}

impl Drop for Communicators<'_> {
    fn drop(&mut self) {
        if !self.given_up.get() {
            self.end(self.nccl.destroy);
        }
    }
}

impl<'a> Communicators<'a> {
    /// Connects the ranks from `first` on of `size`, one for each of `streams`, with all others, which ask for it with the
    /// same id. `enter` makes the device of a stream the current one of this thread, if it can.
    pub(crate) fn connect(
        nccl: &'a Nccl,
        id: Id,
        [first, size]: [usize; 2],
        streams: &[*mut c_void],
        limit: Duration,
        enter: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        let what = "the connection of GPUs";
        let mut config = Config::NON_BLOCKING;
        let mut communicators: Vec<Object> = vec![null_mut(); streams.len()];
        let calls = communicators.iter_mut().enumerate().map(|(i, communicator)| {
            if !enter(i) {
                return CUDA_ERROR;
            }
            let (size, rank) = (size as c_int, (first + i) as c_int);
            // SAFETY: it writes a communicator, and takes copies of the id and of the configuration.
            #[allow(unsafe_code)]
            unsafe {
                (nccl.init_rank)(communicator, size, id, rank, &raw mut config)
            }
        });
        let begun = nccl.grouped(what, calls);
        let place = |(communicator, &stream): (Object, &_)| Place { communicator, stream };
        let places = communicators.into_iter().zip(streams).map(place).collect();
        let all = Self { nccl, places, limit, given_up: Cell::new(false) };
        all.settled(begun.and_then(|()| all.wait(what, || Ok(true))))?;
        Ok(all)
    }

    /// Puts the sum of a buffer of each place into `out`, of the first one. `is_done` says whether the streams are.
    ///
    /// # Safety
    /// The buffers have `count` elements, lie on the devices of their places and live until the streams are done.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn sum(
        &self,
        element: Element,
        count: usize,
        buffers: &[u64],
        out: u64,
        is_done: impl Fn() -> Result<bool>,
    ) -> Result<()> {
        let data_type = data_type(element)?;
        self.together("a sum", is_done, |i, Place { communicator, stream }| {
            let to = if i == 0 { out as *mut c_void } else { null_mut() };
            let from = buffers[i] as *const c_void;
            // SAFETY: as the caller says; only the first place has a result.
            unsafe { (self.nccl.reduce)(from, to, count, data_type, SUM, 0, communicator, stream) }
        })
    }

    /// Copies the first buffer, of the first place, to those of the others.
    ///
    /// # Safety
    /// As [`sum`](Self::sum).
    #[allow(unsafe_code)]
    pub(crate) unsafe fn copy(
        &self,
        element: Element,
        count: usize,
        buffers: &[u64],
        is_done: impl Fn() -> Result<bool>,
    ) -> Result<()> {
        let data_type = data_type(element)?;
        self.together("a copy", is_done, |i, Place { communicator, stream }| {
            let (from, to) = (buffers[i] as *const c_void, buffers[i] as *mut c_void);
            // SAFETY: as the caller says; what NCCL reads and writes may be the same buffer.
            unsafe { (self.nccl.broadcast)(from, to, count, data_type, 0, communicator, stream) }
        })
    }

    /// Puts the sum of a buffer of each rank into the second one; this process has one place.
    ///
    /// # Safety
    /// As [`sum`](Self::sum).
    #[allow(unsafe_code)]
    pub(crate) unsafe fn sum_of_ranks(
        &self,
        element: Element,
        count: usize,
        [from, to]: [u64; 2],
        is_done: impl Fn() -> Result<bool>,
    ) -> Result<()> {
        let data_type = data_type(element)?;
        self.together("a sum over ranks", is_done, |_, Place { communicator, stream }| {
            let (from, to) = (from as *const c_void, to as *mut c_void);
            // SAFETY: as the caller says.
            unsafe { (self.nccl.all_reduce)(from, to, count, data_type, SUM, communicator, stream) }
        })
    }

    fn together(
        &self,
        what: &'static str,
        is_done: impl Fn() -> Result<bool>,
        call: impl Fn(usize, Place) -> c_int,
    ) -> Result<()> {
        if self.given_up.get() {
            return Err(NcclError::GivenUp.into());
        }
        let calls = self.places.iter().enumerate().map(|(i, &place)| call(i, place));
        let begun = self.nccl.grouped(what, calls);
        self.settled(begun.and_then(|()| self.wait(what, is_done)))
    }

    /// Waits until NCCL has begun on the streams what was asked for, and these are done.
    fn wait(&self, what: &'static str, is_done: impl Fn() -> Result<bool>) -> Result<()> {
        let (begin, limit) = (Instant::now(), self.limit);
        while !(self.has_begun(what)? && is_done()?) {
            let waited = begin.elapsed();
            if waited > limit {
                return Err(NcclError::TimedOut { what, limit }.into());
            }
            sleep(PAUSE.min(waited / 8));
        }
        Ok(())
    }

    fn has_begun(&self, what: &'static str) -> Result<bool> {
        let mut all = true;
        for place in &self.places {
            let mut state = 0;
            // SAFETY: it writes the state of a communicator.
            #[allow(unsafe_code)]
            let status = unsafe { (self.nccl.async_error)(place.communicator, &raw mut state) };
            checked(what, status).and(checked(what, state))?;
            all &= state != IN_PROGRESS;
        }
        Ok(all)
    }

    /// Gives the communicators up if what was done has failed: what still runs for them on a GPU ends.
    fn settled(&self, done: Result<()>) -> Result<()> {
        if done.is_err() {
            self.given_up.set(true);
            self.end(self.nccl.abort);
        }
        done
    }

    /// Ends the communicators by `call`, which may wait for ranks that are gone.
    fn end(&self, call: End) {
        let address = |place: &Place| place.communicator as usize;
        let communicators: Vec<usize> = self.places.iter().map(address).collect();
        let (done, ended) = channel();
        spawn(move || {
            for communicator in communicators {
                // SAFETY: a communicator of this library, which is used no more.
                #[allow(unsafe_code)]
                unsafe {
                    call(communicator as Object);
                }
            }
            // Nobody may be waiting any more.
            let _ = done.send(());
        });
        // One that does not end is left to its thread.
        let _ = ended.recv_timeout(TO_END);
    }
}

#[cfg(feature = "nccl")]
pub use on_device::{DeviceLink, RankLink};

#[cfg(feature = "nccl")]
mod on_device {
    use std::ffi::c_void;
    use std::sync::{Arc, LazyLock};
    use std::time::Duration;

    use candle_core::backend::BackendStorage;
    use candle_core::cuda_backend::cudarc::driver::sys::{CUresult, cuStreamQuery};
    use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr};
    use candle_core::cuda_backend::{CudaDType, CudaDevice};
    use candle_core::op::BackpropOp;
    use candle_core::{CudaStorage, Device, Error, Layout, Result, Storage, Tensor};
    use steer3d_ranks::{Rank, RankError};

    use super::super::cuda::view;
    use super::super::routine::Element;
    use super::{Communicators, Id, Nccl};

    static NCCL: LazyLock<Option<Nccl>> =
        LazyLock::new(|| Nccl::load(&["libnccl.so.2", "libnccl.so"]));

    /// How long a call may take, which all ranks make at about the same time.
    const LIMIT: Duration = Duration::from_secs(300);

    /// GPUs that exchange tensors by NCCL.
    #[derive(Debug)]
    pub struct DeviceLink {
        all: Communicators<'static>,
        devices: Vec<CudaDevice>,
        streams: Vec<Arc<CudaStream>>,
    }

    impl DeviceLink {
        /// Connects devices of [`gpu_device`](crate::gpu_device); `None` where they are not different GPUs, or NCCL
        /// is not there, cannot, or takes five minutes. Sums and copies come after what was computed before, on any
        /// thread, and are done when they are returned. After one that fails or takes five minutes all fail.
        pub fn between(devices: &[&Device]) -> Option<Self> {
            let nccl = NCCL.as_ref()?;
            let cuda = |device: &&Device| device.as_cuda_device().ok().cloned();
            let devices: Vec<CudaDevice> = devices.iter().map(cuda).collect::<Option<_>>()?;
            let streams: Vec<_> = devices.iter().map(CudaDevice::cuda_stream).collect();
            let number = |stream: &Arc<CudaStream>| stream.context().ordinal() as i32;
            let numbers: Vec<i32> = streams.iter().map(number).collect();
            if (0..numbers.len()).any(|i| numbers[..i].contains(&numbers[i])) {
                return None;
            }
            let (id, ranks) = (nccl.id().ok()?, [0, streams.len()]);
            let given: Vec<*mut c_void> = streams.iter().map(|s| s.cu_stream().cast()).collect();
            let enter = |i: usize| streams[i].context().bind_to_thread().is_ok();
            let all = Communicators::connect(nccl, id, ranks, &given, LIMIT, enter).ok()?;
            Some(Self { all, devices, streams })
        }

        /// The sum of a row of each device, f32 or f64, on the first one.
        ///
        /// # Errors
        /// If the rows differ in length or type or are not one for each device, or NCCL fails.
        pub fn sum(&self, rows: &[Tensor]) -> Result<Tensor> {
            self.check(rows)?;
            match Element::of(rows[0].dtype(), "sum over devices")? {
                Element::F64 => self.sum_of::<f64>(rows, Element::F64),
                element => self.sum_of::<f32>(rows, element),
            }
        }

        /// Copies of a row of the first device, f32 or f64, on the others.
        ///
        /// # Errors
        /// If the row is of another type or device, or NCCL fails.
        pub fn copies(&self, row: &Tensor) -> Result<Vec<Tensor>> {
            match Element::of(row.dtype(), "copies to devices")? {
                Element::F64 => self.copies_of::<f64>(row, Element::F64),
                element => self.copies_of::<f32>(row, element),
            }
        }

        fn check(&self, rows: &[Tensor]) -> Result<()> {
            let alike = rows.iter().all(|row| {
                row.dims() == rows[0].dims()
                    && row.dtype() == rows[0].dtype()
                    && row.is_contiguous()
            });
            if rows.len() == self.devices.len() && alike {
                return Ok(());
            }
            Err(Error::msg("NCCL: expected rows of one length and type, one for each device"))
        }

        fn is_done(&self) -> Result<bool> {
            self.streams.iter().try_fold(true, |all, stream| Ok(all && is_done(stream)?))
        }

        fn sum_of<T: CudaDType + DeviceRepr>(
            &self,
            rows: &[Tensor],
            element: Element,
        ) -> Result<Tensor> {
            let count = rows[0].elem_count();
            let buffers = (rows.iter().zip(&self.streams))
                .map(|(row, stream)| address::<T>(row, stream))
                .collect::<Result<Vec<_>>>()?;
            // SAFETY: NCCL writes all of it.
            #[allow(unsafe_code)]
            let out: CudaSlice<T> = unsafe { self.devices[0].alloc(count)? };
            let to = out.device_ptr(&self.streams[0]).0;
            // SAFETY: every row is a buffer of its device, and what frees it comes later on the same stream.
            #[allow(unsafe_code)]
            unsafe {
                self.all.sum(element, count, &buffers, to, || self.is_done())?;
            }
            Ok(tensor(out, &self.devices[0], count))
        }

        fn copies_of<T: CudaDType + DeviceRepr>(
            &self,
            row: &Tensor,
            element: Element,
        ) -> Result<Vec<Tensor>> {
            let row = row.contiguous()?;
            let count = row.elem_count();
            // SAFETY: NCCL writes all of them.
            #[allow(unsafe_code)]
            let alloc = |device: &CudaDevice| unsafe { device.alloc::<T>(count) };
            let outs = self.devices[1..].iter().map(alloc).collect::<Result<Vec<_>>>()?;
            let mut buffers = vec![address::<T>(&row, &self.streams[0])?];
            let to = outs.iter().zip(&self.streams[1..]);
            buffers.extend(to.map(|(out, stream)| out.device_ptr(stream).0));
            // SAFETY: as in `sum_of`.
            #[allow(unsafe_code)]
            unsafe {
                self.all.copy(element, count, &buffers, || self.is_done())?;
            }
            let outs = outs.into_iter().zip(&self.devices[1..]);
            Ok(outs.map(|(out, device)| tensor(out, device, count)).collect())
        }
    }

    /// The GPU of this process, which exchanges tensors with those of other processes by NCCL.
    #[derive(Debug)]
    pub struct RankLink {
        own: Communicators<'static>,
        device: CudaDevice,
        stream: Arc<CudaStream>,
    }

    impl RankLink {
        /// Connects devices of [`gpu_device`](crate::gpu_device), one of each rank, all of which call this; `None` where
        /// one of them is no GPU or has no NCCL.
        ///
        /// # Errors
        /// If NCCL or a rank fails, or NCCL takes five minutes.
        pub fn between(device: &Device, rank: &Rank) -> Result<Option<Self>> {
            let known = NCCL.as_ref().zip(device.as_cuda_device().ok());
            if rank.any(known.is_none()).map_err(Error::msg)? {
                return Ok(None);
            }
            let Some((nccl, device)) = known else { return Ok(None) };
            let id = || nccl.id().map(|id| id.0.to_vec()).map_err(Failed::Nccl);
            let id = rank.from_first(id).map_err(Error::msg)?;
            let id =
                Id(id.try_into().map_err(|_| Error::msg("NCCL: expected an id of 128 bytes"))?);
            let stream = device.cuda_stream();
            let (ranks, given) = ([rank.index(), rank.size()], [stream.cu_stream().cast()]);
            let enter = |_| stream.context().bind_to_thread().is_ok();
            let own = Communicators::connect(nccl, id, ranks, &given, LIMIT, enter)?;
            Ok(Some(Self { own, device: device.clone(), stream }))
        }

        /// The sum of the rows of all ranks, f32 or f64, on each of them. NCCL settles the order in which they are added.
        /// The ranks must have met just before, since NCCL waits for five minutes only.
        ///
        /// # Errors
        /// If the row is of another type or device, NCCL fails or takes five minutes, or a call before has failed.
        pub fn sum(&self, row: &Tensor) -> Result<Tensor> {
            match Element::of(row.dtype(), "sum over ranks")? {
                Element::F64 => self.sum_of::<f64>(row, Element::F64),
                element => self.sum_of::<f32>(row, element),
            }
        }

        fn sum_of<T: CudaDType + DeviceRepr>(
            &self,
            row: &Tensor,
            element: Element,
        ) -> Result<Tensor> {
            let row = row.contiguous()?;
            let count = row.elem_count();
            // SAFETY: NCCL writes all of it.
            #[allow(unsafe_code)]
            let out: CudaSlice<T> = unsafe { self.device.alloc(count)? };
            let buffers = [address::<T>(&row, &self.stream)?, out.device_ptr(&self.stream).0];
            // SAFETY: both are buffers of the device, and what frees them comes later on the same stream.
            #[allow(unsafe_code)]
            unsafe {
                self.own.sum_of_ranks(element, count, buffers, || is_done(&self.stream))?;
            }
            Ok(tensor(out, &self.device, count))
        }
    }

    /// Why the first rank has no id for the others.
    #[derive(Debug)]
    enum Failed {
        Nccl(Error),
        Ranks(RankError),
    }

    impl From<RankError> for Failed {
        fn from(error: RankError) -> Self {
            Self::Ranks(error)
        }
    }

    impl std::fmt::Display for Failed {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match self {
                Self::Nccl(error) => error.fmt(f),
                Self::Ranks(error) => error.fmt(f),
            }
        }
    }

    /// Whether all that a stream was given is done.
    fn is_done(stream: &Arc<CudaStream>) -> Result<bool> {
        // SAFETY: the stream lives.
        #[allow(unsafe_code)]
        match unsafe { cuStreamQuery(stream.cu_stream()) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            status => status.result().map(|()| true).map_err(Error::wrap),
        }
    }

    /// Where a row lies, which must be on the device of the stream.
    fn address<T: CudaDType>(row: &Tensor, stream: &Arc<CudaStream>) -> Result<u64> {
        let (storage, layout) = row.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) if storage.device().cuda_stream() == *stream => {
                Ok(view::<T>((storage, layout), "NCCL")?.device_ptr(stream).0)
            }
            _ => Err(Error::msg("NCCL: a row lies on another device")),
        }
    }

    fn tensor<T: CudaDType>(slice: CudaSlice<T>, device: &CudaDevice, count: usize) -> Tensor {
        let storage = CudaStorage::wrap_cuda_slice(slice, device.clone());
        let shape = Layout::contiguous(count).shape().clone();
        Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
    }
}

/// The calls, by a library that computes on the host.
#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::ffi::c_void;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio, exit};
    use std::time::Duration;

    use candle_core::{Error, Result};

    use super::super::host::{GUARD, available, bytes_of, compile, guarded, values_of};
    use super::super::routine::Element;
    use super::{Communicators, Id, Nccl, NcclError};

    const MINUTE: Duration = Duration::from_secs(60);

    fn library(folder: &Path) -> PathBuf {
        compile(include_str!("kernels/nccl_host.cc"), folder)
    }

    /// `count` ranks from `first` on.
    fn connected(
        nccl: &Nccl,
        id: Id,
        [first, count, size]: [usize; 3],
        limit: Duration,
    ) -> Result<Communicators<'_>> {
        let stream = |rank: usize| (0x5eed + rank) as *mut c_void;
        let streams: Vec<_> = (first..first + count).map(stream).collect();
        Communicators::connect(nccl, id, [first, size], &streams, limit, |_| true)
    }

    fn typed(done: Result<()>) -> NcclError {
        match done.unwrap_err() {
            Error::Cuda(error) => *error.downcast_ref().unwrap(),
            other => panic!("{other}"),
        }
    }

    /// A buffer of a device with the numbers 10 `device` + 1, 10 `device` + 2, ...
    fn buffer(device: usize, count: usize, element: Element) -> Vec<u64> {
        let values: Vec<f64> = (1..=count).map(|i| (10 * device + i) as f64).collect();
        let bytes = bytes_of(&values, element);
        guarded(&bytes, bytes.len())
    }

    fn empty(count: usize, element: Element) -> Vec<u64> {
        guarded(&[], count * bytes_of(&[0.0], element).len())
    }

    fn address(buffer: &mut [u64]) -> u64 {
        buffer.as_mut_ptr() as u64 + GUARD as u64
    }

    fn values(buffer: &[u64], count: usize, element: Element) -> Vec<f64> {
        let bytes: Vec<u8> = buffer.iter().flat_map(|w| w.to_le_bytes()).collect();
        let size = bytes_of(&[0.0], element).len();
        values_of(&bytes[GUARD..][..count * size], element)
    }

    /// The numbers of [`buffer`] of devices 0, 1 and 2, added.
    fn sums(count: usize) -> Vec<f64> {
        (1..=count).map(|i| (30 + 3 * i) as f64).collect()
    }

    #[test]
    fn sums_and_copies_are_asked_for_on_all_devices_together() {
        if !available() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let nccl = Nccl::load(&[library(folder.path())]).unwrap();
        let all = connected(&nccl, nccl.id().unwrap(), [0, 3, 3], MINUTE).unwrap();
        for element in [Element::F32, Element::F64] {
            let before: Vec<_> = (0..3).map(|device| buffer(device, 5, element)).collect();
            let mut buffers = before.clone();
            let addresses: Vec<u64> = buffers.iter_mut().map(|buffer| address(buffer)).collect();
            let mut out = empty(5, element);
            let to = address(&mut out);
            let asked = Cell::new(0);
            let third_time = || Ok(asked.replace(asked.get() + 1) == 2);
            // SAFETY: host memory for a library that computes on the host.
            #[allow(unsafe_code)]
            unsafe {
                all.sum(element, 5, &addresses, to, third_time).unwrap();
            }
            assert_eq!(asked.get(), 3);
            assert_eq!(values(&out, 5, element), sums(5));
            assert_eq!(buffers, before);
            // SAFETY: as above.
            #[allow(unsafe_code)]
            unsafe {
                all.copy(element, 5, &addresses, || Ok(true)).unwrap();
            }
            for buffer in &buffers {
                assert_eq!(values(buffer, 5, element), [1.0, 2.0, 3.0, 4.0, 5.0]);
            }
        }
        // SAFETY: bf16 is refused before anything is called.
        #[allow(unsafe_code)]
        let refused = unsafe { all.copy(Element::Bf16, 5, &[0; 3], || Ok(true)) };
        assert!(refused.unwrap_err().to_string().contains("expected f32 or f64"));
    }

    /// The sum over ranks, of which this is one.
    fn sum_of_ranks(
        all: &Communicators<'_>,
        rank: usize,
        count: usize,
        element: Element,
        is_done: bool,
    ) -> Result<Vec<f64>> {
        let (mut own, mut out) = (buffer(rank, count, element), empty(count, element));
        let addresses = [address(&mut own), address(&mut out)];
        // SAFETY: host memory for a library that computes on the host.
        #[allow(unsafe_code)]
        unsafe {
            all.sum_of_ranks(element, count, addresses, || Ok(is_done))?;
        }
        Ok(values(&out, count, element))
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        if !available() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let nccl = Nccl::load(&[library(folder.path())]).unwrap();
        let limit = Duration::from_millis(50);
        let id = || nccl.id().unwrap();
        let without_the_second = connected(&nccl, id(), [0, 1, 2], limit).map(drop);
        let what = "the connection of GPUs";
        assert_eq!(typed(without_the_second), NcclError::TimedOut { what, limit });
        let mut all = connected(&nccl, id(), [0, 1, 1], MINUTE).unwrap();
        let own = sum_of_ranks(&all, 0, 5, Element::F32, true).unwrap();
        assert_eq!(own, [1.0, 2.0, 3.0, 4.0, 5.0]);
        all.limit = limit;
        let sum = |is_done| sum_of_ranks(&all, 0, 5, Element::F32, is_done).map(drop);
        let what = "a sum over ranks";
        assert_eq!(typed(sum(false)), NcclError::TimedOut { what, limit });
        assert_eq!(typed(sum(true)), NcclError::GivenUp);
    }

    /// Of a process that is a rank of the next test.
    const RANK: &str = "NCCL_TEST_RANK";
    const LIBRARY: &str = "NCCL_TEST_LIBRARY";

    /// The exit code of the rank that ends before the others.
    const ENDS: i32 = 17;

    #[test]
    fn processes_get_the_sum_and_notice_one_that_ends() {
        if let Some(library) = std::env::var_os(LIBRARY) {
            return one_of_three(Path::new(&library));
        }
        if !available() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let library = library(folder.path());
        let id = Nccl::load(&[&library]).unwrap().id().unwrap();
        std::fs::write(library.with_extension("id"), id.0).unwrap();
        let test = "gpu::nccl::tests::processes_get_the_sum_and_notice_one_that_ends";
        let start = |rank: usize| -> Child {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test, "--nocapture"])
                .env(LIBRARY, &library)
                .env(RANK, rank.to_string())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        };
        let mut ranks: Vec<Child> = (0..3).map(start).collect();
        let codes: Vec<_> = ranks.iter_mut().map(|rank| rank.wait().unwrap().code()).collect();
        assert_eq!(codes, [Some(0), Some(0), Some(ENDS)]);
    }

    fn one_of_three(library: &Path) {
        let rank: usize = std::env::var(RANK).unwrap().parse().unwrap();
        let nccl = Nccl::load(&[library]).unwrap();
        let id = std::fs::read(library.with_extension("id")).unwrap();
        let all = connected(&nccl, Id(id.try_into().unwrap()), [rank, 1, 3], MINUTE).unwrap();
        for element in [Element::F32, Element::F64] {
            for count in [1, 5, 20_011] {
                assert_eq!(sum_of_ranks(&all, rank, count, element, true).unwrap(), sums(count));
            }
        }
        if rank == 2 {
            exit(ENDS);
        }
        let error = typed(sum_of_ranks(&all, rank, 5, Element::F32, true).map(drop));
        assert_eq!(error, NcclError::Failed { what: "a sum over ranks", status: 6 });
        assert!(error.to_string().contains("another rank has ended"), "{error}");
    }
}
