//! The baseline of benchmarks: a plain weighted sum.

use fearless_simd::Simd;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::combine::check_length;
use crate::combiners::Weights;
use crate::element::Element;
use crate::error::Error;
use crate::simd::{LANES, Work, dispatch, narrow_f16, pad, widen_f16};
use crate::sweep::PARALLEL_MIN_ELEMENTS;

const CHUNK: usize = 1 << 16;

/// An element that [`baseline`] takes.
pub trait Baseline: Element {
    /// Works on one chunk, on one thread.
    #[doc(hidden)]
    fn add_scaled(alpha: Self::Wide, gamma: Self::Wide, forget: &[Self], retain: &mut [Self]);
}

/// Writes `gamma f + alpha r` into each `retain` of the pairs `(forget, retain)`: the cost of the memory traffic.
///
/// For finite values the bits are those of [`crate::Combiner::Sum`]; NaN is not handled. Formats of 16 bits are widened and rounded in
/// registers. The loops share no code with the combiners' own, whose slowness would otherwise not show in a ratio.
///
/// # Errors
/// [`Error::LengthMismatch`], naming the pair, or [`Error::Weight`].
pub fn baseline<T: Baseline>(alpha: f64, gamma: f64, pairs: Vec<(&[T], &mut [T])>) -> Result<(), Error> {
    let Weights { alpha, gamma } = Weights::<T::Wide>::new(alpha, gamma)?;
    for (i, (forget, retain)) in pairs.iter().enumerate() {
        check_length(format_args!("retain[{i}]"), retain.len(), forget.len())?;
    }
    let total: usize = pairs.iter().map(|(forget, _)| forget.len()).sum();
    let chunks =
        pairs.into_iter().flat_map(|(forget, retain)| forget.chunks(CHUNK).zip(retain.chunks_mut(CHUNK)));
    if total < PARALLEL_MIN_ELEMENTS {
        chunks.for_each(|(f, r)| T::add_scaled(alpha, gamma, f, r));
    } else {
        let chunks: Vec<_> = chunks.collect();
        chunks.into_par_iter().for_each(|(f, r)| T::add_scaled(alpha, gamma, f, r));
    }
    Ok(())
}

struct AddScaled<'a, T: Element>(T::Wide, T::Wide, &'a [T], &'a mut [T]);

macro_rules! wide_baseline {
    ($float:ty) => {
        impl Baseline for $float {
            fn add_scaled(alpha: Self, gamma: Self, forget: &[Self], retain: &mut [Self]) {
                dispatch(AddScaled(alpha, gamma, forget, retain));
            }
        }

        impl Work for AddScaled<'_, $float> {
            type Output = ();

            #[inline(always)]
            fn run<S: Simd>(self, _: S) {
                let Self(alpha, gamma, forget, retain) = self;
                for (r, f) in retain.iter_mut().zip(forget) {
                    *r = alpha * *r + gamma * f;
                }
            }
        }
    };
}

wide_baseline!(f64);
wide_baseline!(f32);

impl Baseline for bf16 {
    fn add_scaled(alpha: f32, gamma: f32, forget: &[Self], retain: &mut [Self]) {
        dispatch(AddScaled(alpha, gamma, forget, retain));
    }
}

impl Work for AddScaled<'_, bf16> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self(alpha, gamma, forget, retain) = self;
        let widen = |x: bf16| f32::from_bits(u32::from(x.to_bits()) << 16);
        for (r, f) in retain.iter_mut().zip(forget) {
            let bits = (alpha * widen(*r) + gamma * widen(*f)).to_bits();
            *r = bf16::from_bits((bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16);
        }
    }
}

impl Baseline for f16 {
    fn add_scaled(alpha: f32, gamma: f32, forget: &[Self], retain: &mut [Self]) {
        dispatch(AddScaled(alpha, gamma, forget, retain));
    }
}

/// With explicit conversions, since the compiler has no vector form of them.
impl Work for AddScaled<'_, f16> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self(alpha, gamma, forget, retain) = self;
        let ((forget, forget_rest), (retain, retain_rest)) =
            (forget.as_chunks::<LANES>(), retain.as_chunks_mut::<LANES>());
        for (r, f) in retain.iter_mut().zip(forget) {
            *r = add_scaled_f16(simd, alpha, gamma, f, r);
        }
        let sum = add_scaled_f16(simd, alpha, gamma, &pad(forget_rest), &pad(retain_rest));
        retain_rest.copy_from_slice(&sum[..retain_rest.len()]);
    }
}

#[inline(always)]
fn add_scaled_f16<S: Simd>(
    simd: S,
    alpha: f32,
    gamma: f32,
    forget: &[f16; LANES],
    retain: &[f16; LANES],
) -> [f16; LANES] {
    let (mut sum, forget) = (widen_f16(simd, retain), widen_f16(simd, forget));
    for i in 0..sum.len() {
        sum[i] = sum[i] * alpha + forget[i] * gamma;
    }
    narrow_f16(sum)
}
