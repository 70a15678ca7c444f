//! The rules on one flat array with groups.

use std::fmt::Display;
use std::ops::Range;

use crate::element::Element;
use crate::error::Error;
use crate::groups::Partition;
use crate::moments::Moments;
use crate::rules::{Coefficients, Linear, Rule, Sago, SagoKeepRetain, Sum, Weights, blur, pcgrad};
use crate::sweep::{self, Piece, View};

/// Writes the update into `retain` and returns the moments of each group.
///
/// Groups cover the array without overlap, in any order. [`Rule::Pcgrad`] and [`Rule::Blur`] decide for each group; for
/// the element-wise rules groups matter to the moments alone.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Weight`], or one of the errors about groups. `retain` is then unchanged.
pub fn combine_in_place<T: Element>(
    rule: Rule,
    alpha: f64,
    gamma: f64,
    forget: &[T],
    retain: &mut [T],
    groups: &[Range<usize>],
) -> Result<Vec<Moments>, Error> {
    check_length("retain", retain.len(), forget.len())?;
    let partition = Partition::new(groups, forget.len())?;
    let rows = combine_pieces(rule, alpha, gamma, partition.pieces(forget, None, retain))?;
    Ok(partition.restore(rows))
}

/// Writes the update into `out`, of the same length, and returns the moments of each group, as [`combine_in_place`] does.
///
/// # Errors
/// The same as [`combine_in_place`].
pub fn combine_into<T: Element>(
    rule: Rule,
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
    let rows = combine_pieces(rule, alpha, gamma, partition.pieces(forget, Some(retain), out))?;
    Ok(partition.restore(rows))
}

/// `what` is formatted for an error alone: there may be many short tensors.
pub(crate) fn check_length(what: impl Display, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected {
        Ok(())
    } else {
        Err(Error::LengthMismatch { what: what.to_string(), found, expected })
    }
}

fn combine_pieces<T: Element>(
    rule: Rule,
    alpha: f64,
    gamma: f64,
    pieces: Vec<Piece<'_, T>>,
) -> Result<Vec<Moments>, Error> {
    match rule {
        Rule::Pcgrad => {
            let weights = Weights::new(alpha, gamma)?;
            Ok(combine_groups(pieces, |moments| pcgrad(weights, moments)))
        }
        Rule::Blur => {
            let weights = Weights::new(alpha, gamma)?;
            Ok(combine_groups(pieces, |moments| blur(weights, moments)))
        }
        _ => combine_elements::<T, true>(rule, alpha, gamma, pieces),
    }
}

/// Applies an element-wise rule, and measures it with `MEASURE`; any other rule is an error.
pub(crate) fn combine_elements<T: Element, const MEASURE: bool>(
    rule: Rule,
    alpha: f64,
    gamma: f64,
    pieces: Vec<Piece<'_, T>>,
) -> Result<Vec<Moments>, Error> {
    let weights = Weights::<T::Wide>::new(alpha, gamma);
    match rule {
        Rule::Sum => {
            let operation = Sum(weights?);
            Ok(sweep::update::<T, _, MEASURE, MEASURE>(pieces, |_| operation))
        }
        Rule::Sago => {
            let operation = Sago(weights?);
            Ok(sweep::update::<T, _, MEASURE, MEASURE>(pieces, |_| operation))
        }
        Rule::SagoKeepRetain => {
            let operation = SagoKeepRetain(weights?);
            Ok(sweep::update::<T, _, MEASURE, MEASURE>(pieces, |_| operation))
        }
        Rule::Pcgrad | Rule::Blur => Err(crate::rules::unknown(
            rule.name(),
            Rule::ALL.into_iter().filter(|rule| rule.is_elementwise()),
        )),
    }
}

/// Two passes: the sums of `f` and `r`, from which the coefficients follow, then the update and its own sums.
fn combine_groups<T: Element>(
    pieces: Vec<Piece<'_, T>>,
    choose: impl Fn(&Moments) -> Coefficients,
) -> Vec<Moments> {
    let views = pieces.iter().map(|piece| View::pair(piece.forget, piece.source())).collect();
    let mut rows = sweep::measure::<T, true, false>(views);
    let operations: Vec<_> = rows.iter().map(|row| Linear(choose(row))).collect();
    let applied = sweep::update::<T, _, false, true>(pieces, |i| operations[i]);
    for (row, update) in rows.iter_mut().zip(&applied) {
        row.add_update(update);
    }
    rows
}
