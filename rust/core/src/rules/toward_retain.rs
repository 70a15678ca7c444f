//! Two coefficients and one pass, as in [`super::linear`], with every rounding error on retain's side.

use fearless_simd::f64x8;
use fearless_simd::prelude::*;

use super::{Coefficients, Operation};
use crate::element::Element;
use crate::simd::Vector;

/// Computes in `f64` and rounds once to the element's format, so that `u_i r_i` is never below `(c_r r_i + c_f f_i) r_i`, both
/// taken exactly.
///
/// With `A = |c_r r| + |c_f f|` and `v = 2^-53`, the products and their sum are off by at most `2 v A`, up to terms in `v^2`,
/// and by half the smallest number for each product that underflows. A margin of `4 v A` and a few smallest numbers, itself
/// off by a relative `3 v` or so, makes up for that and for its own addition, which is off by `v A`. What is left is the
/// rounding to the element's format, and that goes in retain's direction.
#[derive(Clone, Copy)]
pub(crate) struct LinearTowardRetain(pub(crate) Coefficients);

/// Twice the distance from 1 to the next number: `4 v`.
const RELATIVE: f64 = 2.0 * f64::EPSILON;
const SMALLEST: f64 = f64::from_bits(4);

impl<T: Element> Operation<T> for LinearTowardRetain {
    #[inline(always)]
    fn apply<S: Simd, V: Vector<S, Element = T::Wide>>(self, forget: V, retain: V) -> V {
        let (mut update, forget, direction) = (retain.to_doubles(), forget.to_doubles(), retain.to_doubles());
        for (u, &f) in update.as_mut().iter_mut().zip(forget.as_ref()) {
            *u = with_margin(self.0, f, *u);
        }
        T::prepare_toward(update, direction)
    }
}

/// Returns the sum of the two products and, in retain's direction, the margin.
#[inline(always)]
fn with_margin<S: Simd>(coefficients: Coefficients, forget: f64x8<S>, retain: f64x8<S>) -> f64x8<S> {
    let (kept, taken) = (retain * coefficients.retain, forget * coefficients.forget);
    let near = kept + taken;
    // Scaled before it is added: the sum of the magnitudes could overflow where that of the products does not.
    let margin = kept.abs() * RELATIVE + taken.abs() * RELATIVE + SMALLEST;
    let margin = retain.simd_lt(0.0).select(-margin, margin);
    // Infinity less an infinite margin would be NaN.
    let moved = retain.simd_ne(0.0) & near.abs().simd_lt(f64::INFINITY);
    moved.select(near + margin, near)
}
