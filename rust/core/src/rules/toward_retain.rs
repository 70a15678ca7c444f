//! Two coefficients and one pass, as in [`super::linear`], with every rounding error on retain's side.

use std::marker::PhantomData;

use super::{Coefficients, Operation};
use crate::element::{Element, Wide};
use crate::simd::{Lanes, Pairwise};

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
    fn apply<L: Lanes<Scalar = T::Wide>>(self, forget: L, retain: L) -> L {
        forget.each(retain, OneElement(self.0, PhantomData::<T>))
    }
}

#[derive(Clone, Copy)]
struct OneElement<T>(Coefficients, PhantomData<T>);

impl<T: Element> Pairwise<T::Wide> for OneElement<T> {
    #[inline(always)]
    fn apply(self, forget: T::Wide, retain: T::Wide) -> T::Wide {
        let direction = retain.to_f64();
        let (kept, taken) = (self.0.retain * direction, self.0.forget * forget.to_f64());
        let near = kept + taken;
        // Scaled before it is added: the sum of the magnitudes could overflow where that of the products does not.
        let margin = RELATIVE * kept.abs() + RELATIVE * taken.abs() + SMALLEST;
        let margin = if direction < 0.0 { -margin } else { margin };
        // Infinity less an infinite margin would be NaN.
        let moved = (direction != 0.0) & near.is_finite();
        T::prepare_toward(if moved { near + margin } else { near }, direction)
    }
}
