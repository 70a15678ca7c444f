//! What the rules' times are held against does the work that it stands for.

use crate::common::{Format, difference, draw};
use half::{bf16, f16};
use retainfirst_core::{
    Error, Limit, PARALLEL_MIN_ELEMENTS, Rule, apply_elementwise, apply_unmeasured, limit,
};

fn check<T: Format + Limit>() {
    for n in [0, 1, 7, 3001, PARALLEL_MIN_ELEMENTS + 70_001] {
        let (forget, retain): (Vec<T>, Vec<T>) = (draw(n, 1, 3.0), draw(n, 2, 1.0));
        for rule in [Rule::Sum, Rule::Sago, Rule::SagoKeepRetain] {
            let [mut measured, mut alone] = [retain.clone(), retain.clone()];
            apply_elementwise(rule, 0.7, 1.3, vec![(&forget[..], &mut measured[..])]).unwrap();
            apply_unmeasured(rule, 0.7, 1.3, vec![(&forget[..], &mut alone[..])]).unwrap();
            assert_eq!(difference(&alone, &measured), None, "{rule:?}, {n}");
            if rule == Rule::Sum {
                let mut plain = retain.clone();
                limit(0.7, 1.3, vec![(&forget[..], &mut plain[..])]).unwrap();
                assert_eq!(difference(&plain, &measured), None, "limit, {n}");
            }
        }
    }
}

#[test]
fn the_limit_and_the_update_alone_write_what_the_rules_write() {
    check::<f64>();
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}

#[test]
fn bad_input_is_refused() {
    let mut retain = [1.0_f32, 2.0];
    let refused = limit(1.0, 1.0, vec![(&[1.0][..], &mut retain[..])]).unwrap_err();
    assert!(matches!(refused, Error::LengthMismatch { .. }), "{refused}");
    let refused = limit(0.0, 1.0, vec![(&[1.0, 1.0][..], &mut retain[..])]).unwrap_err();
    assert!(refused.to_string().starts_with("alpha: "), "{refused}");
    let refused =
        apply_unmeasured(Rule::Pcgrad, 1.0, 1.0, vec![(&[1.0, 1.0][..], &mut retain[..])]).unwrap_err();
    assert!(matches!(refused, Error::UnknownRule { .. }), "{refused}");
    assert_eq!(retain, [1.0, 2.0]);
}
