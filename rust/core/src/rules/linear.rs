//! What the rules that look at a whole group have in common: two coefficients, then one pass.

use super::Operation;
use crate::element::{Element, Wide};

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
    fn apply(self, forget: T::Wide, retain: T::Wide) -> T::Wide {
        T::prepare(self.0.retain * retain.to_f64() + self.0.forget * forget.to_f64())
    }
}
