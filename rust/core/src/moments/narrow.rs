//! Sums over `f32` values (and 16-bit ones widened to it): products are exact in `f64`, and so need no scaling.

use super::{Accumulate, Double, FF, FR, Moments, RR, UF, UR, UU};
use fearless_simd::prelude::*;
use fearless_simd::{f32x16, f64x8, i32x16};

use crate::simd::{SUMS, add_products, conflict};

pub struct NarrowSums<S: Simd> {
    sums: [f64x8<S>; 6],
    /// How many conflicts each lane has met, below zero: a lane of a mask is -1 where it is set.
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
    fn finish<const PAIR: bool, const UPDATE: bool>(self, count: usize) -> Moments {
        let total = |lanes: f64x8<S>| {
            let lanes: [f64; SUMS] = lanes.to_array();
            lanes.into_iter().fold(Double::default(), |sum, lane| sum.plus(Double::new(lane, 0.0)))
        };
        let conflicts =
            self.conflicts.to_array().into_iter().map(|lane| u64::from(lane.unsigned_abs())).sum();
        Moments::new(self.sums.map(total), [Some(0); 3], conflicts, count as u64)
    }
}
