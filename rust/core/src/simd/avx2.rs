//! Vectors of AVX2.

use std::arch::x86_64::{
    __m256, __m256d, __m256i, _CMP_GT_OQ, _CMP_NEQ_OQ, _CMP_NEQ_UQ, _CMP_UNORD_Q, _MM_FROUND_TO_NEAREST_INT,
    _mm_loadu_si128, _mm_storeu_si128, _mm256_add_epi32, _mm256_add_pd, _mm256_add_ps, _mm256_and_pd,
    _mm256_and_ps, _mm256_and_si256, _mm256_andnot_pd, _mm256_blend_epi16, _mm256_blendv_pd,
    _mm256_blendv_ps, _mm256_castpd_ps, _mm256_castps_pd, _mm256_castps_si256, _mm256_castps256_ps128,
    _mm256_castsi256_ps, _mm256_cmp_pd, _mm256_cmp_ps, _mm256_cvtpd_ps, _mm256_cvtph_ps, _mm256_cvtps_pd,
    _mm256_cvtps_ph, _mm256_extractf128_ps, _mm256_fmadd_pd, _mm256_loadu_pd, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_movemask_pd, _mm256_movemask_ps, _mm256_mul_pd, _mm256_mul_ps,
    _mm256_or_si256, _mm256_permute4x64_pd, _mm256_set_m128, _mm256_set1_epi32, _mm256_set1_pd,
    _mm256_set1_ps, _mm256_setzero_pd, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_slli_epi32,
    _mm256_srli_epi32, _mm256_storeu_pd, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_xor_pd, _mm256_xor_ps,
};

use half::{bf16, f16};

use super::lanes::{Arithmetic, Lanes, Products, SUMS};
use super::{Instructions, LANES, QUIET, UPPER};

/// AVX2, FMA and F16C: a value, of this type or of a vector, is made only in functions that are compiled with these.
#[derive(Clone, Copy)]
pub(super) struct Avx2(pub(super) ());

#[derive(Clone, Copy)]
pub struct Floats(__m256);

#[derive(Clone, Copy)]
pub struct Doubles(__m256d);

/// Calls instructions.
macro_rules! avx2 {
    ($($body:tt)*) => {
        // SAFETY: a value of a type of this module, or of a vector made by one, proves that the machine has the instructions.
        // What is read and written are arrays as long as the vector, at any alignment.
        unsafe { $($body)* }
    };
}

const FLOATS: usize = 8;
const DOUBLES: usize = 4;

impl Arithmetic for Floats {
    type Scalar = f32;

