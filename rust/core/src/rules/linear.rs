//! What the rules that look at a whole group have in common: two coefficients, then one pass.

use super::Operation;
use crate::element::Element;
use crate::simd::{Arithmetic, Lanes};

/// The update of a group, `u = retain * r + forget * f`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// The factor of the retain gradient.
    pub retain: f64,
    /// The factor of the forget gradient.
    pub forget: f64,
}

/// How the update of a group is rounded to the format of the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Each element to the nearest number.
    Nearest,
    /// Each element in the direction of the sign of its retain gradient, so that no `u_i r_i` is below what it is without any
    /// rounding: a dot product `<u, r>` that the coefficients make positive stays so.
    TowardRetain,
}

/// Computes in `f64` (two products and a sum, each rounded) and rounds once to the element's format.
#[derive(Clone, Copy)]
pub(crate) struct Linear(pub(crate) Coefficients);

impl<T: Element> Operation<T> for Linear {
    #[inline(always)]
    fn apply<L: Lanes<Scalar = T::Wide>>(self, forget: L, retain: L) -> L {
        let (forget, retain) = (forget.double(), retain.double());
        let kept = retain.filled(self.0.retain).mul(retain);
        T::prepare(kept.add(forget.filled(self.0.forget).mul(forget)))
    }
}
