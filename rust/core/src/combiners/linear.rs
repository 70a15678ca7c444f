//! The linear formula of combiners that look at a whole group.

use fearless_simd::prelude::*;

use super::Formula;
use crate::element::Element;
use crate::simd::Vector;

/// The coefficients of a group's update `u = retain * r + forget * f`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// The factor of the retain gradient.
    pub retain: f64,
    /// The factor of the forget gradient.
    pub forget: f64,
}

/// How a linear update is rounded to the format of the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Each element to the nearest number.
    Nearest,
    /// Each element in the direction of the sign of its retain gradient. Then no `u_i r_i` is smaller than without rounding, and
    /// `<u, r>` stays positive if the coefficients make it positive.
    TowardRetain,
}

/// Computes in `f64`, with two products and a sum, and rounds once to the element's format.
#[derive(Clone, Copy)]
pub(crate) struct Linear(pub(crate) Coefficients);

impl<T: Element> Formula<T> for Linear {
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
