//! Sign-aware selection, in its two forms (Xiao et al., "Modeling LLM Unlearning as an Asymmetric Two-Task Learning
//! Problem", ACL 2026).

use super::{Operation, Weights};
use crate::element::{Element, Wide};
use crate::simd::Lanes;

/// `u = alpha r` where the signs conflict, else `gamma f`.
#[derive(Clone, Copy)]
pub(crate) struct Sago<W>(pub(crate) Weights<W>);

/// `u = alpha r` where the signs conflict, else `alpha r + gamma f`.
#[derive(Clone, Copy)]
pub(crate) struct SagoKeepRetain<W>(pub(crate) Weights<W>);

impl<T: Element> Operation<T> for Sago<T::Wide> {
    #[inline(always)]
    fn apply<L: Lanes<Scalar = T::Wide>>(self, forget: L, retain: L) -> L {
        let (kept, taken) = weighted(self.0, forget, retain);
        choose(forget, retain, kept, taken)
    }
}

impl<T: Element> Operation<T> for SagoKeepRetain<T::Wide> {
    #[inline(always)]
    fn apply<L: Lanes<Scalar = T::Wide>>(self, forget: L, retain: L) -> L {
        let (kept, taken) = weighted(self.0, forget, retain);
        choose(forget, retain, kept, kept.add(taken))
    }
}

#[inline(always)]
fn weighted<W: Wide, L: Lanes<Scalar = W>>(weights: Weights<W>, forget: L, retain: L) -> (L, L) {
    let Weights { alpha, gamma } = weights;
    (retain.filled(alpha).mul(retain), forget.filled(gamma).mul(forget))
}

/// Chooses by the signs. A selection alone would pick the finite one of a pair and hide that the other is broken.
#[inline(always)]
fn choose<L: Lanes>(forget: L, retain: L, conflicting: L, agreeing: L) -> L {
    let update = L::select(forget.conflict(retain), conflicting, agreeing);
    L::select(forget.not_finite(retain), forget.add(retain), update)
}
