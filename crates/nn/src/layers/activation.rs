use steer3d_so3::Irreps;

use super::product::FusedTensorProduct;
use super::{
    FieldBatchNorm, Gate, NormNonlinearity, SphereNonlinearity, TensorProductNonlinearity,
};
use crate::recompute::Pass;
use crate::{Field, Mode, NnError, Nonlinearity, Params};

/// Any of the nonlinearities.
#[derive(Debug)]
pub(crate) enum Activation {
    Gate(Gate),
    Norm(NormNonlinearity),
    Product(TensorProductNonlinearity),
    Sphere(SphereNonlinearity),
}

/// An [`Activation`] as it was at some moment.
#[derive(Debug)]
pub(crate) enum FusedActivation {
    Gate(Gate),
    Norm(NormNonlinearity),
    Product(FusedTensorProduct),
    Sphere(SphereNonlinearity),
}

impl Activation {
    /// The nonlinearity that gives fields of type `fields`, maybe in another order.
    pub(crate) fn new(
        kind: Nonlinearity,
        params: &mut Params,
        name: &str,
        fields: &Irreps,
    ) -> Result<Self, NnError> {
        Ok(match kind {
            Nonlinearity::Gate => Self::Gate(Gate::new(fields)?),
            Nonlinearity::Norm => Self::Norm(NormNonlinearity::new(params, name, fields)?),
            Nonlinearity::TensorProduct => {
                Self::Product(TensorProductNonlinearity::new(params, name, fields)?)
            }
            Nonlinearity::Sphere => Self::Sphere(SphereNonlinearity::new(fields)?),
        })
    }

    pub(crate) fn irreps_in(&self) -> &Irreps {
        match self {
            Self::Gate(gate) => gate.irreps_in(),
            _ => self.irreps_out(),
        }
    }

    pub(crate) fn irreps_out(&self) -> &Irreps {
        match self {
            Self::Gate(gate) => gate.irreps_out(),
            Self::Norm(norm) => norm.irreps(),
            Self::Product(product) => product.irreps(),
            Self::Sphere(sphere) => sphere.irreps(),
        }
    }

    /// `norm` and then this.
    pub(crate) fn after(
        &self,
        norm: &FieldBatchNorm,
        field: &Field,
        mode: Mode,
        pass: Pass,
    ) -> Result<Field, NnError> {
        let normalised = || norm.normalised(field, mode, pass);
        match self {
            Self::Gate(gate) => norm.gated(gate, field, mode, pass),
            Self::Norm(nonlinearity) => nonlinearity.forward(&normalised()?),
            Self::Product(product) => product.forward(&normalised()?),
            Self::Sphere(sphere) => sphere.forward(&normalised()?),
        }
    }

    pub(crate) fn fused(&self) -> Result<FusedActivation, NnError> {
        Ok(match self {
            Self::Gate(gate) => FusedActivation::Gate(gate.clone()),
            Self::Norm(norm) => FusedActivation::Norm(norm.fused()?),
            Self::Product(product) => FusedActivation::Product(product.fused()?),
            Self::Sphere(sphere) => FusedActivation::Sphere(sphere.clone()),
        })
    }
}

impl FusedActivation {
    pub(crate) fn forward(&self, field: &Field) -> Result<Field, NnError> {
        match self {
            Self::Gate(gate) => gate.forward(field),
            Self::Norm(norm) => norm.forward(field),
            Self::Product(product) => product.forward(field),
            Self::Sphere(sphere) => sphere.forward(field),
        }
    }
}
