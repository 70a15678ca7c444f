//! The step that an optimiser made: coordinates that work against the retain gradient are put back, and the step is measured.

use fearless_simd::prelude::*;

use crate::combine::check_length;
use crate::element::Element;
use crate::error::Error;
use crate::moments::{Accumulate, Moments};
use crate::simd::{LANES, Work, pad};
use crate::sweep::{self, CHUNK};

/// Which coordinates of a step are put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PutBack {
    /// None.
    #[default]
    Nothing,
    /// Those where the step and `signs` have the same sign (theorem T11, with the retain gradient as `signs`).
    Opposing,
    /// These, and those where `signs` is zero (theorem T12, with SAGO's update as `signs`).
    OpposingAndZeros,
}

/// The step of one parameter tensor. All arrays have the same length.
pub struct Step<'a, T> {
    /// The parameters before the step.
    pub before: &'a [T],
    /// The parameters after the step, in which coordinates are put back.
    pub after: &'a mut [T],
    /// The gradient whose signs decide; unused with [`PutBack::Nothing`].
    pub signs: Option<&'a [T]>,
    /// The forget and the retain gradient, to measure the step against. `None`: nothing is measured.
    pub gradients: Option<(&'a [T], &'a [T])>,
}

/// What [`guard`] did to one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guarded {
    /// The moments of the final step. The step backwards, `before - after`, takes the place of `f`, and the forget gradient that
    /// of `u`, so that `conflicts` counts the coordinates that work against the retain gradient.
    pub moments: Moments,
    /// The number of coordinates that were put back.
    pub put_back: u64,
}

impl Guarded {
    fn merge(&mut self, other: &Self) {
        self.moments.merge(&other.moments);
        self.put_back += other.put_back;
    }
}

/// Puts coordinates back, and measures the steps that have gradients. NaN, in a parameter or a gradient, is never put back.
///
/// Only stored numbers are compared, so that the result is exact in every format.
///
/// # Errors
/// [`Error::LengthMismatch`], naming the array.
pub fn guard<T: Element>(put_back: PutBack, steps: Vec<Step<'_, T>>) -> Result<Vec<Guarded>, Error> {
    let count = steps.len();
    let mut chunks = Vec::new();
    for (i, step) in steps.into_iter().enumerate() {
        let Step { before, after, signs, gradients } = step;
        let (forget, retain) = gradients.unzip();
        for (name, array) in
            [("signs", signs), ("forget", forget), ("retain", retain), ("after", Some(&*after))]
        {
            let length = array.map_or(before.len(), <[T]>::len);
            check_length(format_args!("{name}[{i}]"), length, before.len())?;
        }
        for (k, (before, after)) in before.chunks(CHUNK).zip(after.chunks_mut(CHUNK)).enumerate() {
            let start = k * CHUNK;
            // What is missing is not read; any array of the length stands for it.
            let [signs, retain, forget] = [signs, retain, forget]
                .map(|array| array.map_or(before, |array| &array[start..start + before.len()]));
            let measured = gradients.is_some();
            chunks.push((i, Chunk { before, after, signs, retain, forget, put_back, measured }));
        }
    }
    Ok(sweep::run(count, chunks, |chunk| chunk.before.len(), Guarded::merge))
}

struct Chunk<'a, T> {
    before: &'a [T],
    after: &'a mut [T],
    signs: &'a [T],
    retain: &'a [T],
    forget: &'a [T],
    put_back: PutBack,
    measured: bool,
}

impl<T: Element> Work for Chunk<'_, T> {
    type Output = Guarded;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Guarded {
        match (self.put_back, self.measured) {
            (PutBack::Nothing, false) => Guarded::default(),
            (PutBack::Nothing, true) => self.sweep::<S, false, false, true>(simd),
            (PutBack::Opposing, false) => self.sweep::<S, true, false, false>(simd),
            (PutBack::Opposing, true) => self.sweep::<S, true, false, true>(simd),
            (PutBack::OpposingAndZeros, false) => self.sweep::<S, true, true, false>(simd),
            (PutBack::OpposingAndZeros, true) => self.sweep::<S, true, true, true>(simd),
        }
    }
}

impl<T: Element> Chunk<'_, T> {
    #[inline(always)]
    fn sweep<S: Simd, const PUT: bool, const ZEROS: bool, const MEASURED: bool>(self, simd: S) -> Guarded {
        let count = self.before.len();
        let mut sums = T::Sums::<S>::new(simd);
        let mut put_back = 0;
        let (before, before_rest) = self.before.as_chunks::<LANES>();
        let (after, after_rest) = self.after.as_chunks_mut::<LANES>();
        let (signs, signs_rest) = self.signs.as_chunks::<LANES>();
        let (retain, retain_rest) = self.retain.as_chunks::<LANES>();
        let (forget, forget_rest) = self.forget.as_chunks::<LANES>();
        let mut block = |before: &[T; LANES], after: &mut [T; LANES], signs, retain, forget| {
            if PUT {
                put_back += put_back_where::<T, ZEROS>(before, after, signs);
            }
            if MEASURED {
                measure::<T, S>(simd, before, after, retain, forget, &mut sums);
            }
        };
        for ((((b, a), s), r), f) in before.iter().zip(after).zip(signs).zip(retain).zip(forget) {
            block(b, a, s, r, f);
        }
        if !before_rest.is_empty() {
            let mut padded = pad(after_rest);
            block(&pad(before_rest), &mut padded, &pad(signs_rest), &pad(retain_rest), &pad(forget_rest));
            after_rest.copy_from_slice(&padded[..before_rest.len()]);
        }
        let moments = if MEASURED { sums.finish::<true, true>(count) } else { Moments::default() };
        Guarded { moments, put_back: u64::from(put_back) }
    }
}

/// Returns the number of coordinates that were put back.
#[inline(always)]
fn put_back_where<T: Element, const ZEROS: bool>(
    before: &[T; LANES],
    after: &mut [T; LANES],
    signs: &[T; LANES],
) -> u32 {
    let zero = T::default();
    let mut count = 0;
    for i in 0..LANES {
        let (b, a, s) = (before[i], after[i], signs[i]);
        let (up, down) = (a > b, b > a);
        let mut put = (up & (s > zero)) | (down & (s < zero));
        if ZEROS {
            put |= (up | down) & (s == zero);
        }
        after[i] = if put { b } else { a };
        count += u32::from(put);
    }
    count
}

/// Adds the step backwards, the retain gradient and the forget gradient to the sums.
#[inline(always)]
fn measure<T: Element, S: Simd>(
    simd: S,
    before: &[T; LANES],
    after: &[T; LANES],
    retain: &[T; LANES],
    forget: &[T; LANES],
    sums: &mut T::Sums<S>,
) {
    let (before, after) = (T::widen(simd, before), T::widen(simd, after));
    let (retain, forget) = (T::widen(simd, retain), T::widen(simd, forget));
    let steps = before.as_ref().iter().zip(after.as_ref());
    for (((&b, &a), &r), &f) in steps.zip(retain.as_ref()).zip(forget.as_ref()) {
        sums.add::<true, true>(b - a, r, f);
    }
}
