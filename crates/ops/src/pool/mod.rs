//! Pooling over windows and over the whole volume.

mod axis_filter;
mod global;
mod max;
mod upsample;
mod window;

pub(crate) use axis_filter::AxisFilters;
pub use axis_filter::{avg_pool3d, gaussian_filter, gaussian_pool3d, gaussian_pool3d_along};
pub use global::global_avg_pool;
pub use max::max_pool3d;
pub use upsample::{gaussian_upsample3d, gaussian_upsample3d_along};
