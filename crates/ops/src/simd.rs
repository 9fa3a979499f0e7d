//! Vectors of whichever instruction set the processor has, for f32 and f64.

use pulp::Simd;

use crate::float::Float;

/// A [`Float`] with vectors in every instruction set of `pulp`.
pub(crate) trait Lanes: Float {
    type Vector<S: Simd>: Copy;

    /// The whole vectors at the start of a slice.
    fn vectors<S: Simd>(slice: &[Self]) -> &[Self::Vector<S>];
    fn vectors_mut<S: Simd>(slice: &mut [Self]) -> &mut [Self::Vector<S>];
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S>;
    fn plus<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn minus<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn times<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// `a b + c`, fused where the processor can.
    fn mul_add<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        c: Self::Vector<S>,
    ) -> Self::Vector<S>;
    /// The sum of the elements.
    fn reduce<S: Simd>(simd: S, a: Self::Vector<S>) -> Self;

    /// Elements of a vector.
    fn lanes<S: Simd>() -> usize {
        size_of::<Self::Vector<S>>() / size_of::<Self>()
    }
}

macro_rules! impl_lanes {
    ($type:ty: $vector:ident $as:ident $as_mut:ident $splat:ident
     $add:ident $sub:ident $mul:ident $mul_add:ident $reduce:ident) => {
        impl Lanes for $type {
            type Vector<S: Simd> = S::$vector;

            #[inline(always)]
            fn vectors<S: Simd>(slice: &[Self]) -> &[S::$vector] {
                S::$as(slice).0
            }
            #[inline(always)]
            fn vectors_mut<S: Simd>(slice: &mut [Self]) -> &mut [S::$vector] {
                S::$as_mut(slice).0
            }
            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> S::$vector {
                simd.$splat(value)
            }
            #[inline(always)]
            fn plus<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$add(a, b)
            }
            #[inline(always)]
            fn minus<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$sub(a, b)
            }
            #[inline(always)]
            fn times<S: Simd>(simd: S, a: S::$vector, b: S::$vector) -> S::$vector {
                simd.$mul(a, b)
            }
            #[inline(always)]
            fn mul_add<S: Simd>(
                simd: S,
                a: S::$vector,
                b: S::$vector,
                c: S::$vector,
            ) -> S::$vector {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn reduce<S: Simd>(simd: S, a: S::$vector) -> Self {
                simd.$reduce(a)
            }
        }
    };
}

impl_lanes! {
    f32: f32s as_simd_f32s as_mut_simd_f32s splat_f32s
    add_f32s sub_f32s mul_f32s mul_add_e_f32s reduce_sum_f32s
}
impl_lanes! {
    f64: f64s as_simd_f64s as_mut_simd_f64s splat_f64s
    add_f64s sub_f64s mul_f64s mul_add_e_f64s reduce_sum_f64s
}

/// Every instruction set that this processor has.
#[cfg(test)]
pub(crate) fn arches() -> Vec<pulp::Arch> {
    let mut arches = vec![pulp::Arch::Scalar, pulp::Arch::new()];
    #[cfg(target_arch = "x86_64")]
    arches.extend(pulp::x86::V3::try_new().map(pulp::Arch::V3));
    arches
}
