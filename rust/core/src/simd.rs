//! Runtime choice of vector instructions.
//!
//! The loops are written for the auto-vectoriser and inlined into one copy a set of instructions. All copies give the same
//! bits: element-wise arithmetic is never contracted, and sums use a fused multiply-add only where the product is exact or its
//! error is what is asked for.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Elements that are worked on side by side: as many `f32` as the widest vector holds.
pub(crate) const LANES: usize = 16;

/// A set of vector instructions, as far as the compiler does not find its way by itself. A value of the type is the proof
/// that the machine has them.
pub trait Instructions: Copy {
    /// Whether a fused multiply-add is an instruction here, not a library call.
    const FMA: bool;

    /// Converts to `f32`.
    fn widen(self, values: &[f16; LANES]) -> [f32; LANES];

    /// Rounds to nearest, ties to even.
    fn narrow(self, values: &[f32; LANES]) -> [f16; LANES];
}

/// What every machine of the target has.
#[derive(Clone, Copy)]
struct Plain<const FMA: bool>;

impl<const FMA: bool> Instructions for Plain<FMA> {
    const FMA: bool = FMA;

    #[inline(always)]
    fn widen(self, values: &[f16; LANES]) -> [f32; LANES] {
        let mut wide = [0.0; LANES];
        values.convert_to_f32_slice(&mut wide);
        wide
    }

    #[inline(always)]
    fn narrow(self, values: &[f32; LANES]) -> [f16; LANES] {
        let mut narrow = [f16::ZERO; LANES];
        narrow.convert_from_f32_slice(values);
        narrow
    }
}

/// AVX2, FMA and F16C: made only in functions that are compiled with these.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Instructions for Avx2 {
    const FMA: bool = true;

    #[inline(always)]
    fn widen(self, values: &[f16; LANES]) -> [f32; LANES] {
        use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};

        let mut wide = [0.0; LANES];
        for i in [0, LANES / 2] {
            let (wide, values) = (&mut wide[i..i + LANES / 2], &values[i..i + LANES / 2]);
            // SAFETY: `self` proves the instructions; eight elements are read and written, which need no alignment.
            unsafe {
                let bits = _mm_loadu_si128(values.as_ptr().cast());
                _mm256_storeu_ps(wide.as_mut_ptr(), _mm256_cvtph_ps(bits));
            }
        }
        wide
    }

    #[inline(always)]
    fn narrow(self, values: &[f32; LANES]) -> [f16; LANES] {
        use std::arch::x86_64::{
            _MM_FROUND_TO_NEAREST_INT, _mm_storeu_si128, _mm256_cvtps_ph, _mm256_loadu_ps,
        };

        let mut narrow = [f16::ZERO; LANES];
        for i in [0, LANES / 2] {
            let (narrow, values) = (&mut narrow[i..i + LANES / 2], &values[i..i + LANES / 2]);
            // SAFETY: as above.
            unsafe {
                let bits = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(values.as_ptr()));
                _mm_storeu_si128(narrow.as_mut_ptr().cast(), bits);
            }
        }
        narrow
    }
}

/// Work that is compiled once for each set of vector instructions.
pub(crate) trait Work {
    type Output;

    /// Does the work.
    ///
    /// Must be `#[inline(always)]`, as must everything below it that is hot.
    fn run<I: Instructions>(self, instructions: I) -> Self::Output;
}

/// Runs `work` in the best copy that this machine can execute.
pub(crate) fn dispatch<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        use std::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("fma") && has!("f16c");
        if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
            // SAFETY: the machine has just been asked for every feature that the function is compiled with.
            return unsafe { with_avx512(work) };
        }
        if avx2 {
            // SAFETY: as above.
            return unsafe { with_avx2(work) };
        }
    }
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        work.run(Plain::<true>)
    } else {
        work.run(Plain::<false>)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
fn with_avx512<W: Work>(work: W) -> W::Output {
    work.run(Avx2(()))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_avx2<W: Work>(work: W) -> W::Output {
    work.run(Avx2(()))
}

/// Runs every copy that this machine can execute, the plain one first.
#[cfg(test)]
pub(crate) fn run_all<W: Work>(make: impl Fn() -> W) -> Vec<W::Output> {
    let mut results = vec![make().run(Plain::<false>), dispatch(make())];
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
    {
        // SAFETY: the machine has just been asked for every feature that the function is compiled with.
        results.push(unsafe { with_avx2(make()) });
    }
    results
}
