//! One retain element with all forget elements: run through the kernel, and judged.

use fearless_simd::Simd;

use super::specification::{Specification, differs, opposes};
use super::{PATTERNS, Sixteen, Statement, Violation, patterns};
use crate::error::Error;
use crate::simd::{Work, dispatch};

/// The memory of a row, used again for the next.
pub(super) struct Row<T> {
    retain: Vec<T>,
    expected: Vec<u16>,
    out: Vec<T>,
}

impl<T: Sixteen> Row<T> {
    pub(super) fn new() -> Self {
        let n = PATTERNS as usize;
        Self { retain: vec![T::default(); n], expected: vec![0; n], out: vec![T::default(); n] }
    }

    pub(super) fn check(
        &mut self,
        specification: &Specification<T>,
        forget: &[T],
        retain: u16,
        kernel: impl Fn(&[T], &[T], &mut [T]) -> Result<(), Error>,
    ) -> Result<Option<Violation>, Error> {
        self.retain.fill(T::from_bits(retain));
        dispatch(Expect { specification, retain, expected: &mut self.expected, out: &mut self.out });
        // Cut elsewhere in each row, so that over the rows the kernel meets arrays of every length.
        let cut = usize::from(retain);
        let ((f_head, f_tail), (r_head, r_tail)) = (forget.split_at(cut), self.retain.split_at(cut));
        let (u_head, u_tail) = self.out.split_at_mut(cut);
        kernel(f_head, r_head, u_head)?;
        kernel(f_tail, r_tail, u_tail)?;
        let judge = Judge { retain, found: &self.out, expected: &self.expected };
        Ok(if dispatch(judge) { judge.first_violation() } else { None })
    }
}

/// Writes what the row must be, and into `out` what it must not be: a kernel that leaves an element as it was is wrong there.
///
/// Only the compiler's choice of instructions is shared with the kernels.
struct Expect<'a, T> {
    specification: &'a Specification<T>,
    retain: u16,
    expected: &'a mut [u16],
    out: &'a mut [T],
}

impl<T: Sixteen> Work for Expect<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { specification, retain, expected, out } = self;
        specification.write_row(retain, expected);
        for (out, &expected) in out.iter_mut().zip(&*expected) {
            // Another number if `expected` is one, and a number if it is NaN.
            *out = T::from_bits(!expected);
        }
    }
}

/// A row as it was found.
#[derive(Clone, Copy)]
struct Judge<'a, T> {
    retain: u16,
    found: &'a [T],
    expected: &'a [u16],
}

/// Whether any pair of the row fails. Without a branch, so that the loop becomes vector instructions.
impl<T: Sixteen> Work for Judge<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        let mut broken = false;
        for (forget, (&found, &expected)) in T::bits(self.found).iter().zip(self.expected).enumerate() {
            broken |= differs::<T>(found, expected) | opposes::<T>(forget as u16, self.retain, found);
        }
        broken
    }
}

impl<T: Sixteen> Judge<'_, T> {
    fn first_violation(self) -> Option<Violation> {
        let Self { retain, found, expected } = self;
        patterns().zip(T::bits(found).iter().zip(expected)).find_map(|(forget, (&found, &expected))| {
            let statement = if opposes::<T>(forget, retain, found) {
                Statement::T1
            } else if differs::<T>(found, expected) {
                Statement::Specification
            } else {
                return None;
            };
            Some(Violation { forget, retain, found, expected, statement })
        })
    }
}
