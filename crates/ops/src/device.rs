//! GPUs.

use candle_core::{Device, Result};

/// A GPU by its number, for use from any number of threads: all its work is done in one order.
///
/// With candle's own [`Device::new_cuda`] every thread has an order of its own, and what one thread has computed may
/// not be there yet when another one reads it. A tensor gets from one GPU to another by way of the CPU (`to_device`
/// twice) or by a `DeviceLink`: a copy between two GPUs waits for neither.
///
/// # Errors
/// When there is no such GPU or it cannot be used, and in builds without the feature `cuda`.
pub fn gpu_device(number: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(number)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = &device {
        // SAFETY: allocations, copies and kernels of a device all go to its one stream, so that nothing has to wait
        // for events.
        #[allow(unsafe_code)]
        unsafe {
            cuda.disable_event_tracking();
        }
    }
    Ok(device)
}
