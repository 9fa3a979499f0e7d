//! Sums and copies between GPUs by NVIDIA's NCCL.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;

use candle_core::{Error, Result};

use super::dynamic::dynamic_library;
use super::routine::Element;

/// A communicator.
type Object = *mut c_void;

/// `ncclUniqueId`: by what the processes of a communicator find each other.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Id(pub(crate) [u8; 128]);

dynamic_library! { Nccl, "NCCL 2";
    init: b"ncclCommInitAll\0", unsafe extern "C" fn(*mut Object, c_int, *const c_int) -> c_int;
    unique_id: b"ncclGetUniqueId\0", unsafe extern "C" fn(*mut Id) -> c_int;
    init_rank: b"ncclCommInitRank\0", unsafe extern "C" fn(*mut Object, c_int, Id, c_int) -> c_int;
    all_reduce: b"ncclAllReduce\0",
        unsafe extern "C" fn(
            *const c_void, *mut c_void, usize, c_uint, c_uint, Object, *mut c_void,
        ) -> c_int;
    destroy: b"ncclCommDestroy\0", unsafe extern "C" fn(Object) -> c_int;
    group_start: b"ncclGroupStart\0", unsafe extern "C" fn() -> c_int;
    group_end: b"ncclGroupEnd\0", unsafe extern "C" fn() -> c_int;
    reduce: b"ncclReduce\0",
        unsafe extern "C" fn(
            *const c_void, *mut c_void, usize, c_uint, c_uint, c_int, Object, *mut c_void,
        ) -> c_int;
    broadcast: b"ncclBroadcast\0",
        unsafe extern "C" fn(
            *const c_void, *mut c_void, usize, c_uint, c_int, Object, *mut c_void,
        ) -> c_int;
}

/// Where a device takes part: its communicator and its stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    communicator: Object,
    stream: *mut c_void,
}

/// `ncclSum`.
const SUM: c_uint = 0;

fn checked(status: c_int) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Error::msg(format!("NCCL fails with status {status}"))) }
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
    /// Places for devices, given with their streams; none where NCCL does not connect them.
    pub(crate) fn places(&self, devices: &[(c_int, *mut c_void)]) -> Option<Vec<Place>> {
        let mut communicators = vec![null_mut(); devices.len()];
        let numbers: Vec<c_int> = devices.iter().map(|device| device.0).collect();
        // SAFETY: both arrays have an element for each device.
        #[allow(unsafe_code)]
        let status = unsafe {
            let count = c_int::try_from(devices.len()).ok()?;
            (self.init)(communicators.as_mut_ptr(), count, numbers.as_ptr())
        };
        let place = |(communicator, device): (Object, &(c_int, *mut c_void))| Place {
            communicator,
            stream: device.1,
        };
        (status == 0).then(|| communicators.into_iter().zip(devices).map(place).collect())
    }

    /// What [`place_of_rank`](Self::place_of_rank) takes on all ranks.
    pub(crate) fn id(&self) -> Result<Id> {
        let mut id = Id([0; 128]);
        // SAFETY: it writes an id.
        #[allow(unsafe_code)]
        checked(unsafe { (self.unique_id)(&raw mut id) })?;
        Ok(id)
    }

    /// The place of the current device of this thread as rank `rank` of `size`, which all ask for; `stream` is one of that
    /// device.
    pub(crate) fn place_of_rank(
        &self,
        id: Id,
        [rank, size]: [usize; 2],
        stream: *mut c_void,
    ) -> Result<Place> {
        let mut communicator = null_mut();
        // SAFETY: it writes a communicator, and takes the id by value.
        #[allow(unsafe_code)]
        checked(unsafe {
            (self.init_rank)(&raw mut communicator, size as c_int, id, rank as c_int)
        })?;
        Ok(Place { communicator, stream })
    }

    /// Puts the sum of the buffers of all ranks into `out`.
    ///
    /// # Safety
    /// Both buffers have `count` elements, lie on the device of the place and live until the stream is done.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn sum_of_ranks(
        &self,
        place: &Place,
        element: Element,
        count: usize,
        [buffer, out]: [u64; 2],
    ) -> Result<()> {
        let Place { communicator, stream } = *place;
        let (from, to, element) =
            (buffer as *const c_void, out as *mut c_void, data_type(element)?);
        // SAFETY: as the caller says.
        checked(unsafe { (self.all_reduce)(from, to, count, element, SUM, communicator, stream) })
    }

    /// Ends the use of places, whose streams must be done.
    pub(crate) fn end(&self, places: &[Place]) {
        for place in places {
            // SAFETY: a communicator of this library, which is used no more.
            #[allow(unsafe_code)]
            unsafe {
                (self.destroy)(place.communicator);
            }
        }
    }

    /// Calls for all places together, on one thread.
    fn together(&self, calls: impl Iterator<Item = c_int>) -> Result<()> {
        // SAFETY: both take nothing.
        #[allow(unsafe_code)]
        unsafe {
            checked((self.group_start)())?;
            let status = calls.fold(0, |worst, status| if worst == 0 { status } else { worst });
            let end = (self.group_end)();
            checked(status)?;
            checked(end)
        }
    }

    /// Puts the sum of a buffer of each place into `out`, of the first one.
    ///
    /// # Safety
    /// The buffers have `count` elements, lie on the devices of their places and live until the streams are done.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn sum(
        &self,
        places: &[Place],
        element: Element,
        count: usize,
        buffers: &[u64],
        out: u64,
    ) -> Result<()> {
        let data_type = data_type(element)?;
        self.together(places.iter().zip(buffers).enumerate().map(|(i, (place, &from))| {
            let to = if i == 0 { out as *mut c_void } else { null_mut() };
            let Place { communicator, stream } = *place;
            // SAFETY: as the caller says; only the first place has a result.
            unsafe {
                (self.reduce)(
                    from as *const c_void,
                    to,
                    count,
                    data_type,
                    SUM,
                    0,
                    communicator,
                    stream,
                )
            }
        }))
    }

    /// Copies the first buffer, of the first place, to those of the others.
    ///
    /// # Safety
    /// As [`sum`](Self::sum).
    #[allow(unsafe_code)]
    pub(crate) unsafe fn copy(
        &self,
        places: &[Place],
        element: Element,
        count: usize,
        buffers: &[u64],
    ) -> Result<()> {
        let data_type = data_type(element)?;
        self.together(places.iter().zip(buffers).map(|(place, &buffer)| {
            let Place { communicator, stream } = *place;
            let (from, to) = (buffer as *const c_void, buffer as *mut c_void);
            // SAFETY: as the caller says; what NCCL reads and writes may be the same buffer.
            unsafe { (self.broadcast)(from, to, count, data_type, 0, communicator, stream) }
        }))
    }
}

