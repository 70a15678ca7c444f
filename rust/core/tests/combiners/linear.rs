//! Combiners of groups: the errors of sums are bounded, coefficients follow the formula, and the update is rounded once.

use crate::common::{Format, any_pair, config, difference, draw, exact_dot, linear, usual_pair, weights};
use half::{bf16, f16};
use proptest::prelude::*;
use retainfirst_core::{
    Coefficients, Combiner, Moments, Rounding, apply_linear, combine_in_place, geometry, moments,
};

/// `f64::EPSILON` is twice the largest relative error of one rounding.
const UNIT: f64 = f64::EPSILON / 2.0;

/// Checks the six sums of a row against exact ones.
///
/// For formats with exact products, `n` additions in any order have an error of at most `n * UNIT * sum |x y|`; `n` is increased
/// for the merging. Sums of `f64` are as if computed with twice the bits and rounded once (Ogita, Rump and Oishi 2005,
/// proposition 5.5), with an error of at most `UNIT * |x y| + (n UNIT)^2 sum |x y|`; both terms are increased.
fn check_sums<T: Format>(f: &[T], r: &[T], u: &[T], row: &Moments) -> Result<(), TestCaseError> {
    let n = f.len() as f64 + 32.0;
    let found = row.row();
    let column = |name| found[Moments::COLUMNS.into_iter().position(|known| known == name).unwrap()];
    prop_assert_eq!(["ef", "er", "eu"].map(column), [0.0; 3]);
    for (name, x, y) in [("ff", f, f), ("rr", r, r), ("fr", f, r), ("uu", u, u), ("ur", u, r), ("uf", u, f)] {
        let found = column(name);
        let (exact, magnitude) = exact_dot(x, y);
        let wide = size_of::<T>() == 8;
        let bound = if wide {
            2.0 * UNIT * exact.abs() + 4.0 * (n * UNIT).powi(2) * magnitude
        } else {
            n * UNIT * magnitude
        };
        if !magnitude.is_finite() {
            prop_assert!(!found.is_finite());
            continue;
        }
        let error = (found - exact).abs();
        prop_assert!(error <= bound, "{name} = {found}, exactly {exact}");
    }
    Ok(())
}

/// Returns the coefficients of retain and forget for sums whose exponents are 0.
fn coefficients(combiner: Combiner, alpha: f64, gamma: f64, row: &Moments) -> (f64, f64) {
    let [ff, rr, fr, ..] = row.row();
    match combiner {
        Combiner::Pcgrad if fr < 0.0 && rr != 0.0 => (alpha - gamma * (fr / rr), gamma),
        Combiner::Blur if ff != 0.0 => (alpha, gamma - alpha * (fr / ff)),
        _ => (alpha, gamma),
    }
}

fn check_usual<T: Format>(f: &[T], r: &[T], alpha: f64, gamma: f64) -> Result<(), TestCaseError> {
    let middle = f.len() / 3;
    let groups = [middle..f.len(), 0..middle];
    for combiner in [Combiner::Pcgrad, Combiner::Blur] {
        let mut update = r.to_vec();
        let rows = combine_in_place(combiner, alpha, gamma, f, &mut update, &groups).unwrap();
        for (row, group) in rows.iter().zip(&groups) {
            let (f, r, u) = (&f[group.clone()], &r[group.clone()], &update[group.clone()]);
            check_sums(f, r, u, row)?;
            let (c_retain, c_forget) = coefficients(combiner, alpha, gamma, row);
            let expected: Vec<T> = f.iter().zip(r).map(|(&f, &r)| linear(c_retain, c_forget, f, r)).collect();
            prop_assert_eq!(difference(u, &expected), None, "{}", combiner.name());
        }
        // As text, in which NaN equals itself.
        let measured = geometry(f, r, &update, &groups).unwrap();
        prop_assert_eq!(format!("{:?}", measured), format!("{:?}", rows));
    }
    Ok(())
}

fn check_any<T: Format>(f: &[T], r: &[T], c_retain: f64, c_forget: f64) -> Result<(), TestCaseError> {
    let expected: Vec<T> = f.iter().zip(r).map(|(&f, &r)| linear(c_retain, c_forget, f, r)).collect();
    let mut update = r.to_vec();
    let coefficients = [Coefficients { retain: c_retain, forget: c_forget }];
    apply_linear(vec![(f, &mut update)], &coefficients, Rounding::Nearest, true).unwrap();
    prop_assert_eq!(difference(&update, &expected), None);
    for rounding in [Rounding::Nearest, Rounding::TowardRetain] {
        let [mut measured, mut alone] = [r.to_vec(), r.to_vec()];
        apply_linear(vec![(f, &mut measured)], &coefficients, rounding, true).unwrap();
        apply_linear(vec![(f, &mut alone)], &coefficients, rounding, false).unwrap();
        prop_assert_eq!(difference(&alone, &measured), None);
    }
    Ok(())
}

