//! The step that an optimiser made: coordinates that work against the retain gradient are put back, and the step is measured.

use fearless_simd::prelude::*;

use crate::combine::check_length;
use crate::element::Element;
use crate::error::Error;
use crate::moments::{Accumulate, Moments};
use crate::simd::{LANES, Work, pad};
use crate::sweep::{self, CHUNK, prefetch};

/// How many elements ahead memory is loaded: a pass over four arrays computes too much for the machine to run ahead by itself.
const AHEAD: usize = 3 * LANES;

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
    /// of `u`, so that `conflicts` counts the coordinates that work against the retain gradient. `ur` is 0: it is not measured.
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
            // What is put back by the signs of the retain gradient leaves no conflict to count.
            let conflicts = put_back != PutBack::Opposing || !std::ptr::eq(signs, retain);
            chunks.push((i, Chunk { before, after, signs, retain, forget, put_back, measured, conflicts }));
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
    /// Whether conflicts are counted; else the signs are those of the retain gradient, and none are left.
    conflicts: bool,
}

impl<T: Element> Work for Chunk<'_, T> {
    type Output = Guarded;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Guarded {
        match (self.put_back, self.measured) {
            (PutBack::Nothing, false) => Guarded::default(),
            (PutBack::Nothing, true) => self.sweep::<S, false, false, true, true>(simd),
            (PutBack::Opposing, false) => self.sweep::<S, true, false, false, false>(simd),
            (PutBack::Opposing, true) if self.conflicts => self.sweep::<S, true, false, true, true>(simd),
            (PutBack::Opposing, true) => self.sweep::<S, true, false, true, false>(simd),
            (PutBack::OpposingAndZeros, false) => self.sweep::<S, true, true, false, false>(simd),
            (PutBack::OpposingAndZeros, true) => self.sweep::<S, true, true, true, true>(simd),
        }
    }
}

impl<T: Element> Chunk<'_, T> {
    #[inline(always)]
    fn sweep<S: Simd, const PUT: bool, const ZEROS: bool, const MEASURED: bool, const CONFLICTS: bool>(
        self,
        simd: S,
    ) -> Guarded {
        let count = self.before.len();
        let mut sums = T::Sums::<S>::new(simd);
        let mut put_back = 0;
        let (before, before_rest) = self.before.as_chunks();
        let (after, after_rest) = self.after.as_chunks_mut();
        let (signs, signs_rest) = self.signs.as_chunks();
        let (retain, retain_rest) = self.retain.as_chunks();
        let (forget, forget_rest) = self.forget.as_chunks();
        let steps = before.iter().zip(after).zip(signs).zip(retain).zip(forget);
        for ((((before, after), signs), retain), forget) in steps {
            prefetch(before, AHEAD);
            prefetch(after, AHEAD);
            // Where no conflict is left, the signs are those of the retain gradient, which is loaded below.
            if PUT && (CONFLICTS || !MEASURED) {
                prefetch(signs, AHEAD);
            }
            if MEASURED {
                prefetch(retain, AHEAD);
                prefetch(forget, AHEAD);
            }
            put_back += step::<T, S, PUT, ZEROS, MEASURED, CONFLICTS>(
                simd, before, after, signs, retain, forget, &mut sums,
            );
        }
        if !before_rest.is_empty() {
            let mut padded = pad(after_rest);
            put_back += step::<T, S, PUT, ZEROS, MEASURED, CONFLICTS>(
                simd,
                &pad(before_rest),
                &mut padded,
                &pad(signs_rest),
                &pad(retain_rest),
                &pad(forget_rest),
                &mut sums,
            );
            after_rest.copy_from_slice(&padded[..before_rest.len()]);
        }
        let moments =
            if MEASURED { sums.finish::<true, true>(count).without_ur() } else { Moments::default() };
        Guarded { moments, put_back: put_back.into() }
    }
}

/// Returns the number of coordinates that were put back.
#[inline(always)]
fn step<
    T: Element,
    S: Simd,
    const PUT: bool,
    const ZEROS: bool,
    const MEASURED: bool,
    const CONFLICTS: bool,
