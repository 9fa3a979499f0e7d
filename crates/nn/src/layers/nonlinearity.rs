use serde::{Deserialize, Serialize};
use steer3d_so3::Irreps;

use super::{FieldLayer, Gate, NormNonlinearity, SphereNonlinearity, TensorProductNonlinearity};
use crate::{NnError, Scope};

/// The nonlinearity of a steerable network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nonlinearity {
    /// [`Gate`](crate::layers::Gate).
    #[default]
    Gate,
    /// [`NormNonlinearity`](crate::layers::NormNonlinearity).
    Norm,
    /// [`TensorProductNonlinearity`](crate::layers::TensorProductNonlinearity).
    TensorProduct,
    /// [`SphereNonlinearity`](crate::layers::SphereNonlinearity).
    Sphere,
}

impl Nonlinearity {
    /// The nonlinearity that gives fields of type `fields`, maybe in another order ([`given`](Self::given)).
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
