//! Vector code, written once and compiled for each instruction set by `fearless_simd`.
//!
//! All instruction sets give the same bits: every product and every sum is rounded, and a fused multiply-add serves only for
//! products that `f64` holds exactly and for the rounding error of a product.

use fearless_simd::{Level, f32x16, f64x8, prelude::*, u16x32, u32x16};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// The number of elements in one step of a loop, which is the number of 16-bit elements in the widest vector.
pub(crate) const LANES: usize = 32;

/// The number of partial sums of each sum: one for each lane of a vector of `f64`.
pub(crate) const SUMS: usize = 8;

/// A function that is compiled for each instruction set.
pub(crate) trait Work {
    type Output;

    /// Must be `#[inline(always)]`, like every function that it calls in a loop.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs the work with the best instruction set of this machine.
pub(crate) fn dispatch<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    match Level::new() {
        Level::Avx512(simd) => run(simd, work),
        Level::Avx2(simd) => run(simd, work),
        // Code for SSE4.2 would make the library larger, and few machines would use it.
        level => run(level.as_sse2().expect("part of x86-64"), work),
    }
    #[cfg(not(target_arch = "x86_64"))]
    fearless_simd::dispatch!(Level::new(), simd => work.run(simd))
}

/// Returns the name of the instruction set that [`dispatch`] chooses on this machine.
#[must_use]
pub fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    match Level::new() {
        Level::Avx512(_) => "AVX-512",
        Level::Avx2(_) => "AVX2",
        _ => "SSE2",
    }
    #[cfg(not(target_arch = "x86_64"))]
    if Level::new().is_fallback() {
        "none"
    } else if cfg!(target_arch = "aarch64") {
        "NEON"
    } else {
        "baseline of the target"
    }
}

#[cfg(target_arch = "x86_64")]
fn run<S: Simd, W: Work>(simd: S, work: W) -> W::Output {
    simd.vectorize(
        #[inline(always)]
        || work.run(simd),
    )
}

/// Runs the work with every instruction set of this machine.
#[cfg(test)]
pub(crate) fn run_all<W: Work>(make: impl Fn() -> W) -> Vec<W::Output> {
    let mut results = vec![dispatch(make())];
    #[cfg(target_arch = "x86_64")]
    {
        results.extend(Level::new().as_sse2().map(|simd| run(simd, make())));
        results.extend(Level::new().as_avx2().map(|simd| run(simd, make())));
    }
    results
}

/// A vector of `f32` or `f64`, and its conversion to `f64`.
pub trait Vector<S: Simd>: SimdFloat<S> {
    /// The same number of lanes in `f64`.
    type Doubles: Copy + AsRef<[f64x8<S>]> + AsMut<[f64x8<S>]>;

    fn to_doubles(self) -> Self::Doubles;

    /// Rounds to nearest, ties to even.
    fn nearest(doubles: Self::Doubles) -> Self;

    /// Rounds so that a later rounding to a format at least two bits narrower is as if the doubles were rounded once.
    ///
    /// An inexact result is the neighbour whose last bit is odd, which no narrower format has as a value or as a tie
    /// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
    fn odd(doubles: Self::Doubles) -> Self;
}

impl<S: Simd> Vector<S> for f32x16<S> {
    type Doubles = [f64x8<S>; 2];

    #[inline(always)]
    fn to_doubles(self) -> [f64x8<S>; 2] {
        self.widen().into()
    }

    #[inline(always)]
    fn nearest([low, high]: [f64x8<S>; 2]) -> Self {
        low.narrow(high)
    }

    #[inline(always)]
    fn odd([low, high]: [f64x8<S>; 2]) -> Self {
        let nearest = low.narrow(high);
        let (low_back, high_back) = nearest.widen();
        let too_large =
            low_back.abs().simd_gt(low.abs()).narrow(high_back.abs().simd_gt(high.abs())).to_vector();
        let inexact = low_back.simd_ne(low).narrow(high_back.simd_ne(high)).to_vector();
        // A lane of a mask is -1 where it is set.
        let bits = nearest.to_bits() + too_large.bitcast::<u32x16<S>>();
        (bits | (inexact.bitcast::<u32x16<S>>() & 1)).bitcast()
    }
}

impl<S: Simd> Vector<S> for f64x8<S> {
    type Doubles = [Self; 1];

    #[inline(always)]
    fn to_doubles(self) -> [Self; 1] {
        [self]
    }

    #[inline(always)]
    fn nearest([double]: [Self; 1]) -> Self {
        double
    }

