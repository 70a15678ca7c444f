//! The number of threads changes no bit.

use crate::common::{Format, draw};
use half::{bf16, f16};
use rayon::ThreadPoolBuilder;
use retainfirst_core::{
    Coefficients, Combiner, PARALLEL_MIN_ELEMENTS, Rounding, apply_linear, combine_in_place,
};

fn bits<T: Format>(combiner: Combiner, threads: usize) -> (Vec<u64>, Vec<[u64; 11]>) {
    let n = PARALLEL_MIN_ELEMENTS + 70_001;
    let forget: Vec<T> = draw(n, 1, 3.0);
    let mut gradient: Vec<T> = draw(n, 2, 1.0);
    let groups = [200_000..n, 0..200_000];
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let rows =
        pool.install(|| combine_in_place(combiner, 0.7, 1.3, &forget, &mut gradient, &groups)).unwrap();
    (
        gradient.into_iter().map(Format::bits).collect(),
        rows.iter().map(|row| row.row().map(f64::to_bits)).collect(),
    )
}

fn bits_toward_retain<T: Format>(threads: usize) -> (Vec<u64>, Vec<[u64; 11]>) {
    let n = PARALLEL_MIN_ELEMENTS + 70_001;
    let forget: Vec<T> = draw(n, 1, 3.0);
    let mut gradient: Vec<T> = draw(n, 2, 1.0);
    let coefficients = [Coefficients { retain: 0.7, forget: 1.3 }];
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let pairs = vec![(&forget[..], &mut gradient[..])];
    let rows = pool.install(|| apply_linear(pairs, &coefficients, Rounding::TowardRetain, true)).unwrap();
    (
        gradient.into_iter().map(Format::bits).collect(),
        rows.iter().map(|row| row.row().map(f64::to_bits)).collect(),
    )
}

fn check<T: Format>() {
    let one = bits_toward_retain::<T>(1);
    for threads in [2, 3] {
        assert!(one == bits_toward_retain::<T>(threads), "toward retain with {threads} threads");
    }

    for combiner in [Combiner::SagoKeepRetain, Combiner::Pcgrad] {
        let one = bits::<T>(combiner, 1);
        for threads in [2, 3] {
            assert!(one == bits::<T>(combiner, threads), "{combiner:?} with {threads} threads");
        }
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    check::<f64>();
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}
