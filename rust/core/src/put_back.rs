//! Putting back coordinates of a step that work against the retain gradient, a few at a time.

use fearless_simd::{f32x16, f64x8, i16x32, prelude::*, u16x32, u32x16, u64x8};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::simd::{LANES, load_f32, load_f64};

/// Returns where the step from `before` to `after` has the sign of `signs`; with `ZEROS` also where `signs` is zero.
#[inline(always)]
fn opposing<S: Simd, V: SimdBase<S>, const ZEROS: bool>(before: V, after: V, signs: V, zero: V) -> V::Mask {
    let (up, down) = (after.simd_gt(before), before.simd_gt(after));
    let put = (up & signs.simd_gt(zero)) | (down & zero.simd_gt(signs));
    if ZEROS { put | ((up | down) & signs.simd_eq(zero)) } else { put }
}

macro_rules! put_back_floats {
    ($name:ident, $float:ty, $vector:ident, $bits:ident, $load:ident, $count:literal) => {
        /// Returns the number of elements that were put back. NaN compares as false, and so is never put back.
        #[inline(always)]
        pub(crate) fn $name<S: Simd, const ZEROS: bool>(
            simd: S,
            before: &[$float; LANES],
            after: &mut [$float; LANES],
            signs: &[$float; LANES],
        ) -> u32 {
            let (b, a, s) = ($load(simd, before), $load(simd, after), $load(simd, signs));
            let zero = $vector::splat(simd, 0.0);
            let mut places = 0;
            // Stored one vector at a time: an array of them would be copied by way of the stack.
            let (chunks, _) = after.as_chunks_mut::<{ LANES / $count }>();
            for i in 0..$count {
                let put = opposing::<S, _, ZEROS>(b[i], a[i], s[i], zero);
                // Bits, and no `select`: the compiler would turn it into a masked store, which is slow on AMD.
                let (bits, kept) = (b[i].to_bits(), a[i].to_bits());
                let mask: $bits<S> = put.to_vector().bitcast();
                let merged = kept ^ ((kept ^ bits) & mask);
                $vector::from_bits(merged).store_array(&mut chunks[i]);
                places |= put.to_bitmask() << (i * LANES / $count);
            }
            places.count_ones()
        }
    };
}

put_back_floats!(put_back_f32, f32, f32x16, u32x16, load_f32, 2);
put_back_floats!(put_back_f64, f64, f64x8, u64x8, load_f64, 4);

/// Returns integers in the order of the 16-bit floats with these bits, with one zero.
#[inline(always)]
fn ordered<S: Simd>(bits: i16x32<S>) -> i16x32<S> {
    let magnitude = bits & i16::MAX;
    bits.simd_lt(0).select(-magnitude, magnitude)
}

macro_rules! put_back_halves {
    ($name:ident, $half:ty) => {
        /// Returns the number of elements that were put back. NaN is never put back.
        ///
        /// It compares integers: widening and narrowing would take longer, and would make a signalling NaN quiet.
        #[inline(always)]
        pub(crate) fn $name<S: Simd, const ZEROS: bool>(
            simd: S,
            before: &[$half; LANES],
            after: &mut [$half; LANES],
            signs: &[$half; LANES],
        ) -> u32 {
            let b: i16x32<S> = u16x32::from_slice(simd, before.reinterpret_cast()).bitcast();
            let a: i16x32<S> = u16x32::from_slice(simd, after.reinterpret_cast()).bitcast();
            let s: i16x32<S> = u16x32::from_slice(simd, signs.reinterpret_cast()).bitcast();
            let zero = i16x32::splat(simd, 0);
            let largest = (b & i16::MAX).max(a & i16::MAX).max(s & i16::MAX);
            let numbers = largest.simd_le(<$half>::INFINITY.to_bits().cast_signed());
            let put = numbers & opposing::<S, _, ZEROS>(ordered(b), ordered(a), ordered(s), zero);
            put.select(b, a).bitcast::<u16x32<S>>().store_slice(after.reinterpret_cast_mut());
            put.to_bitmask().count_ones()
        }
    };
}

put_back_halves!(put_back_f16, f16);
put_back_halves!(put_back_bf16, bf16);