>(
    simd: S,
    before: &[T; LANES],
    after: &mut [T; LANES],
    signs: &[T; LANES],
    retain: &[T; LANES],
    forget: &[T; LANES],
    sums: &mut T::Sums<S>,
) -> u32 {
    let put_back = if PUT { T::put_back::<S, ZEROS>(simd, before, after, signs) } else { 0 };
    if MEASURED {
        let (before, after) = (T::widen(simd, before), T::widen(simd, after));
        let (retain, forget) = (T::widen(simd, retain), T::widen(simd, forget));
        let backwards = before.as_ref().iter().zip(after.as_ref()).map(|(&before, &after)| before - after);
        for ((step, &retain), &forget) in backwards.zip(retain.as_ref()).zip(forget.as_ref()) {
            sums.add_without_ur::<CONFLICTS>(step, retain, forget);
        }
    }
    put_back
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use half::{bf16, f16};

    use super::*;
    use crate::simd::run_all;

    /// A step that returns what it left beside the result.
    struct Whole<'a, T> {
        arrays: [&'a [T]; 4],
        put_back: PutBack,
        measured: bool,
        conflicts: bool,
    }

    impl<T: Element> Work for Whole<'_, T> {
        type Output = (Vec<T>, Guarded);

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let Self { arrays: [before, after, signs, forget], put_back, measured, conflicts } = self;
            let mut after = after.to_vec();
            let retain = signs;
            let chunk =
                Chunk { before, after: &mut after, signs, retain, forget, put_back, measured, conflicts };
            let guarded = chunk.run(simd);
            (after, guarded)
        }
    }

    /// The definition, in f64, which holds every number.
    fn puts_back(put_back: PutBack, before: f64, after: f64, sign: f64) -> bool {
        let against = (after > before && sign > 0.0) || (after < before && sign < 0.0);
        match put_back {
            PutBack::Nothing => false,
            PutBack::Opposing => against,
            PutBack::OpposingAndZeros => {
                let moved = after.partial_cmp(&before).is_some_and(Ordering::is_ne); // NaN has not moved
                against || (sign == 0.0 && moved)
            }
        }
    }

    fn check<T: Element>(from_bits: fn(u64) -> T, to_bits: fn(T) -> u64, to_f64: fn(T) -> f64, infinity: T) {
        let (sign, infinity) = (1_u64 << (8 * size_of::<T>() - 1), to_bits(infinity));
        // Zero, the smallest number, an ordinary one, the largest, infinity, and NaN, signalling and quiet.
        let special = [0, 1, infinity / 2, infinity - 1, infinity, infinity + 1, sign - 1];
        let values: Vec<T> =
            special.into_iter().flat_map(|bits| [bits, bits | sign]).map(from_bits).collect();
        let mut arrays: [Vec<T>; 4] = Default::default();
        let n = values.len();
        for i in 0..n * n * n {
            for (array, at) in arrays.iter_mut().zip([i % n, i / n % n, i / n / n, (i + 3) % n]) {
                array.push(values[at]);
            }
        }
        let mut state = 1_u64;
        for _ in 0..3001 {
            for array in &mut arrays {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                array.push(from_bits(state >> (64 - 8 * size_of::<T>())));
            }
        }
        let arrays = arrays.each_ref().map(Vec::as_slice);
        for put_back in [PutBack::Nothing, PutBack::Opposing, PutBack::OpposingAndZeros] {
            let [before, after, signs, _] = arrays;
            let put: Vec<bool> = (0..before.len())
                .map(|i| puts_back(put_back, to_f64(before[i]), to_f64(after[i]), to_f64(signs[i])))
                .collect();
            let expected: Vec<u64> =
                (0..put.len()).map(|i| to_bits(if put[i] { before[i] } else { after[i] })).collect();
            for measured in [false, true] {
                // Where coordinates are put back by the signs of the retain gradient, counting finds no conflict.
                let counting = if put_back == PutBack::Opposing { vec![false, true] } else { vec![true] };
                let whole = |conflicts| Whole { arrays, put_back, measured, conflicts };
                let rows: Vec<_> = counting
                    .into_iter()
                    .flat_map(|conflicts| run_all(|| whole(conflicts)))
                    .map(|(left, guarded)| {
                        assert!(left.into_iter().map(to_bits).eq(expected.iter().copied()));
                        assert_eq!(guarded.put_back, put.iter().filter(|&&put| put).count() as u64);
                        // All NaNs alike.
                        guarded.moments.row().map(|x| if x.is_nan() { u64::MAX } else { x.to_bits() })
                    })
                    .collect();
                assert!(rows.iter().all(|row| *row == rows[0]));
            }
        }
    }

    #[test]
    fn vector_instructions_change_no_bit_and_keep_the_definition() {
        check::<f64>(f64::from_bits, f64::to_bits, |x| x, f64::INFINITY);
        check::<f32>(|bits| f32::from_bits(bits as u32), |x| x.to_bits().into(), f64::from, f32::INFINITY);
        check::<f16>(|bits| f16::from_bits(bits as u16), |x| x.to_bits().into(), f64::from, f16::INFINITY);
        check::<bf16>(|bits| bf16::from_bits(bits as u16), |x| x.to_bits().into(), f64::from, bf16::INFINITY);
    }
}
