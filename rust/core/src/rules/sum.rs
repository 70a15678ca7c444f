//! The plain weighted sum.

use super::{Operation, Weights};
use crate::element::Element;
use crate::simd::Lanes;

/// `u = alpha r + gamma f`, each operation rounded once.
#[derive(Clone, Copy)]
pub(crate) struct Sum<W>(pub(crate) Weights<W>);

impl<T: Element> Operation<T> for Sum<T::Wide> {
    #[inline(always)]
    fn apply<L: Lanes<Scalar = T::Wide>>(self, forget: L, retain: L) -> L {
        let Weights { alpha, gamma } = self.0;
        retain.filled(alpha).mul(retain).add(forget.filled(gamma).mul(forget))
    }
}
