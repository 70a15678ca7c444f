//! The plain weighted sum.

use fearless_simd::prelude::*;

use super::{Operation, Weights};
use crate::element::Element;
use crate::simd::Vector;

/// `u = alpha r + gamma f`, each operation rounded once.
#[derive(Clone, Copy)]
pub(crate) struct Sum<W>(pub(crate) Weights<W>);

impl<T: Element> Operation<T> for Sum<T::Wide> {
    #[inline(always)]
    fn apply<S: Simd, V: Vector<S, Element = T::Wide>>(self, forget: V, retain: V) -> V {
        let Weights { alpha, gamma } = self.0;
        retain * alpha + forget * gamma
    }
}
