//! Bad input gives an error that names it, and nothing is written.

use half::bf16;
use retainfirst_core::{
    Coefficients, Combiner, Error, Rounding, apply_elementwise, apply_linear, combine_in_place, combine_into,
    moments,
};

fn with_weights(combiner: Combiner, alpha: f64, gamma: f64) -> Result<(), Error> {
    let mut gradient = [1.0_f32, 2.0];
    let result = combine_in_place(combiner, alpha, gamma, &[3.0, 4.0], &mut gradient, &[0..1, 1..2]);
    if result.is_err() {
        assert_eq!(gradient, [1.0, 2.0], "written although {result:?}");
    }
    result.map(|_| ())
}

#[test]
fn weights_out_of_range() {
    for combiner in Combiner::ALL {
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let text = with_weights(combiner, alpha, 1.0).unwrap_err().to_string();
            assert!(text.starts_with("alpha: ") && text.contains("above 0"), "{text}");
        }
        for gamma in [-1.0, f64::NAN, f64::INFINITY] {
            let text = with_weights(combiner, 1.0, gamma).unwrap_err().to_string();
            assert!(text.starts_with("gamma: ") && text.contains("0 or above"), "{text}");
        }
        with_weights(combiner, 1.0, 0.0).unwrap();
    }
}

#[test]
fn weights_that_leave_the_format() {
    for (alpha, gamma) in [(1e-60, 1.0), (1e60, 1.0), (1.0, 1e-60), (1.0, 1e60)] {
        let text = with_weights(Combiner::Sum, alpha, gamma).unwrap_err().to_string();
        assert!(text.contains("in float32"), "{text}");
        // Combiners of groups compute in float64, where these weights are in range.
        with_weights(Combiner::Pcgrad, alpha, gamma).unwrap();
    }
}

#[test]
fn groups_must_partition_the_array() {
    let refuse = |groups: &[std::ops::Range<usize>]| {
        let mut gradient = [0.0_f64; 6];
        combine_in_place(Combiner::Pcgrad, 1.0, 1.0, &[0.0; 6], &mut gradient, groups).unwrap_err()
    };
    assert_eq!(refuse(&[]), Error::GroupsGap { gap: 0..6 });
    assert_eq!(refuse(&[4..6, 0..3]), Error::GroupsGap { gap: 3..4 });
    assert_eq!(refuse(&[0..3, 3..5]), Error::GroupsGap { gap: 5..6 });
    assert_eq!(refuse(&[2..6, 0..3]), Error::GroupsOverlap { first: 0..3, second: 2..6 });
    assert_eq!(refuse(&[0..6, 3..3]), Error::GroupsOverlap { first: 0..6, second: 3..3 });
    assert_eq!(refuse(&[0..3, 3..7]), Error::GroupOutOfRange { group: 3..7, length: 6 });
    let reversed = std::ops::Range { start: 3, end: 2 };
    assert_eq!(
        refuse(std::slice::from_ref(&reversed)),
        Error::GroupOutOfRange { group: reversed, length: 6 }
    );
}

#[test]
fn empty_arrays_and_groups_are_fine() {
    let rows = combine_in_place::<bf16>(Combiner::Blur, 1.0, 1.0, &[], &mut [], &[]).unwrap();
    assert!(rows.is_empty());
    let mut gradient = [bf16::ONE];
    let rows =
        combine_in_place(Combiner::Blur, 1.0, 1.0, &[bf16::ONE], &mut gradient, &[1..1, 0..1, 0..0]).unwrap();
    assert_eq!(rows.iter().map(|row| row.count).collect::<Vec<_>>(), [0, 1, 0]);
}

#[test]
fn lengths_must_be_equal() {
    let (two, mut three) = ([1.0_f32; 2], [1.0_f32; 3]);
    let mismatch = |what: &str, found, expected| Error::LengthMismatch { what: what.into(), found, expected };
    let groups = [0..1, 1..2];
    assert_eq!(
        combine_in_place(Combiner::Sum, 1.0, 1.0, &two, &mut three, &groups),
        Err(mismatch("retain", 3, 2))
    );
    assert_eq!(
        combine_into(Combiner::Sum, 1.0, 1.0, &two, &two, &mut three, &groups),
        Err(mismatch("out", 3, 2))
    );
    assert_eq!(moments(&[(&two[..], &two[..]), (&two, &three)]), Err(mismatch("retain[1]", 3, 2)));
    let coefficients = [Coefficients { retain: 1.0, forget: 1.0 }; 2];
    assert_eq!(
        apply_linear(vec![(&two[..], &mut three[..2])], &coefficients, Rounding::Nearest, true),
        Err(mismatch("coefficients", 2, 1))
    );
}

#[test]
fn combiners_by_name() {
    for combiner in Combiner::ALL {
        assert_eq!(combiner.name().parse(), Ok(combiner));
    }
    let text = "sagoo".parse::<Combiner>().unwrap_err().to_string();
    assert!(text.contains("\"sagoo\"") && text.contains("sago_keep_retain"), "{text}");
    let text = apply_elementwise::<f32>(Combiner::Blur, 1.0, 1.0, vec![], true).unwrap_err().to_string();
    assert!(text.contains("blur") && !text.contains("pcgrad"), "{text}");
}
