//! No function accesses memory outside its arrays.
//!
//! Each array is tested in three places: just before and just after a page without access rights, where one element too far is a
//! segmentation fault; and on the heap, where valgrind knows the bounds (`make test-memory`). Valgrind does not support AVX-512,
//! so that its code is checked only by the first two.

mod place;

use half::{bf16, f16};
use retainfirst_core::exact::{BinaryFormat, compare_cosines, dot_product, dot_sign};
use retainfirst_core::exhaustive::{self, SixteenBit};
use retainfirst_core::{
    Baseline, Coefficients, Combiner, PutBack, Rounding, Step, apply_elementwise, apply_linear, baseline,
    combine_in_place, combine_into, geometry, guard, moments,
};

use crate::place::Place;

const WEIGHTS: (f64, f64) = (0.7, 1.3);
const ELEMENTWISE: [Combiner; 3] = [Combiner::Sum, Combiner::Sago, Combiner::SagoKeepRetain];

/// The length of a chunk, into which arrays are cut.
const CHUNK: usize = 1 << 16;

/// Returns reproducible values between -1 and 1.
fn values<T>(n: usize, mut state: u64, convert: fn(f32) -> T) -> Vec<T> {
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        convert((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// Calls every function that takes arrays with `n` elements, and returns the bits of all results.
fn everything<T: BinaryFormat + Baseline>(n: usize, place: Place, convert: fn(f32) -> T) -> Vec<u64> {
    let (alpha, gamma) = WEIGHTS;
    let put = |seed| place.put(&values(n, seed, convert));
    let (forget, retain) = (put(1), put(2));
    let (mut written, mut counts) = (Vec::new(), Vec::new());
    let mut rows = moments(&[(&forget, &retain)]).unwrap();

    let groups = [n / 3..n, 0..n / 3];
    for combiner in Combiner::ALL {
        let (mut out, mut gradient) = (put(3), put(2));
        rows.extend(combine_into(combiner, alpha, gamma, &forget, &retain, &mut out, &groups).unwrap());
        rows.extend(combine_in_place(combiner, alpha, gamma, &forget, &mut gradient, &groups).unwrap());
        rows.extend(geometry(&forget, &retain, &out, &groups).unwrap());
        written.extend([out, gradient]);
    }
    for combiner in ELEMENTWISE {
        let (mut measured, mut alone) = (put(2), put(2));
        rows.extend(apply_elementwise(combiner, alpha, gamma, vec![(&forget, &mut measured)], true).unwrap());
        rows.extend(apply_elementwise(combiner, alpha, gamma, vec![(&forget, &mut alone)], false).unwrap());
        written.extend([measured, alone]);
    }
    for rounding in [Rounding::Nearest, Rounding::TowardRetain] {
        let mut gradient = put(2);
        let coefficients = [Coefficients { retain: alpha, forget: -gamma }];
        rows.extend(apply_linear(vec![(&forget, &mut gradient)], &coefficients, rounding, true).unwrap());
        written.push(gradient);
    }
    let mut gradient = put(2);
    baseline(alpha, gamma, vec![(&forget, &mut gradient)]).unwrap();
    written.push(gradient);

    for put_back in [PutBack::Nothing, PutBack::Opposing, PutBack::OpposingAndZeros] {
        for measured in [false, true] {
            let (before, mut after, signs) = (put(3), put(4), put(5));
            let gradients = measured.then_some((&**forget, &**retain));
            let signs = (put_back != PutBack::Nothing).then_some(&**signs);
            let step = Step { before: &before, after: &mut after, signs, gradients };
            let guarded = guard(put_back, vec![step]).unwrap();
            rows.extend(guarded.iter().map(|guarded| guarded.moments.clone()));
            counts.extend(guarded.iter().map(|guarded| guarded.put_back));
            written.push(after);
        }
    }

    let sign = dot_sign(&forget, &retain).unwrap() as u64;
    // Empty vectors have no cosine.
    let order = compare_cosines(&forget, &retain, &put(3)).map_or(0, |order| order as u64);
    let product = dot_product(&forget, &retain).unwrap().iter_u64_digits().collect();
    let bits = |array: &[T]| T::bits(array).iter().map(|&bits| bits.into()).collect::<Vec<_>>();
    let rows = rows.iter().flat_map(|row| row.row().map(f64::to_bits)).collect();
    let written = written.iter().flat_map(|array| bits(array)).collect();
    [vec![sign, order], counts, product, rows, written].concat()
}

fn check<T: BinaryFormat + Baseline>(lengths: impl IntoIterator<Item = usize>, convert: fn(f32) -> T) {
    for n in lengths {
        let expected = everything(n, Place::Heap, convert);
        for place in Place::ALL {
            assert!(everything(n, place, convert) == expected, "{n} elements, {place:?}");
        }
    }
}

/// Every remainder of 32, the length of a step, twice.
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

/// For valgrind: the check allocates its own arrays.
#[test]
fn a_row_of_the_exhaustive_check() {
    fn check<T: SixteenBit>(one: u32) {
        let outcome = exhaustive::check::<T>(Combiner::Sago, 1.0, 1.0, one..one + 1).unwrap();
        assert_eq!(outcome.violation, None);
    }
    check::<f16>(0x3c00);
    check::<bf16>(0x3f80);
}
