//! Rounding to 16 bits in integer arithmetic.

use crate::exact::BinaryFormat;

/// Fraction bits and exponent bias of `f32`.
const FRACTION_BITS: u32 = 23;
const BIAS: u32 = 127;

/// Returns the bits of `x` rounded to a 16-bit format: to nearest, ties to even, to infinity beyond the largest number.
///
/// The magnitude is an integer times a power of two. The format's unit in the last place is a larger power of two, and at least
/// the smallest number, so that subnormals need no case of their own. The difference of the exponents is the number of bits to
/// drop.
#[inline(always)]
pub(super) fn round16<T: BinaryFormat>(x: f32) -> u16 {
    let (sign, magnitude) = (x.to_bits() >> 31, x.to_bits() & 0x7fff_ffff);
    let infinity = ((1 << T::EXPONENT_BITS) - 1) << T::FRACTION_BITS;
    // The stored exponent, in `f32`, of the format's smallest normal number.
    let smallest = BIAS - ((1 << (T::EXPONENT_BITS - 1)) - 1) + 1;

    let (stored, fraction) = (magnitude >> FRACTION_BITS, magnitude & ((1 << FRACTION_BITS) - 1));
    let implied = if stored == 0 { 0 } else { 1 << FRACTION_BITS };
    let (whole, exponent) = (fraction | implied, stored.max(1));

    // Dropping one bit more than `whole` has leaves less than half a unit.
    let dropped =
        (FRACTION_BITS - T::FRACTION_BITS + smallest.saturating_sub(exponent)).min(FRACTION_BITS + 2);
    let (below, rest, half) = (whole >> dropped, whole & ((1 << dropped) - 1), 1 << (dropped - 1));
    let up = (rest > half) | ((rest == half) & (below & 1 == 1));

    // The implied bit of `below` adds one to the exponent, as does a carry out of the fraction.
    let bits = ((exponent.max(smallest) - smallest) << T::FRACTION_BITS) + below + u32::from(up);
    let rounded = if magnitude > 0x7f80_0000 { infinity | 1 } else { bits.min(infinity) };
    ((sign << 15) | rounded) as u16
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn check<T: BinaryFormat>(decode: fn(u16) -> f32, encode: fn(f32) -> u16) {
        let infinity: u16 = ((1 << T::EXPONENT_BITS) - 1) << T::FRACTION_BITS;
        for bits in 0..=u16::MAX {
            let x = decode(bits);
            if x.is_nan() {
                assert!(round16::<T>(x) & 0x7fff > infinity, "{bits:#06x}");
                continue;
            }
            assert_eq!(round16::<T>(x), bits);
            if bits & 0x7fff == infinity {
                continue;
            }
            // The midpoint to the next number, and its neighbours in `f32`. Beyond the largest number, the next one is that of a
            // format with a larger exponent range.
            let next = decode(bits + 1);
            let next = if next.is_finite() {
                f64::from(next)
            } else {
                2.0 * f64::from(x) - f64::from(decode(bits - 1))
            };
            let middle = f64::from(x).midpoint(next) as f32;
            assert_eq!(f64::from(middle), f64::from(x).midpoint(next));
            let away = bits + 1;
            let even = if bits & 1 == 0 { bits } else { away };
            for (y, expected) in
                [(middle, even), (step(middle, -1), bits), (step(middle, 1), away), (step(x, 1), bits)]
            {
                assert_eq!(round16::<T>(y), expected, "{y:e}");
                assert_eq!(encode(y), expected, "{y:e}");
            }
        }
    }

    /// Returns the neighbour away from zero (1) or towards it (-1).
    fn step(x: f32, by: i32) -> f32 {
        f32::from_bits(x.to_bits().wrapping_add_signed(by))
    }

    #[test]
    fn midpoints_go_to_even_and_their_neighbours_to_the_nearest() {
        check::<f16>(|bits| f16::from_bits(bits).into(), |x| f16::from_f32(x).to_bits());
        check::<bf16>(|bits| bf16::from_bits(bits).into(), |x| bf16::from_f32(x).to_bits());
    }

    #[test]
    fn every_sixteenth_pattern_of_f32_rounds_as_in_the_half_crate() {
        for bits in (0..=u32::MAX >> 4).map(|bits| bits.wrapping_mul(16).wrapping_add((bits >> 7) & 15)) {
            let x = f32::from_bits(bits);
            if !x.is_nan() {
                assert_eq!(round16::<f16>(x), f16::from_f32(x).to_bits(), "{x:e}");
                assert_eq!(round16::<bf16>(x), bf16::from_f32(x).to_bits(), "{x:e}");
            }
        }
    }
}
