//! Vectors of AVX-512.

use std::arch::x86_64::{
    __m512, __m512d, __m512i, __mmask8, __mmask16, _CMP_GT_OQ, _CMP_NEQ_OQ, _CMP_NEQ_UQ, _CMP_UNORD_Q,
    _MM_FROUND_TO_NEAREST_INT, _mm256_loadu_si256, _mm256_storeu_si256, _mm512_abs_pd, _mm512_add_epi32,
    _mm512_add_pd, _mm512_add_ps, _mm512_and_si512, _mm512_castpd_si512, _mm512_castps_si512,
    _mm512_castps256_ps512, _mm512_castps512_ps256, _mm512_castsi512_ps, _mm512_cmp_pd_mask,
    _mm512_cmp_ps_mask, _mm512_cvtpd_ps, _mm512_cvtph_ps, _mm512_cvtps_pd, _mm512_cvtps_ph,
    _mm512_extractf32x8_ps, _mm512_fmadd_pd, _mm512_insertf32x8, _mm512_loadu_pd, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_blend_epi16, _mm512_mask_blend_pd, _mm512_mask_blend_ps,
    _mm512_mask_cmp_pd_mask, _mm512_mask_cmp_ps_mask, _mm512_mask_or_epi32, _mm512_mask_sub_epi32,
    _mm512_movepi32_mask, _mm512_movepi64_mask, _mm512_mul_pd, _mm512_mul_ps, _mm512_set1_epi32,
    _mm512_set1_pd, _mm512_set1_ps, _mm512_setzero_pd, _mm512_setzero_ps, _mm512_slli_epi32,
    _mm512_srli_epi32, _mm512_storeu_pd, _mm512_storeu_ps, _mm512_storeu_si512, _mm512_xor_pd, _mm512_xor_ps,
};

use half::{bf16, f16};

use super::lanes::{Arithmetic, Lanes, Products, SUMS};
use super::{Instructions, LANES, QUIET, UPPER};

/// AVX-512 F, BW, DQ and VL: a value, of this type or of a vector, is made only in functions that are compiled with these.
#[derive(Clone, Copy)]
pub(super) struct Avx512(pub(super) ());

#[derive(Clone, Copy)]
pub struct Floats(__m512);

#[derive(Clone, Copy)]
pub struct Doubles(__m512d);

/// Calls instructions.
macro_rules! avx512 {
    ($($body:tt)*) => {
        // SAFETY: a value of a type of this module, or of a vector made by one, proves that the machine has the instructions.
        // What is read and written are arrays as long as the vector, at any alignment.
        unsafe { $($body)* }
    };
}

const FLOATS: usize = 16;
const DOUBLES: usize = 8;

impl Arithmetic for Floats {
    type Scalar = f32;

