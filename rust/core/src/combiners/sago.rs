//! Sign-aware selection, in its two forms (Xiao et al., "Modeling LLM Unlearning as an Asymmetric Two-Task Learning
//! Problem", ACL 2026).

use fearless_simd::prelude::*;

use super::{Formula, Weights};
use crate::element::Element;
use crate::simd::{Vector, conflict, not_finite};

/// `u = alpha r` where the signs conflict, else `gamma f`.
#[derive(Clone, Copy)]
pub(crate) struct Sago<W>(pub(crate) Weights<W>);

/// `u = alpha r` where the signs conflict, else `alpha r + gamma f`.
#[derive(Clone, Copy)]
pub(crate) struct SagoKeepRetain<W>(pub(crate) Weights<W>);

impl<T: Element> Formula<T> for Sago<T::Wide> {
    #[inline(always)]
    fn apply<S: Simd, V: Vector<S, Element = T::Wide>>(self, forget: V, retain: V) -> V {
        let Weights { alpha, gamma } = self.0;
        choose(forget, retain, retain * alpha, forget * gamma)
    }
}

impl<T: Element> Formula<T> for SagoKeepRetain<T::Wide> {
    #[inline(always)]
    fn apply<S: Simd, V: Vector<S, Element = T::Wide>>(self, forget: V, retain: V) -> V {
        let Weights { alpha, gamma } = self.0;
        let kept = retain * alpha;
        choose(forget, retain, kept, kept + forget * gamma)
    }
}

/// Chooses by the signs. Where `f` or `r` is not finite, returns their sum: a selection alone could hide the broken one.
#[inline(always)]
fn choose<S: Simd, V: Vector<S>>(forget: V, retain: V, conflicting: V, agreeing: V) -> V {
    let update = conflict(forget, retain).select(conflicting, agreeing);
    not_finite(forget, retain).select(forget + retain, update)
}
