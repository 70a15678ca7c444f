//! BLUR, the forget-first baseline: projection of the retain gradient off the forget gradient.

use super::{Coefficients, Weights};
use crate::moments::{Moments, scale};

/// Removes from `r` its component along `f`, whatever the sign of the dot product. A zero `f` leaves `r` as it is.
pub(crate) fn coefficients(weights: Weights<f64>, moments: &Moments) -> Coefficients {
    let Weights { alpha, gamma } = weights;
    let (dot, square) = (moments.fr(), moments.ff());
    let forget = if square == 0.0 {
        gamma
    } else {
        // The exponents of the sums are applied last, where scaling is exact.
        gamma - scale(alpha * (dot / square), moments.retain_exponent() - moments.forget_exponent())
    };
    Coefficients { retain: alpha, forget }
}
