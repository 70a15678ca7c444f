//! Combiners on one flat array with groups.

use std::fmt::Display;
use std::ops::Range;

use crate::combiners::{Coefficients, Combiner, Linear, Sago, SagoKeepRetain, Sum, Weights, blur, pcgrad};
use crate::element::Element;
use crate::error::Error;
use crate::groups::Partition;
use crate::moments::Moments;
use crate::sweep::{self, Piece, View};

/// Writes the update into `retain` and returns the moments of each group.
///
/// The groups cover the array without overlap, in any order. [`Combiner::Pcgrad`] and [`Combiner::Blur`] compute their
/// coefficients for each group. For element-wise combiners the groups change only the moments.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Weight`], or one of the errors about groups. `retain` is then unchanged.
pub fn combine_in_place<T: Element>(
    combiner: Combiner,
    alpha: f64,
    gamma: f64,
    forget: &[T],
    retain: &mut [T],
    groups: &[Range<usize>],
) -> Result<Vec<Moments>, Error> {
    check_length("retain", retain.len(), forget.len())?;
    let partition = Partition::new(groups, forget.len())?;
    let rows = combine_pieces(combiner, alpha, gamma, partition.pieces(forget, None, retain))?;
    Ok(partition.in_given_order(rows))
}

/// Like [`combine_in_place`], but writes the update into `out`, which has the same length.
///
/// # Errors
/// The same as [`combine_in_place`].
pub fn combine_into<T: Element>(
    combiner: Combiner,
    alpha: f64,
    gamma: f64,
    forget: &[T],
    retain: &[T],
    out: &mut [T],
    groups: &[Range<usize>],
) -> Result<Vec<Moments>, Error> {
    check_length("retain", retain.len(), forget.len())?;
    check_length("out", out.len(), forget.len())?;
    let partition = Partition::new(groups, forget.len())?;
    let rows = combine_pieces(combiner, alpha, gamma, partition.pieces(forget, Some(retain), out))?;
    Ok(partition.in_given_order(rows))
}

/// `what` is formatted only for an error, since a call may have many short tensors.
pub(crate) fn check_length(what: impl Display, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::LengthMismatch { what: what.to_string(), found, expected })
    }
}

fn combine_pieces<T: Element>(
    combiner: Combiner,
    alpha: f64,
    gamma: f64,
    pieces: Vec<Piece<'_, T>>,
) -> Result<Vec<Moments>, Error> {
    match combiner {
        Combiner::Pcgrad => {
            let weights = Weights::new(alpha, gamma)?;
            Ok(combine_groups(pieces, |moments| pcgrad(weights, moments)))
        }
        Combiner::Blur => {
            let weights = Weights::new(alpha, gamma)?;
            Ok(combine_groups(pieces, |moments| blur(weights, moments)))
        }
        _ => combine_elements::<T, true>(combiner, alpha, gamma, pieces),
    }
}

/// Applies an element-wise combiner and, with `MEASURE`, measures the moments. Refuses every other combiner.
pub(crate) fn combine_elements<T: Element, const MEASURE: bool>(
    combiner: Combiner,
    alpha: f64,
    gamma: f64,
    pieces: Vec<Piece<'_, T>>,
) -> Result<Vec<Moments>, Error> {
    let weights = Weights::<T::Wide>::new(alpha, gamma);
    match combiner {
        Combiner::Sum => {
            let formula = Sum(weights?);
            Ok(sweep::update::<T, _, MEASURE, MEASURE>(pieces, |_| formula))
        }
        Combiner::Sago => {
            let formula = Sago(weights?);
            Ok(sweep::update::<T, _, MEASURE, MEASURE>(pieces, |_| formula))
        }
        Combiner::SagoKeepRetain => {
            let formula = SagoKeepRetain(weights?);
            Ok(sweep::update::<T, _, MEASURE, MEASURE>(pieces, |_| formula))
        }
        Combiner::Pcgrad | Combiner::Blur => Err(crate::combiners::unknown(
            combiner.name(),
            Combiner::ALL.into_iter().filter(|combiner| combiner.is_elementwise()),
        )),
    }
}

/// Makes two passes: one measures `f` and `r`, from which the coefficients follow; one writes the update and measures it.
fn combine_groups<T: Element>(
    pieces: Vec<Piece<'_, T>>,
    coefficients: impl Fn(&Moments) -> Coefficients,
) -> Vec<Moments> {
    let views = pieces.iter().map(|piece| View::pair(piece.forget, piece.source())).collect();
    let mut rows = sweep::measure::<T, true, false>(views);
    let formulas: Vec<_> = rows.iter().map(|row| Linear(coefficients(row))).collect();
    let updates = sweep::update::<T, _, false, true>(pieces, |i| formulas[i]);
    for (row, update) in rows.iter_mut().zip(&updates) {
        row.add_update(update);
    }
    rows
}
