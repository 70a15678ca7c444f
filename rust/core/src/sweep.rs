//! One pass over memory. Arrays are cut into chunks, which threads share, and chunks into steps of a few elements, which are
//! updated and measured in registers while the next ones are loaded.
//!
//! The cuts depend only on lengths, and partial sums are merged in order, so that the number of threads changes no bit.

use fearless_simd::prelude::*;
use rayon::prelude::*;

use crate::combiners::Formula;
use crate::element::Element;
use crate::moments::{Accumulate, Moments};
use crate::simd::{LANES, Work, dispatch, pad};

/// A call with at least this many elements uses the threads of the current rayon pool.
pub const PARALLEL_MIN_ELEMENTS: usize = 1 << 18;

/// The number of elements in a chunk.
pub(crate) const CHUNK: usize = 1 << 16;

/// A slice of an array, to be updated.
pub(crate) struct Piece<'a, T> {
    pub(crate) forget: &'a [T],
    /// The retain gradient. `None`: `target` holds it, and is overwritten.
    pub(crate) retain: Option<&'a [T]>,
    pub(crate) target: &'a mut [T],
}

impl<T> Piece<'_, T> {
    pub(crate) fn source(&self) -> &[T] {
        self.retain.unwrap_or(self.target)
    }
}

/// A slice of an array, to be measured.
#[derive(Clone, Copy)]
pub(crate) struct View<'a, T> {
    pub(crate) forget: &'a [T],
    pub(crate) retain: &'a [T],
    pub(crate) update: &'a [T],
}

impl<'a, T> View<'a, T> {
    /// A view without an update.
    pub(crate) fn pair(forget: &'a [T], retain: &'a [T]) -> Self {
        Self { forget, retain, update: retain }
    }
}

