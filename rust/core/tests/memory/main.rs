//! No function touches memory beside the arrays that it is given, whatever their length and wherever they lie.
//!
//! Each array comes in three places: at the end of readable memory and at its start, so that one element too far is a
//! segmentation fault, whatever the instructions; and on the heap, where valgrind knows its bounds and what was never written
//! (`make test-memory`). Valgrind has no AVX-512: for that, the first two are the only check.

mod place;

use half::{bf16, f16};
use retainfirst_core::exact::{Exact, compare_cosines, dot_product, dot_sign};
use retainfirst_core::exhaustive::{self, Sixteen};
use retainfirst_core::{
    Coefficients, Limit, Rounding, Rule, apply_elementwise, apply_linear, apply_unmeasured, combine_in_place,
    combine_into, geometry, limit, moments,
};

use crate::place::Place;

const WEIGHTS: (f64, f64) = (0.7, 1.3);
const ELEMENTWISE: [Rule; 3] = [Rule::Sum, Rule::Sago, Rule::SagoKeepRetain];

/// An array is cut into chunks of so many elements.
const CHUNK: usize = 1 << 16;

/// Reproducible values between -1 and 1.
fn values<T>(n: usize, mut state: u64, convert: fn(f32) -> T) -> Vec<T> {
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        convert((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// Calls everything that takes arrays, with arrays of `n` elements, and returns the bits of all that came out.
fn everything<T: Exact + Limit>(n: usize, place: Place, convert: fn(f32) -> T) -> Vec<u64> {
    let (alpha, gamma) = WEIGHTS;
    let put = |seed| place.put(&values(n, seed, convert));
    let (forget, retain) = (put(1), put(2));
    let mut written = Vec::new();
    let mut rows = moments(&[(&forget, &retain)]).unwrap();

    let groups = [n / 3..n, 0..n / 3];
    for rule in Rule::ALL {
        let (mut out, mut gradient) = (put(3), put(2));
        rows.extend(combine_into(rule, alpha, gamma, &forget, &retain, &mut out, &groups).unwrap());
        rows.extend(combine_in_place(rule, alpha, gamma, &forget, &mut gradient, &groups).unwrap());
        rows.extend(geometry(&forget, &retain, &out, &groups).unwrap());
        written.extend([out, gradient]);
    }
    for rule in ELEMENTWISE {
        let (mut measured, mut alone) = (put(2), put(2));
        rows.extend(apply_elementwise(rule, alpha, gamma, vec![(&forget, &mut measured)]).unwrap());
        apply_unmeasured(rule, alpha, gamma, vec![(&forget, &mut alone)]).unwrap();
        written.extend([measured, alone]);
    }
    for rounding in [Rounding::Nearest, Rounding::TowardRetain] {
        let mut gradient = put(2);
        let coefficients = [Coefficients { retain: alpha, forget: -gamma }];
        rows.extend(apply_linear(vec![(&forget, &mut gradient)], &coefficients, rounding).unwrap());
        written.push(gradient);
    }
    let mut gradient = put(2);
    limit(alpha, gamma, vec![(&forget, &mut gradient)]).unwrap();
    written.push(gradient);

    let sign = dot_sign(&forget, &retain).unwrap() as u64;
    // An empty vector has no cosine.
    let order = compare_cosines(&forget, &retain, &put(3)).map_or(0, |order| order as u64);
    let product = dot_product(&forget, &retain).unwrap().iter_u64_digits().collect();
    let bits = |array: &[T]| T::bits(array).iter().map(|&bits| bits.into()).collect::<Vec<_>>();
    let rows = rows.iter().flat_map(|row| row.row().map(f64::to_bits)).collect();
    let written = written.iter().flat_map(|array| bits(array)).collect();
    [vec![sign, order], product, rows, written].concat()
}

fn check<T: Exact + Limit>(lengths: impl IntoIterator<Item = usize>, convert: fn(f32) -> T) {
    for n in lengths {
        let expected = everything(n, Place::Heap, convert);
        for place in Place::ALL {
            assert!(everything(n, place, convert) == expected, "{n} elements, {place:?}");
        }
    }
}

/// Every remainder of 32, the number of elements side by side, twice.
#[test]
fn short_arrays() {
    check::<f64>(0..=64, f64::from);
    check::<f32>(0..=64, |x| x);
    check::<f16>(0..=64, f16::from_f32);
    check::<bf16>(0..=64, bf16::from_f32);
}

#[test]
fn arrays_around_the_border_of_a_chunk() {
    let lengths = || [CHUNK - 1, CHUNK, CHUNK + 1];
    check::<f64>(lengths(), f64::from);
    check::<f32>(lengths(), |x| x);
    check::<f16>(lengths(), f16::from_f32);
    check::<bf16>(lengths(), bf16::from_f32);
}

/// The arrays are the check's own: this is for valgrind.
#[test]
fn a_row_of_the_exhaustive_check() {
    fn check<T: Sixteen>(one: u32) {
        let outcome = exhaustive::check::<T>(Rule::Sago, 1.0, 1.0, one..one + 1).unwrap();
        assert_eq!(outcome.violation, None);
    }
    check::<f16>(0x3c00);
    check::<bf16>(0x3f80);
}