    #[inline(always)]
    fn odd([double]: [Self; 1]) -> Self {
        double
    }
}

/// Returns where the signs are opposite. Zero and NaN have no sign.
///
/// The sign of the product would not do: the product of two small numbers underflows to zero.
#[inline(always)]
pub(crate) fn conflict<S: Simd, V: SimdFloat<S>>(f: V, r: V) -> V::Mask {
    let zero = V::Element::from(0_u8);
    f.min(r).simd_lt(zero) & f.max(r).simd_gt(zero)
}

/// Returns where either is infinite or NaN: zero times such a number is NaN.
#[inline(always)]
pub(crate) fn not_finite<S: Simd, V: SimdFloat<S>>(f: V, r: V) -> V::Mask {
    let zero = V::Element::from(0_u8);
    f.mul_add(zero, r * zero).is_nan()
}

/// Adds the products of 16 lanes to 8 sums, in order.
///
/// `f64` holds each product exactly, so that a fused multiply-add gives the same bits as a product and a sum.
#[inline(always)]
pub(crate) fn add_products<S: Simd>(x: f32x16<S>, y: f32x16<S>, sums: &mut f64x8<S>) {
    let ([x_low, x_high], [y_low, y_high]) = (x.to_doubles(), y.to_doubles());
    *sums = x_low.mul_add(y_low, *sums);
    *sums = x_high.mul_add(y_high, *sums);
}

/// Loads an array into vectors.
macro_rules! load {
    ($name:ident, $float:ty, $vector:ident, $count:literal) => {
        #[inline(always)]
        pub(crate) fn $name<S: Simd>(simd: S, values: &[$float; LANES]) -> [$vector<S>; $count] {
            let (chunks, _) = values.as_chunks::<{ LANES / $count }>();
            let mut vectors = [$vector::splat(simd, 0.0); $count];
            for i in 0..$count {
                vectors[i] = $vector::load_array_ref(simd, &chunks[i]);
            }
            vectors
        }
    };
}

load!(load_f32, f32, f32x16, 2);
load!(load_f64, f64, f64x8, 4);

/// Stores vectors in an array.
macro_rules! store {
    ($name:ident, $float:ty, $vector:ident, $count:literal) => {
        #[inline(always)]
        pub(crate) fn $name<S: Simd>(vectors: [$vector<S>; $count]) -> [$float; LANES] {
            let mut values = [0.0; LANES];
            let (chunks, _) = values.as_chunks_mut::<{ LANES / $count }>();
            for i in 0..$count {
                vectors[i].store_array(&mut chunks[i]);
            }
            values
        }
    };
}

store!(store_f32, f32, f32x16, 2);
store!(store_f64, f64, f64x8, 4);

