//! Sums over `f32` values, which the 16-bit formats are widened to. `f64` holds their products exactly, so nothing is scaled.

use fearless_simd::prelude::*;
use fearless_simd::{f32x16, f64x4, f64x8, i32x16};

use super::{Accumulate, DoubleDouble, FF, FR, Moments, RR, UF, UR, UU};
use crate::simd::{SUMS, add_products, conflict};

pub struct NarrowSums<S: Simd> {
    sums: [f64x8<S>; 6],
    /// Minus the number of conflicts in each lane. A chunk is too short to overflow it.
    conflicts: i32x16<S>,
}

impl<S: Simd> Accumulate<S, f32x16<S>> for NarrowSums<S> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        Self { sums: [f64x8::splat(simd, 0.0); 6], conflicts: i32x16::splat(simd, 0) }
    }

    #[inline(always)]
    fn add<const PAIR: bool, const UPDATE: bool>(&mut self, f: f32x16<S>, r: f32x16<S>, u: f32x16<S>) {
        let sums = &mut self.sums;
        if PAIR {
            // A lane of a mask is -1 where it is set.
            self.conflicts += conflict(f, r).to_vector();
            add_products(f, f, &mut sums[FF]);
            add_products(r, r, &mut sums[RR]);
            add_products(f, r, &mut sums[FR]);
        }
        if UPDATE {
            add_products(u, u, &mut sums[UU]);
            add_products(u, r, &mut sums[UR]);
            add_products(u, f, &mut sums[UF]);
        }
    }

    #[inline(always)]
    fn add_group<W: AsRef<[f32x16<S>]>>(
        &mut self,
        count: usize,
        conflicts: bool,
        f: impl Fn(usize) -> W,
        r: impl Fn(usize) -> W,
        u: impl Fn(usize) -> W,
    ) {
        if conflicts {
            let mut conflicts = self.conflicts;
            for i in 0..count {
                for (&f, &r) in f(i).as_ref().iter().zip(r(i).as_ref()) {
                    conflicts += conflict(f, r).to_vector();
                }
            }
            self.conflicts = conflicts;
        }
        let mut sums = self.sums.map(|sum| <[f64x4<S>; 2]>::from(sum.split()));
        for i in 0..count {
            for ((&f, &r), &u) in f(i).as_ref().iter().zip(r(i).as_ref()).zip(u(i).as_ref()) {
                // A quarter at a time: six numbers take their turns in few registers.
                for k in 0..4 {
                    let (f, r, u) = (quarter(f, k), quarter(r, k), quarter(u, k));
                    for (sum, x, y) in [(FF, f, f), (RR, r, r), (FR, f, r), (UU, u, u), (UF, u, f)] {
                        sums[sum][k % 2] = x.mul_add(y, sums[sum][k % 2]);
                    }
                }
            }
        }
        self.sums = sums.map(|[low, high]| low.combine(high));
    }

    #[inline(always)]
    fn finish<const PAIR: bool, const UPDATE: bool>(self, count: usize) -> Moments {
        let total = |lanes: f64x8<S>| {
            let lanes: [f64; SUMS] = lanes.to_array();
            lanes
                .into_iter()
                .fold(DoubleDouble::default(), |sum, lane| sum.plus(DoubleDouble::new(lane, 0.0)))
        };
        let conflicts =
            self.conflicts.to_array().into_iter().map(|lane| u64::from(lane.unsigned_abs())).sum();
        Moments::new(self.sums.map(total), [Some(0); 3], conflicts, count as u64)
    }
}

/// Widens the `k`-th quarter.
#[inline(always)]
fn quarter<S: Simd>(lanes: f32x16<S>, k: usize) -> f64x4<S> {
    let (low, high) = lanes.split();
    let (low, high) = if k < 2 { low } else { high }.widen();
    if k.is_multiple_of(2) { low } else { high }
}
