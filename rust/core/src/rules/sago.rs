//! Sign-aware selection, in its two forms (Xiao et al., "Modeling LLM Unlearning as an Asymmetric Two-Task Learning
//! Problem", ACL 2026).

use super::{Operation, Weights};
use crate::element::{Element, Wide};

/// `u = alpha r` where the signs conflict, else `gamma f`.
#[derive(Clone, Copy)]
pub(crate) struct Sago<W>(pub(crate) Weights<W>);

/// `u = alpha r` where the signs conflict, else `alpha r + gamma f`.
#[derive(Clone, Copy)]
pub(crate) struct SagoKeepRetain<W>(pub(crate) Weights<W>);

/// Whether the signs are opposite. Never decided by the product, which underflows to zero for small gradients.
#[inline(always)]
pub(crate) fn conflict<W: Wide>(forget: W, retain: W) -> bool {
    let zero = W::default();
    // Both are the second one where one is NaN.
    let least = if forget < retain { forget } else { retain };
    let greatest = if forget > retain { forget } else { retain };
    (least < zero) & (greatest > zero)
}

/// A selection alone would pick the finite one of a pair and hide that the other is broken.
#[inline(always)]
fn show_non_finite<W: Wide>(forget: W, retain: W, update: W) -> W {
    let zero = W::default();
    // Zero times a number is NaN if and only if that is not finite; two such questions are one comparison.
    if (forget * zero).is_nan() | (retain * zero).is_nan() { forget + retain } else { update }
}

impl<T: Element> Operation<T> for Sago<T::Wide> {
    #[inline(always)]
    fn apply(self, forget: T::Wide, retain: T::Wide) -> T::Wide {
        let (kept, taken) = (self.0.alpha * retain, self.0.gamma * forget);
        let update = if conflict(forget, retain) { kept } else { taken };
        show_non_finite(forget, retain, update)
    }
}

impl<T: Element> Operation<T> for SagoKeepRetain<T::Wide> {
    #[inline(always)]
    fn apply(self, forget: T::Wide, retain: T::Wide) -> T::Wide {
        let (kept, taken) = (self.0.alpha * retain, self.0.gamma * forget);
        let update = if conflict(forget, retain) { kept } else { kept + taken };
        show_non_finite(forget, retain, update)
    }
}
