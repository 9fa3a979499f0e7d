//! GPUs.

use candle_core::{Device, Result};

/// A GPU by its number, for use from any number of threads: all its work is done in one order.
///
/// With candle's own [`Device::new_cuda`] every thread has an order of its own, and what one thread has computed may
/// not be there yet when another one reads it. A tensor gets from one GPU to another by way of the CPU (`to_device`
/// twice) or by a `DeviceLink`: a copy between two GPUs waits for neither.
///
/// # Safety
/// The memory of its tensors is used on its own stream only (`CudaDevice::cuda_stream`), as candle and this crate do.
/// Whoever makes another stream of its context and gives that the memory of a tensor must wait for what is pending on
/// the device's stream, since no events are kept that would do so.
///
/// # Errors
/// When there is no such GPU or it cannot be used, and in builds without the feature `cuda`.
#[allow(unsafe_code)]
pub unsafe fn gpu_device(number: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(number)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = &device {
        // SAFETY: allocations, copies and kernels of a device all go to its one stream, so that nothing has to wait
        // for events; for other streams the caller answers.
        unsafe {
            cuda.disable_event_tracking();
        }
    }
    Ok(device)
}