/// Pads with zeros, which change no sum and conflict with nothing.
#[inline(always)]
pub(crate) fn pad<T: Copy + Default>(rest: &[T]) -> [T; LANES] {
    let mut lanes = [T::default(); LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}

/// Widens the elements at even places into one vector and those at odd places into the other.
///
/// That takes one instruction each; the order of memory would take two.
#[inline(always)]
pub(crate) fn widen_bf16<S: Simd>(simd: S, values: &[bf16; LANES]) -> [f32x16<S>; 2] {
    let pairs: u32x16<S> = u16x32::from_slice(simd, values.reinterpret_cast()).bitcast();
    [(pairs << 16).bitcast(), (pairs & UPPER).bitcast()]
}

/// Rounds to nearest, ties to even, and undoes the order of [`widen_bf16`].
#[inline(always)]
pub(crate) fn narrow_bf16<S: Simd>([even, odd]: [f32x16<S>; 2]) -> [bf16; LANES] {
    let pairs: u16x32<S> = ((round_bf16(even) >> 16) | (round_bf16(odd) & UPPER)).bitcast();
    let mut narrow = [bf16::ZERO; LANES];
    let bits: &mut [u16] = narrow.reinterpret_cast_mut();
    pairs.store_slice(bits);
    narrow
}

const _: () =
    assert!(cfg!(target_endian = "little"), "pairs of bf16 are read as u32 with the first in the lower half");

/// The upper half of an `f32`: the bits of a `bf16`.
const UPPER: u32 = 0xffff_0000;

/// Rounds to a `bf16` in the upper half, to nearest, ties to even. The lower half is arbitrary.
#[inline(always)]
fn round_bf16<S: Simd>(x: f32x16<S>) -> u32x16<S> {
    /// The bit that makes a NaN quiet.
    const QUIET: u32 = 0x40_0000;
    let bits = x.to_bits();
    let rounded = bits + 0x7fff + ((bits >> 16) & 1);
    // Rounding could turn a NaN into infinity: keep its upper half, and make it quiet.
    x.is_nan().select(bits | QUIET, rounded)
}

#[inline(always)]
pub(crate) fn widen_f16<S: Simd>(simd: S, values: &[f16; LANES]) -> [f32x16<S>; 2] {
    #[cfg(target_arch = "x86_64")]
    {
        use fearless_simd::{f32x8, u16x8, u16x16};

        let bits: &[u16] = values.reinterpret_cast();
        let mut wide = [f32x16::splat(simd, 0.0); 2];
        if let Some(avx512) = simd.level().as_avx512() {
            for i in 0..2 {
                let half = u16x16::from_slice(simd, &bits[16 * i..16 * i + 16]);
                wide[i] = x86::widen_avx512(avx512, half.into()).simd_into(simd);
            }
            return wide;
        }
        if let Some(avx2) = simd.level().as_avx2() {
            for i in 0..2 {
                let low = u16x8::from_slice(simd, &bits[16 * i..16 * i + 8]);
                let high = u16x8::from_slice(simd, &bits[16 * i + 8..16 * i + 16]);
                let low: f32x8<S> = x86::widen_avx2(avx2, low.into()).simd_into(simd);
                wide[i] = low.combine(x86::widen_avx2(avx2, high.into()));
            }
            return wide;
        }
    }
    load_f32(simd, &to_f32(values))
}

/// Rounds to nearest, ties to even.
#[inline(always)]
pub(crate) fn narrow_f16<S: Simd>(values: [f32x16<S>; 2]) -> [f16; LANES] {
    #[cfg(target_arch = "x86_64")]
    {
        use fearless_simd::{u16x8, u16x16};

        let simd = values[0].token();
        let mut narrow = [f16::ZERO; LANES];
        let bits: &mut [u16] = narrow.reinterpret_cast_mut();
        if let Some(avx512) = simd.level().as_avx512() {
            for i in 0..2 {
                let half: u16x16<S> = x86::narrow_avx512(avx512, values[i].into()).simd_into(simd);
                half.store_slice(&mut bits[16 * i..16 * (i + 1)]);
            }
            return narrow;
        }
        if let Some(avx2) = simd.level().as_avx2() {
            for i in 0..2 {
                let (low, high) = values[i].split();
                let low: u16x8<S> = x86::narrow_avx2(avx2, low.into()).simd_into(simd);
                let high: u16x8<S> = x86::narrow_avx2(avx2, high.into()).simd_into(simd);
                low.store_slice(&mut bits[16 * i..16 * i + 8]);
                high.store_slice(&mut bits[16 * i + 8..16 * i + 16]);
            }
            return narrow;
        }
    }
    to_f16(&store_f32(values))
}

/// For machines without instructions for `f16`. Not inlined, since the code is long.
#[inline(never)]
fn to_f32(values: &[f16; LANES]) -> [f32; LANES] {
    let mut wide = [0.0; LANES];
    values.convert_to_f32_slice(&mut wide);
    wide
}

/// See [`to_f32`].
#[inline(never)]
fn to_f16(values: &[f32; LANES]) -> [f16; LANES] {
    let mut narrow = [f16::ZERO; LANES];
    narrow.convert_from_f32_slice(values);
    narrow
}

/// Conversions of `f16`, for which `fearless_simd` has no type.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256, __m256i, __m512, _MM_FROUND_TO_NEAREST_INT, _mm256_cvtph_ps, _mm256_cvtps_ph,
        _mm512_cvtph_ps, _mm512_cvtps_ph,
    };

    fearless_simd::kernel!(
        #[inline(always)]
        pub(super) fn widen_avx2(avx2: Avx2, bits: __m128i) -> __m256 {
            _mm256_cvtph_ps(bits)
        }
    );
    fearless_simd::kernel!(
        #[inline(always)]
        pub(super) fn narrow_avx2(avx2: Avx2, values: __m256) -> __m128i {
            _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values)
        }
    );
    fearless_simd::kernel!(
        #[inline(always)]
        pub(super) fn widen_avx512(avx512: Avx512, bits: __m256i) -> __m512 {
            _mm512_cvtph_ps(bits)
        }
    );
    fearless_simd::kernel!(
        #[inline(always)]
        pub(super) fn narrow_avx512(avx512: Avx512, values: __m512) -> __m256i {
            _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values)
        }
    );
}
