//! Rounding toward retain, against a search of the format and against rational arithmetic.

use crate::common::{Format, any_pair, config, difference, usual_pair};
use half::{bf16, f16};
use num_rational::BigRational;
use proptest::prelude::*;
use retainfirst_core::{Coefficients, Rounding, apply_linear};

fn written<T: Format>(f: &[T], r: &[T], retain: f64, forget: f64) -> Vec<T> {
    let mut update = r.to_vec();
    apply_linear(vec![(f, &mut update)], &[Coefficients { retain, forget }], Rounding::TowardRetain, true)
        .unwrap();
    update
}

/// Returns the element from the definition: the sum in `f64`, the margin, then one rounding in the direction of `r`.
fn defined<T: Format>(f: T, r: T, retain: f64, forget: f64) -> T {
    let (kept, taken) = (retain * r.value(), forget * f.value());
    let near = kept + taken;
    if r.value() == 0.0 || !near.is_finite() {
        return T::rounded(near);
    }
    let unit = 2_f64.powi(-51);
    let margin = unit * kept.abs() + unit * taken.abs() + 4.0 * f64::from_bits(1);
    T::toward(near + margin.copysign(r.value()), r.value())
}

fn check_bits<T: Format>(f: &[T], r: &[T], retain: f64, forget: f64) -> Result<(), TestCaseError> {
    let expected: Vec<T> = f.iter().zip(r).map(|(&f, &r)| defined(f, r, retain, forget)).collect();
    prop_assert_eq!(difference(&written(f, r, retain, forget), &expected), None);
    Ok(())
}

/// Checks that each stored element lies on retain's side of the exact one, within one unit in the last place and the margin.
fn check_exactly<T: Format>(f: &[T], r: &[T], retain: f64, forget: f64) -> Result<(), TestCaseError> {
    let number = |x: f64| BigRational::from_float(x).unwrap();
    for ((u, &f), &r) in written(f, r, retain, forget).into_iter().zip(f).zip(r) {
        if ![u, f, r].iter().all(|x| x.value().is_finite()) || r.value() == 0.0 {
            continue;
        }
        let exact = number(retain) * number(r.value()) + number(forget) * number(f.value());
        let gained = (number(u.value()) - &exact) * number(r.value().signum());
        prop_assert!(gained >= number(0.0), "{u:?} for f = {f:?}, r = {r:?}");
        let before = before(u, r.value()).value();
        if before.is_infinite() {
            continue;
        }
        // For `f64` there is only the margin.
        let unit = if size_of::<T>() == 8 { 0.0 } else { (u.value() - before).abs() };
        let size =
            number(retain.abs()) * number(r.value().abs()) + number(forget.abs()) * number(f.value().abs());
        let margin = number(2_f64.powi(-50)) * size + number(8.0 * f64::from_bits(1));
        prop_assert!(gained < number(unit) + margin, "{u:?} for f = {f:?}, r = {r:?}");
    }
    Ok(())
}

/// Returns the neighbour of `u` in the direction opposite to `r`.
fn before<T: Format>(u: T, r: f64) -> T {
    let same_sign = u.value() * r.signum() > 0.0;
    match (u.value() == 0.0, same_sign) {
        (true, _) => T::toward(f64::from_bits(1) * -r.signum(), -r),
        (false, true) => T::from_raw(u.bits() - 1),
        (false, false) => T::from_raw(u.bits() + 1),
    }
}

