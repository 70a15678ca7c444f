//! The forget-first baseline: projection of the retain gradient off the forget gradient.

use super::{Coefficients, Weights};
use crate::moments::{Moments, scale};

/// The coefficients of a group: `r` loses its part along `f`, whatever the sign; a zero `f` leaves `r`.
pub(crate) fn coefficients(weights: Weights<f64>, moments: &Moments) -> Coefficients {
    let Weights { alpha, gamma } = weights;
    let (dot, square) = (moments.fr(), moments.ff());
    let forget = if square == 0.0 {
        gamma
    } else {
        // The sums carry powers of two, taken back last and exactly.
        gamma - scale(alpha * (dot / square), moments.retain_exponent() - moments.forget_exponent())
    };
    Coefficients { retain: alpha, forget }
}
