//! Sums over `f64` values: compensated, and scaled block by block so that no square leaves the range of `f64`.

use super::double::{scale, two_sum};
use super::{Accumulate, Double, FF, FR, Moments, RR, UF, UR, UU};
use crate::simd::{LANES, Lanes, SUMS};

/// Coordinates that are scaled and summed together; they stay in the nearest cache.
const BLOCK: usize = 1 << 10;
/// While the largest magnitude of a block is between `2^-LIMIT` and `2^LIMIT`, its sums are kept unscaled.
const LIMIT: i32 = 400;

type Block = [[f64; LANES]; BLOCK / LANES];

pub struct ScaledSums {
    moments: Moments,
    f: Block,
    r: Block,
    u: Block,
    filled: usize,
}

impl Default for ScaledSums {
    fn default() -> Self {
        let block = [[0.0; LANES]; BLOCK / LANES];
        Self { moments: Moments::default(), f: block, r: block, u: block, filled: 0 }
    }
}

impl<L: Lanes<Scalar = f64>> Accumulate<L> for ScaledSums {
    #[inline(always)]
    fn add<const PAIR: bool, const UPDATE: bool>(&mut self, f: L, r: L, u: L) {
        if self.filled == BLOCK / LANES {
            self.add_block::<PAIR, UPDATE>(BLOCK);
        }
        f.write(&mut self.f[self.filled]);
        r.write(&mut self.r[self.filled]);
        if UPDATE {
            u.write(&mut self.u[self.filled]);
        }
        self.filled += 1;
    }

    #[inline(always)]
    fn finish<const PAIR: bool, const UPDATE: bool>(mut self, count: usize) -> Moments {
        if count > 0 {
            self.add_block::<PAIR, UPDATE>((count - 1) % BLOCK + 1);
        }
        self.moments
    }
}

impl ScaledSums {
    #[inline(always)]
    fn add_block<const PAIR: bool, const UPDATE: bool>(&mut self, count: usize) {
        let [f, r, u] = [&self.f, &self.r, &self.u].map(|block| &block.as_flattened()[..count]);
        let mut exponents = [exponent(f), exponent(r), None];
        if UPDATE {
            exponents[2] = exponent(u);
        }
        let sums = if exponents.iter().all(|e| e.unwrap_or(0) == 0) {
            block_sums::<PAIR, UPDATE>([f, r, u])
        } else {
            scaled_sums::<PAIR, UPDATE>([f, r, u], exponents)
        };
        let conflicts = if PAIR { f.iter().zip(r).map(|(f, &r)| u64::from(f.conflict(r))).sum() } else { 0 };
        self.moments.merge(&Moments::new(sums, exponents, conflicts, count as u64));
        self.filled = 0;
    }
}

/// The power of two to divide a block by: that of its largest magnitude where it is extreme, else 0; `None` for zeros.
#[inline(always)]
fn exponent(values: &[f64]) -> Option<i32> {
    let mut largest = [0.0_f64; SUMS];
    let (lanes, rest) = values.as_chunks::<SUMS>();
    for x in lanes {
        for i in 0..SUMS {
            let x = x[i].abs();
            largest[i] = if x > largest[i] { x } else { largest[i] };
        }
    }
    let largest = rest.iter().chain(&largest).fold(0.0, |largest: f64, x| largest.max(x.abs()));
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
fn scaled_sums<const PAIR: bool, const UPDATE: bool>(
    values: [&[f64]; 3],
    exponents: [Option<i32>; 3],
) -> [Double; 6] {
    let [f, r, u]: [Vec<f64>; 3] = [0, 1, 2].map(|i| {
        let shift = -exponents[i].unwrap_or(0);
        values[i].iter().map(|&x| scale(x, shift)).collect()
    });
    block_sums::<PAIR, UPDATE>([&f, &r, &u])
}

/// The six sums (or those asked for) as if computed with twice the bits (Ogita, Rump and Oishi, "Accurate sum and dot
/// product", 2005, algorithm `Dot2`), in independent lanes.
#[inline(always)]
fn block_sums<const PAIR: bool, const UPDATE: bool>(values: [&[f64]; 3]) -> [Double; 6] {
    let mut high = [[0.0; SUMS]; 6];
    let mut low = [[0.0; SUMS]; 6];
    let [(f, f_rest), (r, r_rest), (u, u_rest)] = values.map(<[f64]>::as_chunks::<SUMS>);
    for ((f, r), u) in f.iter().zip(r).zip(u) {
        add_lanes::<PAIR, UPDATE>(&mut high, &mut low, [f, r, u]);
    }
    let [f, r, u] = [f_rest, r_rest, u_rest].map(pad);
    add_lanes::<PAIR, UPDATE>(&mut high, &mut low, [&f, &r, &u]);
    let mut sums = [Double::default(); 6];
    for (sum, (high, low)) in sums.iter_mut().zip(high.into_iter().zip(low)) {
        for (high, low) in high.into_iter().zip(low) {
            *sum = sum.plus(Double::new(high, low));
        }
    }
    sums
}

#[inline(always)]
fn add_lanes<const PAIR: bool, const UPDATE: bool>(
    high: &mut [[f64; SUMS]; 6],
    low: &mut [[f64; SUMS]; 6],
    [f, r, u]: [&[f64; SUMS]; 3],
) {
    if PAIR {
        add_products(&mut high[FF], &mut low[FF], f, f);
        add_products(&mut high[RR], &mut low[RR], r, r);
        add_products(&mut high[FR], &mut low[FR], f, r);
    }
    if UPDATE {
        add_products(&mut high[UU], &mut low[UU], u, u);
        add_products(&mut high[UR], &mut low[UR], u, r);
        add_products(&mut high[UF], &mut low[UF], u, f);
    }
}

#[inline(always)]
fn add_products(high: &mut [f64; SUMS], low: &mut [f64; SUMS], x: &[f64; SUMS], y: &[f64; SUMS]) {
    for i in 0..SUMS {
        let product = x[i] * y[i];
        let product_error = x[i].mul_add(y[i], -product);
        let (sum, sum_error) = two_sum(high[i], product);
        high[i] = sum;
        low[i] += sum_error + product_error;
    }
}

fn pad(rest: &[f64]) -> [f64; SUMS] {
    let mut lanes = [0.0; SUMS];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}
