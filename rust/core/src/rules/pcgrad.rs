//! Projection of the forget gradient (Yu et al., "Gradient Surgery for Multi-Task Learning", 2020), one-sided as in
//! Xiao et al., ACL 2026: only the forget gradient is projected.

use super::{Coefficients, Weights};
use crate::moments::{Moments, scale};

/// The coefficients of a group: under conflict `f` loses its part along `r`, otherwise both are kept.
///
/// A dot product that is NaN is no conflict: the broken coordinate then shows where it is.
///
/// A coefficient beyond the range of `f64` (a forget gradient some `10^308` times larger than the retain gradient) becomes
/// infinite and shows in the update as infinity or NaN.
pub(crate) fn coefficients(weights: Weights<f64>, moments: &Moments) -> Coefficients {
    let Weights { alpha, gamma } = weights;
    let (dot, square) = (moments.fr(), moments.rr());
    let retain = if dot < 0.0 && square != 0.0 {
        // The sums carry powers of two, taken back last and exactly.
        alpha - scale(gamma * (dot / square), moments.forget_exponent() - moments.retain_exponent())
    } else {
        alpha
    };
    Coefficients { retain, forget: gamma }
}
