//! Sign-aware selection, in its two forms (Xiao et al., "Modeling LLM Unlearning as an Asymmetric Two-Task Learning
//! Problem", ACL 2026).

use fearless_simd::prelude::*;

use super::{Operation, Weights};
use crate::element::{Element, Wide};
use crate::simd::{Vector, conflict, not_finite};

/// `u = alpha r` where the signs conflict, else `gamma f`.
#[derive(Clone, Copy)]
pub(crate) struct Sago<W>(pub(crate) Weights<W>);

/// `u = alpha r` where the signs conflict, else `alpha r + gamma f`.
#[derive(Clone, Copy)]
pub(crate) struct SagoKeepRetain<W>(pub(crate) Weights<W>);

impl<T: Element> Operation<T> for Sago<T::Wide> {
    #[inline(always)]
    fn apply<S: Simd, V: Vector<S, Element = T::Wide>>(self, forget: V, retain: V) -> V {
        let (kept, taken) = weighted(self.0, forget, retain);
        choose(forget, retain, kept, taken)
    }
}

impl<T: Element> Operation<T> for SagoKeepRetain<T::Wide> {
    #[inline(always)]
    fn apply<S: Simd, V: Vector<S, Element = T::Wide>>(self, forget: V, retain: V) -> V {
        let (kept, taken) = weighted(self.0, forget, retain);
        choose(forget, retain, kept, kept + taken)
    }
}

#[inline(always)]
fn weighted<W: Wide, S: Simd, V: Vector<S, Element = W>>(
    weights: Weights<W>,
    forget: V,
    retain: V,
) -> (V, V) {
    (retain * weights.alpha, forget * weights.gamma)
}

/// Chooses by the signs. A selection alone would pick the finite one of a pair and hide that the other is broken.
#[inline(always)]
fn choose<S: Simd, V: Vector<S>>(forget: V, retain: V, conflicting: V, agreeing: V) -> V {
    let update = conflict(forget, retain).select(conflicting, agreeing);
    not_finite(forget, retain).select(forget + retain, update)
}
