//! What may follow a convolution and its batch norm: one file each, and an entry of [`Nonlinearity`].

mod gate;
mod norm;
mod product;
mod sphere;

pub use gate::Gate;
pub use norm::NormNonlinearity;
pub use product::TensorProductNonlinearity;
pub use sphere::SphereNonlinearity;

use serde::{Deserialize, Serialize};
use steer3d_so3::Irreps;

use crate::layers::FieldLayer;
use crate::{NnError, Scope};

/// The nonlinearity of a steerable network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Nonlinearity {
    /// [`Gate`].
    #[default]
    Gate,
    /// [`NormNonlinearity`].
    Norm,
    /// [`TensorProductNonlinearity`].
    TensorProduct,
    /// [`SphereNonlinearity`].
    Sphere,
}

impl Nonlinearity {
    /// The nonlinearity that gives fields of type `fields`, maybe in another order.
    ///
    /// # Errors
    /// [`NnError::Config`] for fields that it is not for.
    pub fn layer(self, params: Scope<'_>, fields: &Irreps) -> Result<Box<dyn FieldLayer>, NnError> {
        Ok(match self {
            Self::Gate => Box::new(Gate::new(fields)?),
            Self::Norm => Box::new(NormNonlinearity::new(params, fields)?),
            Self::TensorProduct => Box::new(TensorProductNonlinearity::new(params, fields)?),
            Self::Sphere => Box::new(SphereNonlinearity::new(fields)?),
        })
    }

    /// The order in which it gives `fields`.
    pub(crate) fn given(self, fields: &Irreps) -> Result<Irreps, NnError> {
        match self {
            Self::Gate => Ok(Gate::new(fields)?.irreps_out().clone()),
            _ => Ok(fields.clone()),
        }
    }
}
