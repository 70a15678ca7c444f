//! Each combiner for each format, in place, on one thread, beside the baseline `r = g f + a r`.
//!
//! `cargo bench -p retainfirst-core --features baseline` prints elements a second. Compare the time of a combiner with that of
//! `baseline` at the same size and format.

use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use half::{bf16, f16};
use retainfirst_core::{Baseline, Combiner, baseline, combine_in_place};

/// In the L1 or L2 cache, in the L3 cache, in memory.
const SIZES: [usize; 3] = [8_000, 1_000_000, 10_000_000];

/// Returns reproducible values between -1 and 1. Signs are random, so that a branch on them would be mispredicted.
fn values<T>(n: usize, mut state: u64, convert: impl Fn(f32) -> T) -> Vec<T> {
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        convert((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    std::iter::repeat_with(next).take(n).collect()
}

fn bench_format<T: Baseline>(c: &mut Criterion, name: &str, convert: fn(f32) -> T) {
    for n in SIZES {
        let forget = values(n, 1, convert);
        let mut retain = values(n, 2, convert);
        let mut group = c.benchmark_group(format!("{name}/{n}"));
        settings(&mut group, n);
        group.bench_function("baseline", |b| {
            b.iter(|| baseline(1.0, 0.25, vec![(&forget, black_box(&mut retain))]));
        });
        for combiner in Combiner::ALL {
            group.bench_function(combiner.name(), |b| {
                b.iter(|| combine_in_place(combiner, 1.0, 0.25, &forget, black_box(&mut retain), &[0..n]));
            });
        }
        group.finish();
    }
}

fn settings(group: &mut BenchmarkGroup<'_, WallTime>, n: usize) {
    group.throughput(Throughput::Elements(n as u64));
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
}

fn combiners(c: &mut Criterion) {
    let started = rayon::ThreadPoolBuilder::new().num_threads(1).build_global();
    started.expect("nothing has used the global pool yet");
    bench_format(c, "float64", f64::from);
    bench_format(c, "float32", |x| x);
    bench_format(c, "float16", f16::from_f32);
    bench_format(c, "bfloat16", bf16::from_f32);
}

criterion_group!(benches, combiners);
criterion_main!(benches);