    #[inline(always)]
    fn filled(self, value: f32) -> Self {
        Self(avx512!(_mm512_set1_ps(value)))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(avx512!(_mm512_add_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(avx512!(_mm512_mul_ps(self.0, other.0)))
    }
}

impl Arithmetic for Doubles {
    type Scalar = f64;

    #[inline(always)]
    fn filled(self, value: f64) -> Self {
        Self(avx512!(_mm512_set1_pd(value)))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(avx512!(_mm512_add_pd(self.0, other.0)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(avx512!(_mm512_mul_pd(self.0, other.0)))
    }
}

impl Lanes for Floats {
    type Mask = __mmask16;
    type Double = [Doubles; 2];

    const COUNT: usize = FLOATS;

    #[inline(always)]
    fn conflict(self, other: Self) -> __mmask16 {
        avx512! {
            let zero = _mm512_setzero_ps();
            let signs_differ = _mm512_movepi32_mask(_mm512_castps_si512(_mm512_xor_ps(self.0, other.0)));
            let mask = _mm512_mask_cmp_ps_mask::<_CMP_NEQ_OQ>(signs_differ, self.0, zero);
            _mm512_mask_cmp_ps_mask::<_CMP_NEQ_OQ>(mask, other.0, zero)
        }
    }

    #[inline(always)]
    fn not_finite(self, other: Self) -> __mmask16 {
        let zero = self.filled(0.0);
        // Zero times a number is NaN if and only if that is not finite; two such questions are one comparison.
        avx512!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.mul(zero).0, other.mul(zero).0))
    }

    #[inline(always)]
    fn select(mask: __mmask16, yes: Self, no: Self) -> Self {
        Self(avx512!(_mm512_mask_blend_ps(mask, no.0, yes.0)))
    }

    #[inline(always)]
    fn count(mask: __mmask16) -> u32 {
        mask.count_ones()
    }

    #[inline(always)]
    fn double(self) -> [Doubles; 2] {
        avx512! {
            let (low, high) = (_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0));
            [Doubles(_mm512_cvtps_pd(low)), Doubles(_mm512_cvtps_pd(high))]
        }
    }

    #[inline(always)]
    fn nearest([low, high]: [Doubles; 2]) -> Self {
        avx512! {
            let low = _mm512_castps256_ps512(_mm512_cvtpd_ps(low.0));
            Self(_mm512_insertf32x8::<1>(low, _mm512_cvtpd_ps(high.0)))
        }
    }

    #[inline(always)]
    fn odd(double: [Doubles; 2]) -> Self {
        let near = Self::nearest(double);
        let back = near.double();
        let (mut beyond, mut inexact) = (0, 0);
        for i in 0..2 {
            let (x, y): (__m512d, __m512d) = (back[i].0, double[i].0);
            let masks: (__mmask8, __mmask8) = avx512! {(
                _mm512_cmp_pd_mask::<_CMP_GT_OQ>(_mm512_abs_pd(x), _mm512_abs_pd(y)),
                _mm512_cmp_pd_mask::<_CMP_NEQ_UQ>(x, y),
            )};
            beyond |= __mmask16::from(masks.0) << (8 * i);
            inexact |= __mmask16::from(masks.1) << (8 * i);
        }
        avx512! {
            let (bits, one) = (_mm512_castps_si512(near.0), _mm512_set1_epi32(1));
            let down = _mm512_mask_sub_epi32(bits, beyond, bits, one);
            Self(_mm512_castsi512_ps(_mm512_mask_or_epi32(down, inexact, down, one)))
        }
    }

    #[inline(always)]
    fn write(self, out: &mut [f32]) {
        let out = out.first_chunk_mut::<FLOATS>().expect("room for all lanes");
        avx512!(_mm512_storeu_ps(out.as_mut_ptr(), self.0));
    }

    #[inline(always)]
    fn read(self, values: &[f32]) -> Self {
        let values = values.first_chunk::<FLOATS>().expect("a value for each lane");
        Self(avx512!(_mm512_loadu_ps(values.as_ptr())))
    }
}

impl Products for Floats {
    #[inline(always)]
    fn add_products(self, other: Self, sums: &mut [f64]) {
        let ([x_low, x_high], [y_low, y_high]) = (self.double(), other.double());
        let sums = sums.first_chunk_mut::<SUMS>().expect("all sums");
        avx512! {
            let low = _mm512_fmadd_pd(x_low.0, y_low.0, _mm512_loadu_pd(sums.as_ptr()));
            _mm512_storeu_pd(sums.as_mut_ptr(), _mm512_fmadd_pd(x_high.0, y_high.0, low));
        }
    }
}

impl Lanes for Doubles {
    type Mask = __mmask8;
    type Double = Self;

    const COUNT: usize = DOUBLES;

    #[inline(always)]
    fn conflict(self, other: Self) -> __mmask8 {
        avx512! {
            let zero = _mm512_setzero_pd();
            let signs_differ = _mm512_movepi64_mask(_mm512_castpd_si512(_mm512_xor_pd(self.0, other.0)));
            let mask = _mm512_mask_cmp_pd_mask::<_CMP_NEQ_OQ>(signs_differ, self.0, zero);
            _mm512_mask_cmp_pd_mask::<_CMP_NEQ_OQ>(mask, other.0, zero)
        }
    }

    #[inline(always)]
    fn not_finite(self, other: Self) -> __mmask8 {
        let zero = self.filled(0.0);
        avx512!(_mm512_cmp_pd_mask::<_CMP_UNORD_Q>(self.mul(zero).0, other.mul(zero).0))
    }