    #[inline(always)]
    fn filled(self, value: f32) -> Self {
        Self(avx2!(_mm256_set1_ps(value)))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(avx2!(_mm256_add_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(avx2!(_mm256_mul_ps(self.0, other.0)))
    }
}

impl Arithmetic for Doubles {
    type Scalar = f64;

    #[inline(always)]
    fn filled(self, value: f64) -> Self {
        Self(avx2!(_mm256_set1_pd(value)))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(avx2!(_mm256_add_pd(self.0, other.0)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(avx2!(_mm256_mul_pd(self.0, other.0)))
    }
}

impl Lanes for Floats {
    /// The sign bit of each lane.
    type Mask = __m256;
    type Double = [Doubles; 2];

    const COUNT: usize = FLOATS;

    #[inline(always)]
    fn conflict(self, other: Self) -> __m256 {
        avx2! {
            let zero = _mm256_setzero_ps();
            let first = _mm256_cmp_ps::<_CMP_NEQ_OQ>(self.0, zero);
            let second = _mm256_cmp_ps::<_CMP_NEQ_OQ>(other.0, zero);
            _mm256_and_ps(_mm256_xor_ps(self.0, other.0), _mm256_and_ps(first, second))
        }
    }

    #[inline(always)]
    fn not_finite(self, other: Self) -> __m256 {
        let zero = self.filled(0.0);
        // Zero times a number is NaN if and only if that is not finite; two such questions are one comparison.
        avx2!(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.mul(zero).0, other.mul(zero).0))
    }

    #[inline(always)]
    fn select(mask: __m256, yes: Self, no: Self) -> Self {
        Self(avx2!(_mm256_blendv_ps(no.0, yes.0, mask)))
    }

    #[inline(always)]
    fn count(mask: __m256) -> u32 {
        avx2!(_mm256_movemask_ps(mask)).count_ones()
    }

    #[inline(always)]
    fn double(self) -> [Doubles; 2] {
        avx2! {
            let (low, high) = (_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            [Doubles(_mm256_cvtps_pd(low)), Doubles(_mm256_cvtps_pd(high))]
        }
    }

    #[inline(always)]
    fn nearest([low, high]: [Doubles; 2]) -> Self {
        Self(avx2!(_mm256_set_m128(_mm256_cvtpd_ps(high.0), _mm256_cvtpd_ps(low.0))))
    }

    #[inline(always)]
    fn odd([low, high]: [Doubles; 2]) -> Self {
        let near = Self::nearest([low, high]);
        let [low_back, high_back] = near.double();
        avx2! {
            let bits = _mm256_castps_si256(near.0);
            let beyond = every_other(is_larger(low_back, low), is_larger(high_back, high));
            let inexact = every_other(
                _mm256_cmp_pd::<_CMP_NEQ_UQ>(low_back.0, low.0),
                _mm256_cmp_pd::<_CMP_NEQ_UQ>(high_back.0, high.0),
            );
            // A mask is -1 where it is set.
            let down = _mm256_add_epi32(bits, beyond);
            let odd = _mm256_or_si256(down, _mm256_and_si256(inexact, _mm256_set1_epi32(1)));
            Self(_mm256_castsi256_ps(odd))
        }
    }

    #[inline(always)]
    fn write(self, out: &mut [f32]) {
        let out = out.first_chunk_mut::<FLOATS>().expect("room for all lanes");
        avx2!(_mm256_storeu_ps(out.as_mut_ptr(), self.0));
    }

    #[inline(always)]
    fn read(self, values: &[f32]) -> Self {
        let values = values.first_chunk::<FLOATS>().expect("a value for each lane");
        Self(avx2!(_mm256_loadu_ps(values.as_ptr())))
    }
}

impl Products for Floats {
    #[inline(always)]
    fn add_products(self, other: Self, sums: &mut [f64]) {
        let (x, y) = (self.double(), other.double());
        let sums = sums.first_chunk_mut::<SUMS>().expect("all sums");
        let (low, high) = sums.split_at_mut(SUMS / 2);
        avx2! {
            _mm256_storeu_pd(low.as_mut_ptr(), _mm256_fmadd_pd(x[0].0, y[0].0, _mm256_loadu_pd(low.as_ptr())));
            _mm256_storeu_pd(high.as_mut_ptr(), _mm256_fmadd_pd(x[1].0, y[1].0, _mm256_loadu_pd(high.as_ptr())));
        }
    }
}

impl Lanes for Doubles {
    /// The sign bit of each lane.
    type Mask = __m256d;
    type Double = Self;

    const COUNT: usize = DOUBLES;

    #[inline(always)]
    fn conflict(self, other: Self) -> __m256d {
        avx2! {
            let zero = _mm256_setzero_pd();
            let first = _mm256_cmp_pd::<_CMP_NEQ_OQ>(self.0, zero);
            let second = _mm256_cmp_pd::<_CMP_NEQ_OQ>(other.0, zero);
            _mm256_and_pd(_mm256_xor_pd(self.0, other.0), _mm256_and_pd(first, second))
        }
    }

    #[inline(always)]
    fn not_finite(self, other: Self) -> __m256d {
        let zero = self.filled(0.0);
        avx2!(_mm256_cmp_pd::<_CMP_UNORD_Q>(self.mul(zero).0, other.mul(zero).0))
    }

    #[inline(always)]
    fn select(mask: __m256d, yes: Self, no: Self) -> Self {
        Self(avx2!(_mm256_blendv_pd(no.0, yes.0, mask)))
    }

    #[inline(always)]
    fn count(mask: __m256d) -> u32 {
        avx2!(_mm256_movemask_pd(mask)).count_ones()
    }

    #[inline(always)]
    fn double(self) -> Self {
        self
    }

    #[inline(always)]
    fn nearest(double: Self) -> Self {
        double
    }

    #[inline(always)]
    fn odd(double: Self) -> Self {
        double
    }

    #[inline(always)]
    fn write(self, out: &mut [f64]) {
        let out = out.first_chunk_mut::<DOUBLES>().expect("room for all lanes");
        avx2!(_mm256_storeu_pd(out.as_mut_ptr(), self.0));
    }

    #[inline(always)]
    fn read(self, values: &[f64]) -> Self {
        let values = values.first_chunk::<DOUBLES>().expect("a value for each lane");
        Self(avx2!(_mm256_loadu_pd(values.as_ptr())))
    }
}

#[inline(always)]
fn is_larger(x: Doubles, y: Doubles) -> __m256d {
    avx2! {
        let sign = _mm256_set1_pd(-0.0);
        _mm256_cmp_pd::<_CMP_GT_OQ>(_mm256_andnot_pd(sign, x.0), _mm256_andnot_pd(sign, y.0))
    }
}

/// Returns masks of eight times 64 bits as eight times 32.
#[inline(always)]
fn every_other(low: __m256d, high: __m256d) -> __m256i {
    avx2! {
        let mixed = _mm256_shuffle_ps::<0b10_00_10_00>(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
        let ordered = _mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(mixed));
        _mm256_castps_si256(_mm256_castpd_ps(ordered))
    }
}

impl Instructions for Avx2 {
    type Floats = [Floats; 2];
    type Doubles = [Doubles; 2];

    #[inline(always)]
    fn load_f32(self, values: &[f32; LANES]) -> [[Floats; 2]; 2] {
        let (quarters, _) = values.as_chunks::<FLOATS>();
        avx2! {
            let load = [
                _mm256_loadu_ps(quarters[0].as_ptr()),
                _mm256_loadu_ps(quarters[1].as_ptr()),
                _mm256_loadu_ps(quarters[2].as_ptr()),
                _mm256_loadu_ps(quarters[3].as_ptr()),
            ];
            [[Floats(load[0]), Floats(load[1])], [Floats(load[2]), Floats(load[3])]]
        }
    }

    #[inline(always)]
    fn load_f64(self, values: &[f64; LANES]) -> [[Doubles; 2]; 4] {
        let (eighths, _) = values.as_chunks::<DOUBLES>();
        let mut loaded = [[Doubles(avx2!(_mm256_setzero_pd())); 2]; 4];
        for i in 0..8 {
            loaded[i / 2][i % 2] = Doubles(avx2!(_mm256_loadu_pd(eighths[i].as_ptr())));
        }
        loaded
    }

    #[inline(always)]
    fn widen_f16(self, values: &[f16; LANES]) -> [[Floats; 2]; 2] {
        let (quarters, _) = values.as_chunks::<FLOATS>();
        avx2! {
            let wide = [
                _mm256_cvtph_ps(_mm_loadu_si128(quarters[0].as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(quarters[1].as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(quarters[2].as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(quarters[3].as_ptr().cast())),
            ];
            [[Floats(wide[0]), Floats(wide[1])], [Floats(wide[2]), Floats(wide[3])]]
        }
    }

    #[inline(always)]
    fn narrow_f16(self, values: [[Floats; 2]; 2]) -> [f16; LANES] {
        let mut narrow = [f16::ZERO; LANES];
        let (quarters, _) = narrow.as_chunks_mut::<FLOATS>();
        for i in 0..4 {
            avx2! {
                let bits = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values[i / 2][i % 2].0);
                _mm_storeu_si128(quarters[i].as_mut_ptr().cast(), bits);
            }
        }
        narrow
    }

    #[inline(always)]
    fn widen_bf16(self, values: &[bf16; LANES]) -> [[Floats; 2]; 2] {
        let (halves, _) = values.as_chunks::<{ 2 * FLOATS }>();
        avx2! {
            let upper = _mm256_set1_epi32(UPPER);
            let first = _mm256_loadu_si256(halves[0].as_ptr().cast());
            let second = _mm256_loadu_si256(halves[1].as_ptr().cast());
            let even = [_mm256_slli_epi32::<16>(first), _mm256_slli_epi32::<16>(second)];
            let odd = [_mm256_and_si256(first, upper), _mm256_and_si256(second, upper)];
            [
                [Floats(_mm256_castsi256_ps(even[0])), Floats(_mm256_castsi256_ps(even[1]))],
                [Floats(_mm256_castsi256_ps(odd[0])), Floats(_mm256_castsi256_ps(odd[1]))],
            ]
        }
    }

    #[inline(always)]
    fn narrow_bf16(self, [even, odd]: [[Floats; 2]; 2]) -> [bf16; LANES] {
        const ODD: i32 = 0xaa;
        let mut narrow = [bf16::ZERO; LANES];
        let (halves, _) = narrow.as_chunks_mut::<{ 2 * FLOATS }>();
        for i in 0..2 {
            let (even, odd) = (upper_half(even[i]), upper_half(odd[i]));
            avx2! {
                let pairs = _mm256_blend_epi16::<ODD>(_mm256_srli_epi32::<16>(even), odd);
                _mm256_storeu_si256(halves[i].as_mut_ptr().cast(), pairs);
            }
        }
        narrow
    }
}

/// See [`super::upper_half`].
#[inline(always)]
fn upper_half(x: Floats) -> __m256i {
    avx2! {
        let bits = _mm256_castps_si256(x.0);
        let last = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), last);
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(QUIET));
        let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x.0, x.0);
        let (rounded, quiet) = (_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet));
        _mm256_castps_si256(_mm256_blendv_ps(rounded, quiet, is_nan))
    }
}
