//! The rules on lists of tensors, in the two steps that a caller with its own groups needs: sums, then the update.

use crate::combine::{check_length, combine_elements};
use crate::element::Element;
use crate::error::Error;
use crate::moments::Moments;
use crate::rules::{Coefficients, Linear, LinearTowardRetain, Rounding, Rule};
use crate::sweep::{self, Piece, View};

/// Returns the moments of each pair `(forget, retain)`; the sums of the update are zero.
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

/// Writes the update of an element-wise rule into each `retain` of the pairs `(forget, retain)` and returns their moments.
///
/// # Errors
/// [`Error::UnknownRule`] for a rule that looks at groups, [`Error::Weight`], or [`Error::LengthMismatch`].
pub fn apply_elementwise<T: Element>(
    rule: Rule,
    alpha: f64,
    gamma: f64,
    pairs: Vec<(&[T], &mut [T])>,
) -> Result<Vec<Moments>, Error> {
    combine_elements::<T, true>(rule, alpha, gamma, pieces(pairs)?)
}

/// As [`apply_elementwise`], with nothing measured: what the update alone costs.
///
/// # Errors
/// The same as [`apply_elementwise`].
pub fn apply_unmeasured<T: Element>(
    rule: Rule,
    alpha: f64,
    gamma: f64,
    pairs: Vec<(&[T], &mut [T])>,
) -> Result<(), Error> {
    combine_elements::<T, false>(rule, alpha, gamma, pieces(pairs)?).map(drop)
}

/// Writes `u = c.retain * r + c.forget * f`, rounded as asked, into each `retain` of the pairs `(forget, retain)`.
///
/// The sums of `f` and `r` alone and the conflicts are not measured again and stay zero in the moments.
///
/// # Errors
/// [`Error::LengthMismatch`].
pub fn apply_linear<T: Element>(
    pairs: Vec<(&[T], &mut [T])>,
    coefficients: &[Coefficients],
    rounding: Rounding,
) -> Result<Vec<Moments>, Error> {
    check_length("coefficients", coefficients.len(), pairs.len())?;
    let pieces = pieces(pairs)?;
    Ok(match rounding {
        Rounding::Nearest => sweep::update::<T, _, false, true>(pieces, |i| Linear(coefficients[i])),
        Rounding::TowardRetain => {
            sweep::update::<T, _, false, true>(pieces, |i| LinearTowardRetain(coefficients[i]))
        }
    })
}

fn pieces<'a, T>(pairs: Vec<(&'a [T], &'a mut [T])>) -> Result<Vec<Piece<'a, T>>, Error> {
    let piece = |(i, (forget, target)): (usize, (&'a [T], &'a mut [T]))| {
        check_length(format_args!("retain[{i}]"), target.len(), forget.len())?;
        Ok(Piece { forget, retain: None, target })
    };
    pairs.into_iter().enumerate().map(piece).collect()
}