    #[inline(always)]
    fn select(mask: __mmask8, yes: Self, no: Self) -> Self {
        Self(avx512!(_mm512_mask_blend_pd(mask, no.0, yes.0)))
    }

    #[inline(always)]
    fn count(mask: __mmask8) -> u32 {
        mask.count_ones()
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
        avx512!(_mm512_storeu_pd(out.as_mut_ptr(), self.0));
    }

    #[inline(always)]
    fn read(self, values: &[f64]) -> Self {
        let values = values.first_chunk::<DOUBLES>().expect("a value for each lane");
        Self(avx512!(_mm512_loadu_pd(values.as_ptr())))
    }
}

impl Instructions for Avx512 {
    type Floats = Floats;
    type Doubles = Doubles;

    #[inline(always)]
    fn load_f32(self, values: &[f32; LANES]) -> [Floats; 2] {
        let [low, high] = halves(values);
        avx512!([Floats(_mm512_loadu_ps(low.as_ptr())), Floats(_mm512_loadu_ps(high.as_ptr()))])
    }

    #[inline(always)]
    fn load_f64(self, values: &[f64; LANES]) -> [Doubles; 4] {
        let (quarters, _) = values.as_chunks::<DOUBLES>();
        avx512! {[
            Doubles(_mm512_loadu_pd(quarters[0].as_ptr())),
            Doubles(_mm512_loadu_pd(quarters[1].as_ptr())),
            Doubles(_mm512_loadu_pd(quarters[2].as_ptr())),
            Doubles(_mm512_loadu_pd(quarters[3].as_ptr())),
        ]}
    }

    #[inline(always)]
    fn widen_f16(self, values: &[f16; LANES]) -> [Floats; 2] {
        let [low, high] = halves(values);
        avx512! {
            let low = _mm512_cvtph_ps(_mm256_loadu_si256(low.as_ptr().cast()));
            let high = _mm512_cvtph_ps(_mm256_loadu_si256(high.as_ptr().cast()));
            [Floats(low), Floats(high)]
        }
    }

    #[inline(always)]
    fn narrow_f16(self, [low, high]: [Floats; 2]) -> [f16; LANES] {
        let mut narrow = [f16::ZERO; LANES];
        let (first, second) = narrow.split_at_mut(FLOATS);
        avx512! {
            let low = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(low.0);
            let high = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(high.0);
            _mm256_storeu_si256(first.as_mut_ptr().cast(), low);
            _mm256_storeu_si256(second.as_mut_ptr().cast(), high);
        }
        narrow
    }

    #[inline(always)]
    fn widen_bf16(self, values: &[bf16; LANES]) -> [Floats; 2] {
        avx512! {
            let pairs = _mm512_loadu_si512(values.as_ptr().cast());
            let even = _mm512_slli_epi32::<16>(pairs);
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(UPPER));
            [Floats(_mm512_castsi512_ps(even)), Floats(_mm512_castsi512_ps(odd))]
        }
    }

    #[inline(always)]
    fn narrow_bf16(self, [even, odd]: [Floats; 2]) -> [bf16; LANES] {
        const ODD: u32 = 0xaaaa_aaaa;
        let mut narrow = [bf16::ZERO; LANES];
        let (even, odd) = (upper_half(even), upper_half(odd));
        avx512! {
            let pairs = _mm512_mask_blend_epi16(ODD, _mm512_srli_epi32::<16>(even), odd);
            _mm512_storeu_si512(narrow.as_mut_ptr().cast(), pairs);
        }
        narrow
    }
}

/// See [`super::upper_half`].
#[inline(always)]
fn upper_half(x: Floats) -> __m512i {
    avx512! {
        let bits = _mm512_castps_si512(x.0);
        let last = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), last);
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x.0, x.0);
        _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(QUIET))
    }
}

#[inline(always)]
fn halves<T>(values: &[T; LANES]) -> [&[T; FLOATS]; 2] {
    let (low, high) = values.split_first_chunk().expect("twice as many");
    [low, high.first_chunk().expect("as many again")]
}
