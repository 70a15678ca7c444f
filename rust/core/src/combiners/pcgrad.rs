//! Projection of the forget gradient (Yu et al., "Gradient Surgery for Multi-Task Learning", 2020), one-sided as in
//! Xiao et al., ACL 2026: only the forget gradient is projected.

use super::{Coefficients, Weights};
use crate::moments::{Moments, scale};

/// Under conflict, removes from `f` its component along `r`; else keeps both.
///
/// A dot product that is NaN is no conflict, so that the update shows at which coordinate the NaN is.
///
/// A coefficient beyond the range of `f64` (for a forget gradient some `10^308` times as large as the retain gradient) is
/// infinite, and makes the update infinite or NaN.
pub(crate) fn coefficients(weights: Weights<f64>, moments: &Moments) -> Coefficients {
    let Weights { alpha, gamma } = weights;
    let (dot, square) = (moments.fr(), moments.rr());
    let retain = if dot < 0.0 && square != 0.0 {
        // The exponents of the sums are applied last, where scaling is exact.
        alpha - scale(gamma * (dot / square), moments.forget_exponent() - moments.retain_exponent())
    } else {
        alpha
    };
    Coefficients { retain, forget: gamma }
}
