//! Sums over `f64` values: compensated, and scaled block by block so that no square leaves the range of `f64`.

use fearless_simd::f64x8;
use fearless_simd::prelude::*;

use super::double::{scale, two_sum};
use super::{Accumulate, Double, FF, FR, Moments, RR, UF, UR, UU};
use crate::simd::{SUMS, conflict, count};

/// Coordinates that are scaled and summed together; they stay in the nearest cache.
const BLOCK: usize = 1 << 10;
/// While the largest magnitude of a block is between `2^-LIMIT` and `2^LIMIT`, its sums are kept unscaled.
const LIMIT: i32 = 400;

/// The lanes of a vector, in memory.
type Row = [f64; SUMS];
type Block = [Row; BLOCK / SUMS];

pub struct ScaledSums<S> {
    simd: S,
    moments: Moments,
    conflicts: u64,
    f: Block,
    r: Block,
    u: Block,
    /// The number of rows that are filled.
    filled: usize,
}

impl<S: Simd> Accumulate<S, f64x8<S>> for ScaledSums<S> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        let block = [[0.0; SUMS]; BLOCK / SUMS];
        Self { simd, moments: Moments::default(), conflicts: 0, f: block, r: block, u: block, filled: 0 }
    }

    #[inline(always)]
    fn add<const PAIR: bool, const UPDATE: bool>(&mut self, f: f64x8<S>, r: f64x8<S>, u: f64x8<S>) {
        if self.filled == BLOCK / SUMS {
            self.add_block::<PAIR, UPDATE>();
        }
        f.store_array(&mut self.f[self.filled]);
        r.store_array(&mut self.r[self.filled]);
        if PAIR {
            self.conflicts += u64::from(count(conflict(f, r)));
        }
        if UPDATE {
            u.store_array(&mut self.u[self.filled]);
        }
        self.filled += 1;
    }

    #[inline(always)]
    fn finish<const PAIR: bool, const UPDATE: bool>(mut self, count: usize) -> Moments {
        if self.filled > 0 {
            self.add_block::<PAIR, UPDATE>();
        }
        Moments { conflicts: self.conflicts, count: count as u64, ..self.moments }
    }
}

impl<S: Simd> ScaledSums<S> {
    /// Not inlined: this is most of the code, and is the same for every combiner.
    #[inline(never)]
    fn add_block<const PAIR: bool, const UPDATE: bool>(&mut self) {
        let simd = self.simd;
        let blocks = [&self.f, &self.r, &self.u].map(|block| &block[..self.filled]);
        let part = simd.vectorize(
            #[inline(always)]
            || measure::<S, PAIR, UPDATE>(simd, blocks),
        );
        self.moments.merge(&part);
        self.filled = 0;
    }
}

#[inline(always)]
fn measure<S: Simd, const PAIR: bool, const UPDATE: bool>(simd: S, blocks: [&[Row]; 3]) -> Moments {
    let [f, r, u] = blocks;
    let exponents = [exponent(simd, f), exponent(simd, r), if UPDATE { exponent(simd, u) } else { None }];
    let sums = if exponents.iter().all(|e| e.unwrap_or(0) == 0) {
        block_sums::<S, PAIR, UPDATE>(simd, blocks)
    } else {
        scaled_sums::<S, PAIR, UPDATE>(simd, blocks, exponents)
    };
    Moments::new(sums, exponents, 0, 0)
}

/// The power of two to divide a block by: that of its largest magnitude where it is extreme, else 0; `None` for zeros.
#[inline(always)]
fn exponent<S: Simd>(simd: S, rows: &[Row]) -> Option<i32> {
    let mut largest = f64x8::splat(simd, 0.0);
    for row in rows {
        let size = f64x8::load_array_ref(simd, row).abs();
        // A comparison with NaN is false, so that NaN is never the largest.
        largest = size.simd_gt(largest).select(size, largest);
    }
    let largest = largest.to_array().into_iter().fold(0.0, f64::max);
    if largest == 0.0 {
        return None;
    }
    let exponent = binary_exponent(largest);
    Some(if largest.is_finite() && exponent.abs() > LIMIT { exponent } else { 0 })
}

/// The `e` with `2^e <= x < 2^(e + 1)` of a positive finite number.
fn binary_exponent(x: f64) -> i32 {
    const SUBNORMAL: i32 = 64;
    if x < f64::MIN_POSITIVE {
        return binary_exponent(scale(x, SUBNORMAL)) - SUBNORMAL;
    }
    (x.to_bits() >> 52) as i32 - 1023
}

/// The sums of values that are first divided by powers of two. Rare: gradients beyond `2^400` or all below `2^-400`.
#[cold]
#[inline(never)]
fn scaled_sums<S: Simd, const PAIR: bool, const UPDATE: bool>(
    simd: S,
    blocks: [&[Row]; 3],
    exponents: [Option<i32>; 3],
) -> [Double; 6] {
    let [f, r, u]: [Vec<Row>; 3] = [0, 1, 2].map(|i| {
        let shift = -exponents[i].unwrap_or(0);
        blocks[i].iter().map(|row| row.map(|x| scale(x, shift))).collect()
    });
    block_sums::<S, PAIR, UPDATE>(simd, [&f, &r, &u])
}

/// The six sums (or those asked for) as if computed with twice the bits (Ogita, Rump and Oishi, "Accurate sum and dot
/// product", 2005, algorithm `Dot2`), in independent lanes.
#[inline(always)]
fn block_sums<S: Simd, const PAIR: bool, const UPDATE: bool>(simd: S, [f, r, u]: [&[Row]; 3]) -> [Double; 6] {
    let zero = f64x8::splat(simd, 0.0);
    let (mut high, mut low) = ([zero; 6], [zero; 6]);
    for ((f, r), u) in f.iter().zip(r).zip(u) {
        let f = f64x8::load_array_ref(simd, f);
        let r = f64x8::load_array_ref(simd, r);
        if PAIR {
            add_products(&mut high[FF], &mut low[FF], f, f);
            add_products(&mut high[RR], &mut low[RR], r, r);
            add_products(&mut high[FR], &mut low[FR], f, r);
        }
        if UPDATE {
            let u = f64x8::load_array_ref(simd, u);
            add_products(&mut high[UU], &mut low[UU], u, u);
            add_products(&mut high[UR], &mut low[UR], u, r);
            add_products(&mut high[UF], &mut low[UF], u, f);
        }
    }
    let mut sums = [Double::default(); 6];
    for (sum, (high, low)) in sums.iter_mut().zip(high.into_iter().zip(low)) {
        for (high, low) in high.to_array().into_iter().zip(low.to_array()) {
            *sum = sum.plus(Double::new(high, low));
        }
    }
    sums
}

#[inline(always)]
fn add_products<S: Simd>(high: &mut f64x8<S>, low: &mut f64x8<S>, x: f64x8<S>, y: f64x8<S>) {
    let product = x * y;
    let product_error = x.mul_add_precise(y, -product);
    let (sum, sum_error) = two_sum(*high, product);
    *high = sum;
    *low += sum_error + product_error;
}