/// Writes the update of each piece and returns its moments: those of `f` and `r` with `PAIR`, those of the update with `UPDATE`.
pub(crate) fn update<T: Element, F: Formula<T>, const PAIR: bool, const UPDATE: bool>(
    pieces: Vec<Piece<'_, T>>,
    formula: impl Fn(usize) -> F,
) -> Vec<Moments> {
    let count = pieces.len();
    let mut chunks = Vec::new();
    for (i, piece) in pieces.into_iter().enumerate() {
        let formula = formula(i);
        let retain = piece.retain;
        let parts = piece.forget.chunks(CHUNK).zip(piece.target.chunks_mut(CHUNK));
        for (k, (forget, target)) in parts.enumerate() {
            let start = k * CHUNK;
            let retain = retain.map(|retain| &retain[start..start + forget.len()]);
            let piece = Piece { forget, retain, target };
            chunks.push((i, Update::<'_, T, F, PAIR, UPDATE> { piece, formula }));
        }
    }
    run(count, chunks, |chunk| chunk.piece.forget.len(), Moments::merge)
}

/// Returns the moments of each view: those of `f` and `r` with `PAIR`, those of the update with `UPDATE`.
pub(crate) fn measure<T: Element, const PAIR: bool, const UPDATE: bool>(
    views: Vec<View<'_, T>>,
) -> Vec<Moments> {
    let count = views.len();
    let mut chunks = Vec::new();
    for (i, view) in views.into_iter().enumerate() {
        let parts = view.forget.chunks(CHUNK).zip(view.retain.chunks(CHUNK)).zip(view.update.chunks(CHUNK));
        for ((forget, retain), update) in parts {
            chunks.push((i, Measure::<'_, T, PAIR, UPDATE>(View { forget, retain, update })));
        }
    }
    run(count, chunks, |chunk| chunk.0.forget.len(), Moments::merge)
}

/// Runs the chunks and merges their results by index.
pub(crate) fn run<R: Default + Send, W: Work<Output = R> + Send>(
    count: usize,
    chunks: Vec<(usize, W)>,
    length: impl Fn(&W) -> usize,
    merge: impl Fn(&mut R, &R),
) -> Vec<R> {
    let total: usize = chunks.iter().map(|(_, chunk)| length(chunk)).sum();
    let mut rows: Vec<R> = (0..count).map(|_| R::default()).collect();
    let merge = |(i, part): (usize, R)| merge(&mut rows[i], &part);
    let work = |(i, chunk)| (i, dispatch(chunk));
    if total < PARALLEL_MIN_ELEMENTS {
        chunks.into_iter().map(work).for_each(merge);
    } else {
        let jobs = chunks.into_iter().map(|chunk| Box::new(move || work(chunk)) as Job<'_, R>).collect();
        in_parallel(jobs).into_iter().for_each(merge);
    }
    rows
}

type Job<'a, R> = Box<dyn FnOnce() -> (usize, R) + Send + 'a>;

/// Not generic in the work, so that rayon's code is compiled once for each kind of result.
fn in_parallel<R: Send>(jobs: Vec<Job<'_, R>>) -> Vec<(usize, R)> {
    jobs.into_par_iter().map(|job| job()).collect()
}

/// Loads elements into the cache that a loop over memory reaches `ahead` elements later.
#[inline(always)]
pub(crate) fn prefetch<T>(values: &[T; LANES], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        /// Bytes of a line of the cache.
        const LINE: usize = 64;
        let first = values.as_ptr().wrapping_add(ahead).cast::<i8>();
        for line in (0..size_of_val(values)).step_by(LINE) {
            // SAFETY: a hint, which reads nothing and does nothing where there is no memory.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(line)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, ahead);
}

struct Update<'a, T, F, const PAIR: bool, const UPDATE: bool> {
    piece: Piece<'a, T>,
    formula: F,
}

impl<T: Element, F: Formula<T>, const PAIR: bool, const UPDATE: bool> Work
    for Update<'_, T, F, PAIR, UPDATE>
{
    type Output = Moments;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Moments {
        let Self { piece: Piece { forget, retain, target }, formula } = self;
        let count = forget.len();
        let mut sums = T::Sums::<S>::new(simd);
        let (forget, forget_rest) = forget.as_chunks::<LANES>();
        let (target, target_rest) = target.as_chunks_mut::<LANES>();
        let retain_rest = if let Some(retain) = retain {
            let (retain, rest) = retain.as_chunks::<LANES>();
            for ((u, f), r) in target.iter_mut().zip(forget).zip(retain) {
                *u = step::<T, F, S, PAIR, UPDATE>(simd, formula, f, r, LANES, &mut sums);
            }
            rest
        } else {
            for (u, f) in target.iter_mut().zip(forget) {
                *u = step::<T, F, S, PAIR, UPDATE>(simd, formula, f, u, LANES, &mut sums);
            }
            &*target_rest
        };
        let rest = forget_rest.len();
        if rest > 0 {
            let (f, r) = (pad(forget_rest), pad(retain_rest));
            let u = step::<T, F, S, PAIR, UPDATE>(simd, formula, &f, &r, rest, &mut sums);
            target_rest.copy_from_slice(&u[..rest]);
        }
        sums.finish::<PAIR, UPDATE>(count)
    }
}

/// Returns the update of the first `count` coordinates, padded with zeros, and adds it to the sums.
#[inline(always)]
fn step<T: Element, F: Formula<T>, S: Simd, const PAIR: bool, const UPDATE: bool>(
    simd: S,
    formula: F,
    f: &[T; LANES],
    r: &[T; LANES],
    count: usize,
    sums: &mut T::Sums<S>,
) -> [T; LANES] {
    let (f, r) = (T::widen(simd, f), T::widen(simd, r));
    let mut wide = r;
    for (u, &f) in wide.as_mut().iter_mut().zip(f.as_ref()) {
        *u = formula.apply(f, *u);
    }
    let mut narrow = T::narrow(wide);
    narrow[count..].fill(T::default());
    if PAIR || UPDATE {
        add_all::<T, S, PAIR, UPDATE>(sums, f, r, T::widen(simd, &narrow));
    }
    narrow
}

#[inline(always)]
fn add_all<T: Element, S: Simd, const PAIR: bool, const UPDATE: bool>(
    sums: &mut T::Sums<S>,
    f: T::Vectors<S>,
    r: T::Vectors<S>,
    u: T::Vectors<S>,
) {
    for ((&f, &r), &u) in f.as_ref().iter().zip(r.as_ref()).zip(u.as_ref()) {
        sums.add::<PAIR, UPDATE>(f, r, u);
    }
}

struct Measure<'a, T, const PAIR: bool, const UPDATE: bool>(View<'a, T>);

impl<T: Element, const PAIR: bool, const UPDATE: bool> Work for Measure<'_, T, PAIR, UPDATE> {
    type Output = Moments;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Moments {
        let View { forget, retain, update } = self.0;
        let mut sums = T::Sums::<S>::new(simd);
        let ((f_lanes, f_rest), (r_lanes, r_rest), (u_lanes, u_rest)) =
            (forget.as_chunks::<LANES>(), retain.as_chunks::<LANES>(), update.as_chunks::<LANES>());
        for ((f, r), u) in f_lanes.iter().zip(r_lanes).zip(u_lanes) {
            add_all::<T, S, PAIR, UPDATE>(&mut sums, T::widen(simd, f), T::widen(simd, r), T::widen(simd, u));
        }
        if !f_rest.is_empty() {
            let (f, r, u) = (pad(f_rest), pad(r_rest), pad(u_rest));
            add_all::<T, S, PAIR, UPDATE>(
                &mut sums,
                T::widen(simd, &f),
                T::widen(simd, &r),
                T::widen(simd, &u),
            );
        }
        sums.finish::<PAIR, UPDATE>(forget.len())
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::combiners::{Coefficients, Linear, LinearTowardRetain, Sago, SagoKeepRetain, Sum, Weights};
    use crate::simd::run_all;

    /// An update that returns the written array beside the moments.
    struct Whole<'a, T, F>(&'a [T], &'a [T], F);

    impl<T: Element, F: Formula<T>> Work for Whole<'_, T, F> {
        type Output = (Vec<T>, Moments);

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Output {
            let Self(forget, retain, formula) = self;
            let mut target = retain.to_vec();
            let piece = Piece { forget, retain: None, target: &mut target };
            let moments = Update::<'_, T, F, true, true> { piece, formula }.run(simd);
            (target, moments)
        }
    }

    /// Returns the bits of the numbers, all NaNs alike.
    fn bits(values: impl IntoIterator<Item = f64>) -> Vec<u64> {
        values.into_iter().map(|x| if x.is_nan() { u64::MAX } else { x.to_bits() }).collect()
    }

    fn check<T: Element>(from_bits: fn(u64) -> T, to_f64: fn(T) -> f64, from_f64: fn(f64) -> T) {
        let special = [0.0, 1.0, 1e-3, 6e4, f64::MAX, f64::INFINITY, f64::NAN].map(from_f64);
        let tiny = [1, 2, 3].map(from_bits);
        let mut values: Vec<T> = special.into_iter().chain(tiny).collect();
        values.extend(values.clone().into_iter().map(|x| from_f64(-to_f64(x))));
        let n = values.len();
        // Every pair of these, then random bits, then numbers of usual size.
        let mut state = 1_u64;
        let mut any = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            from_bits(state >> (64 - 8 * size_of::<T>()))
        };
        let wave = |step: f64| (0..3001).map(move |i| from_f64((f64::from(i) * step).sin()));
        let mut forget: Vec<T> = (0..n * n).map(|i| values[i / n]).collect();
        let mut retain: Vec<T> = (0..n * n).map(|i| values[i % n]).collect();
        for (x, step) in [(&mut forget, 0.7), (&mut retain, 1.9)] {
            x.extend((0..3001).map(|_| any()));
            x.extend(wave(step));
        }
        let weights = Weights::<T::Wide>::new(0.7, 1.3).expect("in range");
        let coefficients = Coefficients { retain: 1.7, forget: -0.3 };
        let (linear, toward) = (Linear(coefficients), LinearTowardRetain(coefficients));
        for results in [
            run_all(|| Whole(&forget, &retain, Sum(weights))),
            run_all(|| Whole(&forget, &retain, Sago(weights))),
            run_all(|| Whole(&forget, &retain, SagoKeepRetain(weights))),
            run_all(|| Whole(&forget, &retain, linear)),
            run_all(|| Whole(&forget, &retain, toward)),
        ] {
            let mut all = results
                .into_iter()
                .map(|(update, moments)| (bits(update.into_iter().map(to_f64)), bits(moments.row())));
            let first = all.next().expect("the copy that dispatch chooses");
            assert!(all.all(|other| other == first));
        }
    }

    #[test]
    fn vector_instructions_change_no_bit() {
        check::<f64>(f64::from_bits, |x| x, |x| x);
        check::<f32>(|bits| f32::from_bits(bits as u32), f64::from, |x| x as f32);
        check::<f16>(|bits| f16::from_bits(bits as u16), f64::from, f16::from_f64);
        check::<bf16>(|bits| bf16::from_bits(bits as u16), f64::from, bf16::from_f64);
    }
}
