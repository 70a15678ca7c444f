//! Element-wise combiners have the bits of their definition.

use crate::common::{Format, any_pair, config, difference, specified, usual_pair, weights};
use half::{bf16, f16};
use proptest::prelude::*;
use retainfirst_core::{Combiner, combine_in_place, combine_into};

const COMBINERS: [Combiner; 3] = [Combiner::Sum, Combiner::Sago, Combiner::SagoKeepRetain];

fn check<T: Format>(f: &[T], r: &[T], alpha: f64, gamma: f64) -> Result<(), TestCaseError> {
    let middle = f.len() / 3;
    let groups = [middle..f.len(), 0..middle];
    for combiner in COMBINERS {
        let expected: Vec<T> =
            f.iter().zip(r).map(|(&f, &r)| specified(combiner.name(), alpha, gamma, f, r)).collect();
        let mut in_place = r.to_vec();
        let rows = combine_in_place(combiner, alpha, gamma, f, &mut in_place, &groups).unwrap();
        prop_assert_eq!(difference(&in_place, &expected), None, "{}", combiner.name());

        let mut out = vec![T::default(); f.len()];
        let same_rows = combine_into(combiner, alpha, gamma, f, r, &mut out, &groups).unwrap();
        prop_assert_eq!(difference(&out, &expected), None, "{} into", combiner.name());
        let bits = |rows: &[retainfirst_core::Moments]| -> Vec<_> {
            rows.iter().map(|row| row.row().map(f64::to_bits)).collect()
        };
        prop_assert_eq!(bits(&rows), bits(&same_rows));

        for (row, group) in rows.iter().zip(&groups) {
            let opposed = |i: &usize| {
                let (f, r) = (f[*i].value(), r[*i].value());
                (f < 0.0 && r > 0.0) || (f > 0.0 && r < 0.0)
            };
            prop_assert_eq!(row.conflicts, group.clone().filter(opposed).count() as u64);
            prop_assert_eq!(row.count, group.len() as u64);
        }
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
                fn any_values_follow_the_definition((f, r) in any_pair::<$format>(), (alpha, gamma) in weights()) {
                    check(&f, &r, alpha, gamma)?;
                }

                #[test]
                fn long_arrays_follow_the_definition((f, r) in usual_pair::<$format>(), (alpha, gamma) in weights()) {
                    check(&f, &r, alpha, gamma)?;
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
fn signs_decide_where_the_product_underflows() {
    let tiny = f32::from_bits(1);
    let mut gradient = [tiny, -tiny];
    combine_in_place(Combiner::Sago, 1.0, 1.0, &[-tiny, -tiny], &mut gradient, &[0..1, 1..2]).unwrap();
    assert_eq!(gradient, [tiny, -tiny]);
}

#[test]
fn nan_and_infinity_show_in_the_update() {
    for combiner in COMBINERS {
        for broken in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut gradient = [1.0, -1.0, broken, broken];
            let forget = [broken, broken, 1.0, -1.0];
            combine_in_place(combiner, 1.0, 1.0, &forget, &mut gradient, &[0..1, 1..4]).unwrap();
            assert!(gradient.iter().all(|u| !u.is_finite()), "{combiner:?} {broken}: {gradient:?}");
        }
    }
}