#[cfg(feature = "nccl")]
pub use on_device::{DeviceLink, RankLink};

#[cfg(feature = "nccl")]
mod on_device {
    use std::sync::{Arc, LazyLock};

    use candle_core::backend::BackendStorage;
    use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr};
    use candle_core::cuda_backend::{CudaDType, CudaDevice};
    use candle_core::op::BackpropOp;
    use candle_core::{CudaStorage, Device, Error, Layout, Result, Storage, Tensor};
    use steer3d_ranks::{Rank, RankError};

    use super::super::cuda::view;
    use super::super::routine::Element;
    use super::{Id, Nccl, Place};

    static NCCL: LazyLock<Option<Nccl>> =
        LazyLock::new(|| Nccl::load(&["libnccl.so.2", "libnccl.so"]));

    /// GPUs that exchange tensors by NCCL.
    #[derive(Debug)]
    pub struct DeviceLink {
        nccl: &'static Nccl,
        places: Vec<Place>,
        devices: Vec<CudaDevice>,
        streams: Vec<Arc<CudaStream>>,
    }

    impl Drop for DeviceLink {
        fn drop(&mut self) {
            if self.streams.iter().all(|stream| stream.synchronize().is_ok()) {
                self.nccl.end(&self.places);
            }
        }
    }

    impl DeviceLink {
        /// Connects devices of [`gpu_device`](crate::gpu_device); `None` where they are not different GPUs, or NCCL
        /// is not there or cannot. Sums and copies come after what was computed before, on any thread.
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
            let raw = streams.iter().map(|stream| stream.cu_stream().cast());
            let places = nccl.places(&numbers.into_iter().zip(raw).collect::<Vec<_>>())?;
            Some(Self { nccl, places, devices, streams })
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
            if rows.len() == self.places.len() && alike {
                return Ok(());
            }
            Err(Error::msg("NCCL: expected rows of one length and type, one for each device"))
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
                self.nccl.sum(&self.places, element, count, &buffers, to)?;
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
                self.nccl.copy(&self.places, element, count, &buffers)?;
            }
            let outs = outs.into_iter().zip(&self.devices[1..]);
            Ok(outs.map(|(out, device)| tensor(out, device, count)).collect())
        }
    }

    /// The GPU of this process, which exchanges tensors with those of other processes by NCCL.
    #[derive(Debug)]
    pub struct RankLink {
        nccl: &'static Nccl,
        place: Place,
        device: CudaDevice,
        stream: Arc<CudaStream>,
    }

    impl Drop for RankLink {
        fn drop(&mut self) {
            if self.stream.synchronize().is_ok() {
                self.nccl.end(&[self.place]);
            }
        }
    }

    impl RankLink {
        /// Connects devices of [`gpu_device`](crate::gpu_device), one of each rank, all of which call this; `None` where
        /// one of them is no GPU or has no NCCL.
        ///
        /// # Errors
        /// If NCCL or a rank fails.
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
            stream.context().bind_to_thread().map_err(Error::msg)?;
            let raw = stream.cu_stream().cast();
            let place = nccl.place_of_rank(id, [rank.index(), rank.size()], raw)?;
            Ok(Some(Self { nccl, place, device: device.clone(), stream }))
        }

        /// The sum of the rows of all ranks, f32 or f64, on each of them. NCCL settles the order in which they are added.
        ///
        /// # Errors
        /// If the row is of another type or device, or NCCL fails.
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
                self.nccl.sum_of_ranks(&self.place, element, count, buffers)?;
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
    use std::ffi::c_void;

    use super::super::host::{GUARD, available, bytes_of, compile, guarded, values_of};
    use super::super::routine::Element;
    use super::Nccl;

    /// Buffers of three devices with the numbers 1, 2, ..., 11, 12, ... and 21, 22, ..., and their places.
    fn buffers(element: Element) -> (Vec<Vec<u64>>, Vec<u64>) {
        let of = |device: usize| {
            let values: Vec<f64> = (1..=5).map(|i| (10 * device + i) as f64).collect();
            let bytes = bytes_of(&values, element);
            guarded(&bytes, bytes.len())
        };
        let mut buffers: Vec<_> = (0..3).map(of).collect();
        let start = |buffer: &mut Vec<u64>| buffer.as_mut_ptr() as u64 + GUARD as u64;
        let addresses = buffers.iter_mut().map(start).collect();
        (buffers, addresses)
    }

    fn values(buffer: &[u64], element: Element) -> Vec<f64> {
        let bytes: Vec<u8> = buffer.iter().flat_map(|w| w.to_le_bytes()).collect();
        let size = bytes_of(&[0.0], element).len();
        values_of(&bytes[GUARD..][..5 * size], element)
    }

    #[test]
    fn sums_and_copies_are_asked_for_on_all_devices_together() {
        if !available() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = compile(include_str!("kernels/nccl_host.cc"), folder.path());
        let nccl = Nccl::load(&[path]).unwrap();
        let device = |i: i32| (i, (0x5eed + i as usize) as *mut c_void);
        assert!(nccl.places(&[device(1), device(1)]).is_none());
        let places = nccl.places(&[device(2), device(0), device(1)]).unwrap();
        for element in [Element::F32, Element::F64] {
            let (before, addresses) = buffers(element);
            let mut out = guarded(&[], 5 * bytes_of(&[0.0], element).len());
            let to = out.as_mut_ptr() as u64 + GUARD as u64;
            // SAFETY: host memory for a library that computes on the host.
            #[allow(unsafe_code)]
            unsafe {
                nccl.sum(&places, element, 5, &addresses, to).unwrap();
            }
            assert_eq!(values(&out, element), [33.0, 36.0, 39.0, 42.0, 45.0]);
            let (after, _) = buffers(element);
            assert_eq!(before, after);
            // SAFETY: as above.
            #[allow(unsafe_code)]
            unsafe {
                nccl.copy(&places, element, 5, &addresses).unwrap();
            }
            for buffer in &before {
                assert_eq!(values(buffer, element), [1.0, 2.0, 3.0, 4.0, 5.0]);
            }
            // SAFETY: as above; two devices of three are refused.
            #[allow(unsafe_code)]
            let error = unsafe { nccl.copy(&places[..2], element, 5, &addresses).unwrap_err() };
            assert!(error.to_string().contains("NCCL fails with status 4"), "{error}");
        }
        // SAFETY: bf16 is refused before anything is called.
        #[allow(unsafe_code)]
        let refused = unsafe { nccl.copy(&places, Element::Bf16, 5, &[0; 3]) };
        assert!(refused.is_err());
        nccl.end(&places);
    }

    #[test]
    fn every_rank_gets_the_sum() {
        if !available() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = compile(include_str!("kernels/nccl_host.cc"), folder.path());
        let nccl = &Nccl::load(&[path]).unwrap();
        let id = nccl.id().unwrap();
        let part = |rank: usize| {
            let place = nccl.place_of_rank(id, [rank, 3], (0x5eed + rank) as *mut c_void).unwrap();
            for element in [Element::F32, Element::F64, Element::F32] {
                let (mut given, _) = buffers(element);
                let mut out = guarded(&[], 5 * bytes_of(&[0.0], element).len());
                let start = |buffer: &mut Vec<u64>| buffer.as_mut_ptr() as u64 + GUARD as u64;
                let addresses = [start(&mut given[rank]), start(&mut out)];
                // SAFETY: host memory for a library that computes on the host.
                #[allow(unsafe_code)]
                unsafe {
                    nccl.sum_of_ranks(&place, element, 5, addresses).unwrap();
                }
                assert_eq!(values(&out, element), [33.0, 36.0, 39.0, 42.0, 45.0]);
            }
            nccl.end(&[place]);
        };
        std::thread::scope(|scope| {
            for rank in 0..3 {
                scope.spawn(move || part(rank));
            }
        });
    }
}
