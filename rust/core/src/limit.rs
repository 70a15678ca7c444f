//! What the memory allows: `r = g f + a r` in place and nothing more, which the rules' times are held against.
//!
//! The loops are not those of the rules, on purpose: what slows down both would not show in their ratio.

use fearless_simd::Simd;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::combine::check_length;
use crate::element::Element;
use crate::error::Error;
use crate::rules::Weights;
use crate::simd::{Work, dispatch};
use crate::sweep::PARALLEL_MIN_ELEMENTS;

const CHUNK: usize = 1 << 16;

/// An element whose limit is known.
pub trait Limit: Element {
    /// Does one stretch on one thread.
    #[doc(hidden)]
    fn add_scaled(alpha: Self::Wide, gamma: Self::Wide, forget: &[Self], retain: &mut [Self]);
}

/// Writes `gamma f + alpha r` into each `retain` of the pairs `(forget, retain)`: the bits of [`crate::Rule::Sum`] for finite
/// values, with nothing measured.
///
/// Formats of 16 bits are widened and rounded in registers. NaN is not looked after.
///
/// # Errors
/// [`Error::LengthMismatch`], naming the pair, or [`Error::Weight`].
pub fn limit<T: Limit>(alpha: f64, gamma: f64, pairs: Vec<(&[T], &mut [T])>) -> Result<(), Error> {
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

macro_rules! wide_limit {
    ($float:ty) => {
        impl Limit for $float {
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

wide_limit!(f64);
wide_limit!(f32);

impl Limit for bf16 {
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

impl Limit for f16 {
    fn add_scaled(alpha: f32, gamma: f32, forget: &[Self], retain: &mut [Self]) {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("f16c") {
            // SAFETY: the machine has just been asked for the features that the function is compiled with.
            unsafe { eight_at_a_time(alpha, gamma, forget, retain) };
            return;
        }
        one_at_a_time(alpha, gamma, forget, retain);
    }
}

fn one_at_a_time(alpha: f32, gamma: f32, forget: &[f16], retain: &mut [f16]) {
    for (r, f) in retain.iter_mut().zip(forget) {
        *r = f16::from_f32(alpha * r.to_f32() + gamma * f.to_f32());
    }
}

/// The compiler has no vector form of the conversions of this format.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn eight_at_a_time(alpha: f32, gamma: f32, forget: &[f16], retain: &mut [f16]) {
    use std::arch::x86_64 as x86;

    let (a, g) = (x86::_mm256_set1_ps(alpha), x86::_mm256_set1_ps(gamma));
    let ((forget, forget_rest), (retain, retain_rest)) =
        (forget.as_chunks::<8>(), retain.as_chunks_mut::<8>());
    for (r, f) in retain.iter_mut().zip(forget) {
        // SAFETY: eight elements of two bytes are read, by instructions that ask for no alignment.
        let (f_bits, r_bits) =
            unsafe { (x86::_mm_loadu_si128(f.as_ptr().cast()), x86::_mm_loadu_si128(r.as_ptr().cast())) };
        let kept = x86::_mm256_mul_ps(a, x86::_mm256_cvtph_ps(r_bits));
        let sum = x86::_mm256_add_ps(kept, x86::_mm256_mul_ps(g, x86::_mm256_cvtph_ps(f_bits)));
        let bits = x86::_mm256_cvtps_ph::<{ x86::_MM_FROUND_TO_NEAREST_INT }>(sum);
        // SAFETY: eight elements of two bytes are written, likewise.
        unsafe { x86::_mm_storeu_si128(r.as_mut_ptr().cast(), bits) };
    }
    one_at_a_time(alpha, gamma, forget_rest, retain_rest);
}
