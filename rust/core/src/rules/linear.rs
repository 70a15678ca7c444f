//! What the rules that look at a whole group have in common: two coefficients, then one pass.

use fearless_simd::prelude::*;

use super::Operation;
use crate::element::Element;
use crate::simd::Vector;

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
    fn apply<S: Simd, V: Vector<S, Element = T::Wide>>(self, forget: V, retain: V) -> V {
        let Coefficients { retain: c_retain, forget: c_forget } = self.0;
        let (mut update, forget) = (retain.to_doubles(), forget.to_doubles());
        for (u, &f) in update.as_mut().iter_mut().zip(forget.as_ref()) {
            *u = *u * c_retain + f * c_forget;
        }
        T::prepare(update)
    }
}
