//! The baselines write the same updates as the combiners.

use crate::common::{Format, difference, draw};
use half::{bf16, f16};
use retainfirst_core::{Baseline, Combiner, Error, PARALLEL_MIN_ELEMENTS, apply_elementwise, baseline};

fn check<T: Format + Baseline>() {
    for n in [0, 1, 7, 3001, PARALLEL_MIN_ELEMENTS + 70_001] {
        let (forget, retain): (Vec<T>, Vec<T>) = (draw(n, 1, 3.0), draw(n, 2, 1.0));
        for combiner in [Combiner::Sum, Combiner::Sago, Combiner::SagoKeepRetain] {
            let [mut measured, mut alone] = [retain.clone(), retain.clone()];
            apply_elementwise(combiner, 0.7, 1.3, vec![(&forget[..], &mut measured[..])], true).unwrap();
            apply_elementwise(combiner, 0.7, 1.3, vec![(&forget[..], &mut alone[..])], false).unwrap();
            assert_eq!(difference(&alone, &measured), None, "{combiner:?}, {n}");
            if combiner == Combiner::Sum {
                let mut plain = retain.clone();
                baseline(0.7, 1.3, vec![(&forget[..], &mut plain[..])]).unwrap();
                assert_eq!(difference(&plain, &measured), None, "baseline, {n}");
            }
        }
    }
}

#[test]
fn the_baselines_write_the_updates_of_the_combiners() {
    check::<f64>();
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}

#[test]
fn bad_input_is_refused() {
    let mut retain = [1.0_f32, 2.0];
    let refused = baseline(1.0, 1.0, vec![(&[1.0][..], &mut retain[..])]).unwrap_err();
    assert!(matches!(refused, Error::LengthMismatch { .. }), "{refused}");
    let refused = baseline(0.0, 1.0, vec![(&[1.0, 1.0][..], &mut retain[..])]).unwrap_err();
    assert!(refused.to_string().starts_with("alpha: "), "{refused}");
    let refused =
        apply_elementwise(Combiner::Pcgrad, 1.0, 1.0, vec![(&[1.0, 1.0][..], &mut retain[..])], false)
            .unwrap_err();
    assert!(matches!(refused, Error::UnknownCombiner { .. }), "{refused}");
    assert_eq!(retain, [1.0, 2.0]);
}
