//! Roundings from `f64` to the narrower formats that a cast does not offer.

/// Rounds to `f32` so that a later rounding to a format at least two bits narrower is as if `value` were rounded once.
///
/// An inexact result is the neighbour whose last bit is odd, which no narrower format has as a value or as a tie
/// (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
#[inline(always)]
pub(crate) fn round_to_odd(value: f64) -> f32 {
    let nearest = value as f32;
    let back = f64::from(nearest);
    // Toward zero, and then odd.
    let down = nearest.to_bits().wrapping_sub(u32::from(back.abs() > value.abs()));
    f32::from_bits(down | u32::from(back != value))
}

/// Rounds to a format of so many significant `DIGITS` whose smallest number is `2^LEAST`: up where `direction` is above zero,
/// down where it is below, to nearest with ties to even where it is zero.
///
/// The exponent is not bounded above. What the format cannot hold so becomes infinite when it is converted, also where a
/// bounded rounding toward zero would have hidden the overflow behind the largest number.
#[inline(always)]
pub(crate) fn round_toward<const DIGITS: i32, const LEAST: i32>(value: f64, direction: f64) -> f64 {
    // Beyond the range of every narrower format, and not so large that anything below overflows.
    const LARGE: f64 = power_of_two(200);
    let size = value.abs();
    let power = f64::from_bits(size.to_bits() & f64::INFINITY.to_bits());
    let unit = power * const { power_of_two(1 - DIGITS) };
    let unit = if unit > const { power_of_two(LEAST) } { unit } else { const { power_of_two(LEAST) } };
    // The sum lies where numbers of 53 bits are `unit` apart, so that the processor's own rounding is to whole units.
    let shift = unit * const { power_of_two(52) };
    let near = (size + shift) - shift;
    let outward = ((direction > 0.0) & (value > 0.0)) | ((direction < 0.0) & (value < 0.0));
    let inward = ((direction > 0.0) & (value < 0.0)) | ((direction < 0.0) & (value > 0.0));
    let up = if outward & (near < size) { unit } else { 0.0 };
    let down = if inward & (near > size) { unit } else { 0.0 };
    // Infinity and NaN stay what they are.
    if size < LARGE { (near + up - down).copysign(value) } else { value }
}

/// Returns `2^exponent` for exponents of normal numbers.
const fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023).cast_unsigned() as u64) << 52)
}
