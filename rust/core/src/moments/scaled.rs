//! Sums over `f64` values: compensated, and scaled block by block so that no square leaves the range of `f64`.

use fearless_simd::f64x8;
use fearless_simd::prelude::*;

use super::double_double::{scale, two_sum};
use super::{Accumulate, DoubleDouble, FF, FR, Moments, RR, UF, UR, UU};
use crate::simd::{SUMS, conflict};

/// The number of coordinates that are scaled and summed together. They stay in the L1 cache.
const BLOCK: usize = 1 << 10;
/// A block is scaled only if its largest magnitude lies outside `2^-UNSCALED..2^UNSCALED`.
const UNSCALED: i32 = 400;

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
    /// The number of filled rows in each block.
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
            self.conflicts += u64::from(conflict(f, r).to_bitmask().count_ones());
        }
        if UPDATE {
            u.store_array(&mut self.u[self.filled]);
        }
        self.filled += 1;
    }

    #[inline(always)]
    fn add_without_ur<const CONFLICTS: bool>(&mut self, f: f64x8<S>, r: f64x8<S>, u: f64x8<S>) {
        self.add::<true, true>(f, r, u);
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
    /// Not inlined, since its code is long and the same for every combiner.
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
    let scaled: [Vec<Row>; 3];
    let blocks = if exponents.iter().any(|e| e.unwrap_or(0) != 0) {
        scaled = scaled_blocks(blocks, exponents);
        [&scaled[0][..], &scaled[1], &scaled[2]]
    } else {
        blocks
    };
    Moments::new(block_sums::<S, PAIR, UPDATE>(simd, blocks), exponents, 0, 0)
}

/// Returns the power of two to divide a block by: 0 except for extreme blocks, and `None` for a block of zeros.
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
    Some(if largest.is_finite() && exponent.abs() > UNSCALED { exponent } else { 0 })
}

/// Returns the `e` with `2^e <= x < 2^(e + 1)` of a positive finite number.
fn binary_exponent(x: f64) -> i32 {
    const SUBNORMAL: i32 = 64;
    if x < f64::MIN_POSITIVE {
        return binary_exponent(scale(x, SUBNORMAL)) - SUBNORMAL;
    }
    (x.to_bits() >> 52) as i32 - 1023
}

/// Divides each block by its power of two.
#[cold]
#[inline(never)]
fn scaled_blocks(blocks: [&[Row]; 3], exponents: [Option<i32>; 3]) -> [Vec<Row>; 3] {
    [0, 1, 2].map(|i| {
        let shift = -exponents[i].unwrap_or(0);
        blocks[i].iter().map(|row| row.map(|x| scale(x, shift))).collect()
    })
}

/// Returns the six sums, or those asked for, as if computed with twice the bits (Ogita, Rump and Oishi, "Accurate sum and dot
/// product", 2005, algorithm `Dot2`). Each lane has its own sums.
#[inline(always)]
fn block_sums<S: Simd, const PAIR: bool, const UPDATE: bool>(
    simd: S,
    [f, r, u]: [&[Row]; 3],
) -> [DoubleDouble; 6] {
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
    let mut sums = [DoubleDouble::default(); 6];
    for (sum, (high, low)) in sums.iter_mut().zip(high.into_iter().zip(low)) {
        for (high, low) in high.to_array().into_iter().zip(low.to_array()) {
            *sum = sum.plus(DoubleDouble::new(high, low));
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