macro_rules! check_format {
    ($name:ident, $format:ty) => {
        mod $name {
            use super::*;

            proptest! {
                #![proptest_config(config())]

                #[test]
                fn updates_follow_the_sums((f, r) in usual_pair::<$format>(), (alpha, gamma) in weights()) {
                    check_usual(&f, &r, alpha, gamma)?;
                }

                #[test]
                fn any_values_are_rounded_once(
                    (f, r) in any_pair::<$format>(), c_retain in any::<f64>(), c_forget in -4.0..4.0_f64,
                ) {
                    check_any(&f, &r, c_retain, c_forget)?;
                }

                /// With one and zero as elements, the coefficient itself is rounded.
                #[test]
                fn any_coefficient_is_rounded_once(exponent in -160..140_i32, mantissa in 1.0..2.0_f64, low in any::<bool>()) {
                    // Few set bits give ties, and the last bit gives their neighbours.
                    let few = f64::from_bits(mantissa.to_bits() >> 40 << 40 | u64::from(low));
                    for x in [mantissa, few, -few] {
                        let one = <$format>::rounded(1.0);
                        check_any(&[one], &[one], x * 2_f64.powi(exponent), 0.0)?;
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

#[test]
fn neighbours_of_ties_are_rounded_once() {
    let (mut half, mut brain) = ([f16::ONE], [bf16::ONE]);
    let by = |c| [Coefficients { retain: c, forget: 0.0 }];
    let beside = 2_f64.powi(-40);
    apply_linear(
        vec![(&[f16::ONE][..], &mut half[..])],
        &by(1.0 + 2_f64.powi(-11) + beside),
        Rounding::Nearest,
        true,
    )
    .unwrap();
    apply_linear(
        vec![(&[bf16::ONE][..], &mut brain[..])],
        &by(1.0 + 2_f64.powi(-8) + beside),
        Rounding::Nearest,
        true,
    )
    .unwrap();
    assert_eq!(half, [f16::from_bits(f16::ONE.to_bits() + 1)]);
    assert_eq!(brain, [bf16::from_bits(bf16::ONE.to_bits() + 1)]);
}

proptest! {
    #![proptest_config(config())]

    /// Scaling by powers of two changes no rounding, so that the update of scaled gradients is the scaled update, even where
    /// squares would leave the range of `f64`.
    #[test]
    fn projection_survives_any_exponent(n in 1..3000_usize, seed: u64, exponent in -950..950_i32) {
        let shift = 2_f64.powi(exponent / 2) * 2_f64.powi(exponent - exponent / 2);
        let (f, r): (Vec<f64>, Vec<f64>) = (draw(n, seed, 2.0), draw(n, seed.wrapping_add(1), 1.0));
        let scaled = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| x * shift).collect() };
        for combiner in [Combiner::Pcgrad, Combiner::Blur] {
            let (mut usual, mut extreme) = (r.clone(), scaled(&r));
            let row = &combine_in_place(combiner, 1.0, 0.5, &f, &mut usual, &[0..n]).unwrap()[0];
            let far = &combine_in_place(combiner, 1.0, 0.5, &scaled(&f), &mut extreme, &[0..n]).unwrap()[0];
            prop_assert_eq!(difference(&extreme, &scaled(&usual)), None);
            let cosine = |row: &Moments| {
                let [ff, rr, fr, ..] = row.row();
                fr / ff.sqrt() / rr.sqrt()
            };
            // Square roots, and blocks with different exponents, round differently.
            let (near, far) = (cosine(row), cosine(far));
            prop_assert!(near.is_nan() == far.is_nan() && (near.is_nan() || (near - far).abs() <= 8.0 * UNIT), "{} {}", near, far);
        }
    }
}

#[test]
fn the_smallest_and_the_largest_numbers_are_projected() {
    for unit in [1000.0 * 5e-324, 1e-300, 1e-160, 1.0, 1e160, 1e300] {
        let forget = [-4.0 * unit, unit];
        let mut gradient = [unit, unit];
        let rows = combine_in_place(Combiner::Pcgrad, 1.0, 1.0, &forget, &mut gradient, &[0..2]).unwrap();
        // <f, r> / |r|^2 = -3/2, so u = (1 + 3/2) r + f.
        assert_eq!(gradient, [-1.5 * unit, 3.5 * unit], "{unit:e}");
        let [.., uu, ur, _, _] = rows[0].row();
        assert!(uu > 0.0 && uu.is_finite() && ur > 0.0 && ur.is_finite(), "{unit:e}: {rows:?}");
    }
}

#[test]
fn zeros_do_not_determine_the_exponent() {
    let n = 10_000;
    let (mut forget, mut gradient) = (vec![0.0; n], vec![0.0; n]);
    (forget[n - 1], gradient[n - 1]) = (-1e-300, 1e-300);
    let row = &moments(&[(&forget[..], &gradient[..])]).unwrap()[0];
    assert!(row.rr() > 0.0 && row.fr() < 0.0, "{row:?}");
    combine_in_place(Combiner::Pcgrad, 1.0, 1.0, &forget, &mut gradient, &[0..n]).unwrap();
    assert_eq!(gradient[n - 1], 1e-300);
}

#[test]
fn a_zero_gradient_changes_no_coefficient() {
    let (forget, mut gradient) = ([1.0_f32, 2.0], [0.0_f32, 0.0]);
    combine_in_place(Combiner::Pcgrad, 1.0, 0.5, &forget, &mut gradient, &[0..1, 1..2]).unwrap();
    assert_eq!(gradient, [0.5, 1.0]);
    combine_in_place(Combiner::Blur, 2.0, 1.0, &[0.0, -0.0], &mut gradient, &[0..1, 1..2]).unwrap();
    assert_eq!(gradient, [1.0, 2.0]);
}

#[test]
fn nan_and_infinity_show_in_the_update() {
    for combiner in [Combiner::Pcgrad, Combiner::Blur] {
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut gradient = [1.0, broken];
            combine_in_place(combiner, 1.0, 0.0, &[broken, -1.0], &mut gradient, &[0..1, 1..2]).unwrap();
            assert!(gradient.iter().all(|u| !u.is_finite()), "{combiner:?} {broken}: {gradient:?}");
        }
    }
}
