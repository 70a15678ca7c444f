//! Combiners on lists of tensors. A caller with its own groups measures first, and then updates.

use crate::combine::{check_length, combine_elements};
use crate::combiners::{Coefficients, Combiner, Linear, LinearTowardRetain, Rounding};
use crate::element::Element;
use crate::error::Error;
use crate::moments::Moments;
use crate::sweep::{self, Piece, View};

/// Returns the moments of each pair `(forget, retain)`. The sums of the update are zero.
///
/// # Errors
/// [`Error::LengthMismatch`], naming the pair.
pub fn moments<T: Element>(pairs: &[(&[T], &[T])]) -> Result<Vec<Moments>, Error> {
    for (i, (forget, retain)) in pairs.iter().enumerate() {
        check_length(format_args!("retain[{i}]"), retain.len(), forget.len())?;
    }
    let views = pairs.iter().map(|(forget, retain)| View::pair(forget, retain)).collect();
    Ok(sweep::measure::<T, true, false>(views))
}

/// Writes the update of an element-wise combiner into each `retain` of the pairs `(forget, retain)`. Returns their moments, which
/// are empty without `measure`.
///
/// # Errors
/// [`Error::UnknownCombiner`] for a combiner that is not element-wise, [`Error::Weight`], or [`Error::LengthMismatch`].
pub fn apply_elementwise<T: Element>(
    combiner: Combiner,
    alpha: f64,
    gamma: f64,
    pairs: Vec<(&[T], &mut [T])>,
    measure: bool,
) -> Result<Vec<Moments>, Error> {
    let pieces = pieces(pairs)?;
    if measure {
        combine_elements::<T, true>(combiner, alpha, gamma, pieces)
    } else {
        combine_elements::<T, false>(combiner, alpha, gamma, pieces)
    }
}

/// Writes `u = c.retain * r + c.forget * f` into each `retain` of the pairs `(forget, retain)`, with the given rounding.
///
/// Only the sums of the update, its exponent and the count are measured, and nothing without `measure`; `ef` and `er` are those
/// that [`moments`] returns.
///
/// # Errors
/// [`Error::LengthMismatch`].
pub fn apply_linear<T: Element>(
    pairs: Vec<(&[T], &mut [T])>,
    coefficients: &[Coefficients],
    rounding: Rounding,
    measure: bool,
) -> Result<Vec<Moments>, Error> {
    check_length("coefficients", coefficients.len(), pairs.len())?;
    let pieces = pieces(pairs)?;
    let (nearest, toward) = (|i| Linear(coefficients[i]), |i| LinearTowardRetain(coefficients[i]));
    Ok(match (rounding, measure) {
        (Rounding::Nearest, true) => sweep::update::<T, _, false, true>(pieces, nearest),
        (Rounding::Nearest, false) => sweep::update::<T, _, false, false>(pieces, nearest),
        (Rounding::TowardRetain, true) => sweep::update::<T, _, false, true>(pieces, toward),
        (Rounding::TowardRetain, false) => sweep::update::<T, _, false, false>(pieces, toward),
    })
}

pub(crate) fn pieces<'a, T>(pairs: Vec<(&'a [T], &'a mut [T])>) -> Result<Vec<Piece<'a, T>>, Error> {
    let piece = |(i, (forget, target)): (usize, (&'a [T], &'a mut [T]))| {
        check_length(format_args!("retain[{i}]"), target.len(), forget.len())?;
        Ok(Piece { forget, retain: None, target })
    };
    pairs.into_iter().enumerate().map(piece).collect()
}