macro_rules! check_format {
    ($name:ident, $format:ty) => {
        mod $name {
            use super::*;

            proptest! {
                #![proptest_config(config())]

                #[test]
                fn any_values_follow_the_definition(
                    (f, r) in any_pair::<$format>(), retain in any::<f64>(), small in -4.0..4.0_f64, forget in -4.0..4.0_f64,
                ) {
                    check_bits(&f, &r, retain, forget)?;
                    check_bits(&f, &r, small, forget)?;
                    check_exactly(&f, &r, small, forget)?;
                }

                #[test]
                fn long_arrays_follow_the_definition((f, r) in usual_pair::<$format>(), forget in -4.0..4.0_f64) {
                    check_bits(&f, &r, 1.0, forget)?;
                }

                /// With one as the elements, and a forget coefficient of zero, the coefficient itself is rounded.
                #[test]
                fn any_coefficient_is_rounded_toward_retain(
                    exponent in -160..140_i32, mantissa in 1.0..2.0_f64, low in any::<bool>(),
                ) {
                    let few = f64::from_bits(mantissa.to_bits() >> 40 << 40 | u64::from(low));
                    let one = <$format>::rounded(1.0);
                    for x in [mantissa, few] {
                        for x in [x * 2_f64.powi(exponent), -x * 2_f64.powi(exponent)] {
                            check_bits(&[one, one], &[one, <$format>::rounded(-1.0)], x, 0.0)?;
                            check_exactly(&[one, one], &[one, <$format>::rounded(-1.0)], x, 0.0)?;
                        }
                    }
                }
            }
        }
    };
}

check_format!(float64, f64);
check_format!(float32, f32);
check_format!(float16, f16);
check_format!(bfloat16, bf16);

/// Checks zero, the smallest number, the largest number and overflow.
fn check_edges<T: Format>(smallest: f64, largest: f64, infinity: u64) {
    let [one, other, zero] = [1.0, -1.0, 0.0].map(T::rounded);
    let by = |c, r: T| written(&[one], &[r], 0.0, c)[0].value();
    for (value, up, down) in [
        (smallest / 2.0, smallest, 0.0),
        (smallest * 1e-20, smallest, 0.0),
        (-smallest / 2.0, 0.0, -smallest),
        (-smallest * 1e-20, 0.0, -smallest),
        (largest * (1.0 + 1e-9), f64::INFINITY, largest),
        (-largest * (1.0 + 1e-9), -largest, f64::NEG_INFINITY),
        // Twice the largest number overflows in either direction.
        (2.0 * largest, f64::INFINITY, f64::INFINITY),
        (-2.0 * largest, f64::NEG_INFINITY, f64::NEG_INFINITY),
        (1e300, f64::INFINITY, f64::INFINITY),
        (-1e300, f64::NEG_INFINITY, f64::NEG_INFINITY),
    ] {
        assert_eq!((by(value, one), by(value, other)), (up, down), "{value:e}");
    }
    assert_eq!(by(1.5 * smallest, zero), 2.0 * smallest, "ties to even without a direction");
    assert_eq!(by(0.5 * smallest, zero), 0.0);
    assert_eq!(T::rounded(largest).bits() + 1, infinity);
}

#[test]
fn the_edges_of_the_formats() {
    check_edges::<f32>(2_f64.powi(-149), f64::from(f32::MAX), 0x7f80_0000);
    check_edges::<f16>(2_f64.powi(-24), f64::from(f16::MAX), 0x7c00);
    check_edges::<bf16>(2_f64.powi(-133), f64::from(bf16::MAX), 0x7f80);
}

#[test]
fn nan_and_infinity_are_kept() {
    for (broken, r) in
        [(f64::INFINITY, 1.0), (f64::INFINITY, -1.0), (f64::NEG_INFINITY, 1.0), (f64::NEG_INFINITY, -1.0)]
    {
        assert_eq!(written(&[broken], &[r], 1.0, 1.0), [broken]);
        assert_eq!(written(&[broken as f32], &[r as f32], 1.0, 1.0), [broken as f32]);
        assert_eq!(
            written(&[bf16::from_f64(broken)], &[bf16::from_f64(r)], 1.0, 1.0),
            [bf16::from_f64(broken)]
        );
    }
    assert!(written(&[f32::NAN, 1.0], &[1.0, f32::NAN], 1.0, 1.0).iter().all(|u| u.is_nan()));
}

#[test]
fn magnitudes_whose_sum_overflows_are_still_combined() {
    let large = f64::MAX;
    let [u] = written(&[-large], &[large], 1.0, 0.5)[..] else { unreachable!() };
    assert!(u >= 0.5 * large && u < 0.5 * large * (1.0 + 1e-14), "{u:e}");
}
