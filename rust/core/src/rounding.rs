//! Rounding of `f64` to a narrower format, in a given direction.

use fearless_simd::f64x8;
use fearless_simd::prelude::*;

/// Rounds to a format of so many significant `DIGITS` whose smallest number is `2^LEAST`: up where `direction` is above zero,
/// down where it is below, to nearest with ties to even where it is zero.
///
/// The exponent is not bounded above. What the format cannot hold so becomes infinite when it is converted, also where a
/// bounded rounding toward zero would have hidden the overflow behind the largest number.
#[inline(always)]
pub(crate) fn round_toward<S: Simd, const DIGITS: i32, const LEAST: i32>(
    value: f64x8<S>,
    direction: f64x8<S>,
) -> f64x8<S> {
    // Beyond the range of every narrower format, and not so large that anything below overflows.
    const LARGE: f64 = power_of_two(200);
    let zero = f64x8::splat(value.token(), 0.0);
    let size = value.abs();
    let power: f64x8<S> = (size.to_bits() & f64::INFINITY.to_bits()).bitcast();
    let unit = (power * const { power_of_two(1 - DIGITS) }).max(const { power_of_two(LEAST) });
    // The sum lies where numbers of 53 bits are `unit` apart, so that the processor's own rounding is to whole units.
    let shift = unit * const { power_of_two(52) };
    let near = (size + shift) - shift;
    let (up, down) = (direction.simd_gt(zero), direction.simd_lt(zero));
    let (above, below) = (value.simd_gt(zero), value.simd_lt(zero));
    let outward = ((up & above) | (down & below)) & near.simd_lt(size);
    let inward = ((up & below) | (down & above)) & near.simd_gt(size);
    let rounded = near + outward.select(unit, zero) - inward.select(unit, zero);
    // Infinity and NaN stay what they are.
    size.simd_lt(LARGE).select(rounded.copysign(value), value)
}

/// Returns `2^exponent` for exponents of normal numbers.
const fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023).cast_unsigned() as u64) << 52)
}
