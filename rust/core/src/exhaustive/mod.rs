//! SAGO and SAGO-keep-retain on every pair of numbers that a 16-bit format has.
//!
//! Such a format has 65,536 bit patterns, so that the 2^32 pairs of a forget and a retain element can all be tried. Each is
//! held against two statements: the update is bit for bit that of a scalar specification, which shares no arithmetic with
//! the kernels; and theorem T1, no coordinate is opposed, holds.
//!
//! Both compute in `f32`, in the mode that the processor is in. Where it is set to flush subnormals to zero, neither the
//! kernels nor the specification are what is documented for bfloat16, whose subnormals are those of `f32`, and the check fails.

mod round;
mod row;
mod specification;

use std::ops::Range;

use rayon::prelude::*;

use self::row::Row;
use self::specification::{Specification, is_finite};
use crate::combine::combine_into;
use crate::error::Error;
use crate::exact::Exact;
use crate::rules::Rule;
use crate::sweep::PARALLEL_MIN_ELEMENTS;

/// How many bit patterns a 16-bit format has.
pub const PATTERNS: u32 = 1 << 16;

/// A 16-bit format: [`half::f16`] or [`half::bf16`].
pub trait Sixteen: Exact<Bits = u16> {
    /// The number that these bits are.
    #[doc(hidden)]
    fn from_bits(bits: u16) -> Self;
}

impl Sixteen for half::f16 {
    #[inline(always)]
    fn from_bits(bits: u16) -> Self {
        Self::from_bits(bits)
    }
}

impl Sixteen for half::bf16 {
    #[inline(always)]
    fn from_bits(bits: u16) -> Self {
        Self::from_bits(bits)
    }
}

/// What was checked, and what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How many pairs of two finite numbers were checked, against the specification and T1.
    pub finite: u64,
    /// How many other pairs were checked, against the specification.
    pub not_finite: u64,
    /// The first pair that fails, by the bits of retain, then of forget; `None`: both statements hold.
    pub violation: Option<Violation>,
}

/// A pair of numbers for which a statement fails; all numbers are given by their bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The forget element.
    pub forget: u16,
    /// The retain element.
    pub retain: u16,
    /// What the kernel made of the pair.
    pub found: u16,
    /// What the specification makes of it.
    pub expected: u16,
    /// The statement that fails; T1 if both do.
    pub statement: Statement,
}

/// What is checked for each pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    /// The update has the bits of the specification; of a NaN, any bits.
    Specification,
    /// Of two finite numbers: the update is no NaN, and does not have the opposite sign of retain unless one of them is zero.
    T1,
}

impl Statement {
    /// The name used in Python.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Specification => "specification",
            Self::T1 => "T1",
        }
    }
}

/// Checks the crate's own kernel with every forget element and the retain elements whose bits are in the range.
///
/// # Errors
/// [`Error::UnknownRule`] for a rule other than the two, [`Error::Weight`], or [`Error::BitsOutOfRange`] for a range that
/// reaches beyond [`PATTERNS`].
///
/// ```
/// use half::bf16;
/// use retainfirst_core::{Rule, exhaustive};
///
/// let outcome = exhaustive::check::<bf16>(Rule::Sago, 1.0, 0.5, 0x3f80..0x3f82)?;
/// assert_eq!(outcome.finite + outcome.not_finite, 2 * 65536);
/// assert_eq!(outcome.violation, None);
/// # Ok::<(), retainfirst_core::Error>(())
/// ```
pub fn check<T: Sixteen>(rule: Rule, alpha: f64, gamma: f64, retain: Range<u32>) -> Result<Outcome, Error> {
    check_kernel::<T>(rule, alpha, gamma, retain, |forget, retain, out| {
        combine_into(rule, alpha, gamma, forget, retain, out, &[0..forget.len()])?;
        Ok(())
    })
}

/// Checks any kernel that writes the update of `forget` and `retain`, its first two arguments, into the third.
///
/// # Errors
/// The same as [`check`], and what the kernel returns.
pub fn check_kernel<T: Sixteen>(
    rule: Rule,
    alpha: f64,
    gamma: f64,
    retain: Range<u32>,
    kernel: impl Fn(&[T], &[T], &mut [T]) -> Result<(), Error> + Sync,
) -> Result<Outcome, Error> {
    let specification = Specification::<T>::new(rule, alpha, gamma)?;
    if retain.start > retain.end || retain.end > PATTERNS {
        return Err(Error::BitsOutOfRange { range: retain });
    }
    let forget: Vec<T> = patterns().map(T::from_bits).collect();
    let row = |row: &mut Row<T>, retain: u32| row.check(&specification, &forget, retain as u16, &kernel);
    // Rows come in order, and so does the first violation, whatever the threads.
    let violation = if retain.len() * forget.len() < PARALLEL_MIN_ELEMENTS {
        let mut buffers = Row::new();
        retain.clone().try_fold(None::<Violation>, |first, retain| Ok(first.or(row(&mut buffers, retain)?)))
    } else {
        let rows = retain.clone().into_par_iter().with_min_len(8).map_init(Row::new, row);
        rows.try_reduce(|| None, |first, next| Ok(first.or(next)))
    }?;
    let finite_forget = patterns().filter(|&bits| is_finite::<T>(bits)).count() as u64;
    let finite_retain = retain.clone().filter(|&bits| is_finite::<T>(bits as u16)).count() as u64;
    let finite = finite_forget * finite_retain;
    let all = retain.len() as u64 * u64::from(PATTERNS);
    Ok(Outcome { finite, not_finite: all - finite, violation })
}

fn patterns() -> impl Iterator<Item = u16> {
    0..=u16::MAX
}
