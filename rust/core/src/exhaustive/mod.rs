//! A check of SAGO and SAGO-keep-retain on every pair of numbers of a 16-bit format.
//!
//! A 16-bit format has 65,536 bit patterns, and so 2^32 pairs of a forget and a retain element. The check tests two statements
//! for each pair: the update has the bits of a scalar specification, which shares no arithmetic with the kernels; and theorem T1
//! holds, that is, no coordinate is opposed.
//!
//! Kernels and specification compute in `f32`, in the current mode of the processor. The check fails for bfloat16 if the
//! processor flushes subnormals to zero, since then both deviate from the documented results.

mod round;
mod row;
mod specification;

use std::ops::Range;

use rayon::prelude::*;

use self::row::Row;
use self::specification::{Specification, is_finite};
use crate::combine::combine_into;
use crate::combiners::Combiner;
use crate::error::Error;
use crate::exact::BinaryFormat;
use crate::sweep::PARALLEL_MIN_ELEMENTS;

/// The number of bit patterns of a 16-bit format.
pub const PATTERNS: u32 = 1 << 16;

/// A 16-bit format: [`half::f16`] or [`half::bf16`].
pub trait SixteenBit: BinaryFormat<Bits = u16> {
    /// Returns the number with these bits.
    #[doc(hidden)]
    fn from_bits(bits: u16) -> Self;
}

impl SixteenBit for half::f16 {
    #[inline(always)]
    fn from_bits(bits: u16) -> Self {
        Self::from_bits(bits)
    }
}

impl SixteenBit for half::bf16 {
    #[inline(always)]
    fn from_bits(bits: u16) -> Self {
        Self::from_bits(bits)
    }
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The number of pairs of two finite numbers, which were checked against the specification and T1.
    pub finite: u64,
    /// The number of other pairs, which were checked against the specification.
    pub not_finite: u64,
    /// The first pair that violates a statement, ordered by the bits of retain, then of forget. `None`: both statements hold.
    pub violation: Option<Violation>,
}

/// A pair of numbers that violates a statement. Numbers are given as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The forget element.
    pub forget: u16,
    /// The retain element.
    pub retain: u16,
    /// The kernel's update.
    pub found: u16,
    /// The specification's update.
    pub expected: u16,
    /// The violated statement; T1 if both are violated.
    pub statement: Statement,
}

/// A statement about each pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    /// The update has the bits of the specification. All NaNs are equal.
    Specification,
    /// For two finite numbers the update is not NaN, and its sign is not opposite to that of retain unless one of the two is zero.
    T1,
}

impl Statement {
    /// Returns the name that Python uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Specification => "specification",
            Self::T1 => "T1",
        }
    }
}

/// Checks the crate's kernel with every forget element and the retain elements whose bits are in the range.
///
/// # Errors
/// [`Error::UnknownCombiner`] for a combiner other than the two, [`Error::Weight`], or [`Error::BitsOutOfRange`] for a range that
/// reaches beyond [`PATTERNS`].
///
/// ```
/// use half::bf16;
/// use retainfirst_core::{Combiner, exhaustive};
///
/// let outcome = exhaustive::check::<bf16>(Combiner::Sago, 1.0, 0.5, 0x3f80..0x3f82)?;
/// assert_eq!(outcome.finite + outcome.not_finite, 2 * 65536);
/// assert_eq!(outcome.violation, None);
/// # Ok::<(), retainfirst_core::Error>(())
/// ```
pub fn check<T: SixteenBit>(
    combiner: Combiner,
    alpha: f64,
    gamma: f64,
    retain: Range<u32>,
) -> Result<Outcome, Error> {
    check_kernel::<T>(combiner, alpha, gamma, retain, |forget, retain, out| {
        combine_into(combiner, alpha, gamma, forget, retain, out, &[0..forget.len()])?;
        Ok(())
    })
}

/// Checks any kernel. It writes the update of its first two arguments, `forget` and `retain`, into the third.
///
/// # Errors
/// The same as [`check`], and the errors of the kernel.
pub fn check_kernel<T: SixteenBit>(
    combiner: Combiner,
    alpha: f64,
    gamma: f64,
    retain: Range<u32>,
    kernel: impl Fn(&[T], &[T], &mut [T]) -> Result<(), Error> + Sync,
) -> Result<Outcome, Error> {
    let specification = Specification::<T>::new(combiner, alpha, gamma)?;
    if retain.start > retain.end || retain.end > PATTERNS {
        return Err(Error::BitsOutOfRange { range: retain });
    }
    let forget: Vec<T> = patterns().map(T::from_bits).collect();
    let row = |row: &mut Row<T>, retain: u32| row.check(&specification, &forget, retain as u16, &kernel);
    // Rows are reduced in order, so that the first violation does not depend on the threads.
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
