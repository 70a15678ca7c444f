//! Sums over `f32` values, which the 16-bit formats are widened to. `f64` holds their products exactly, so nothing is scaled.

use fearless_simd::prelude::*;
use fearless_simd::{f32x16, f64x8, i32x16};

use super::{Accumulate, DoubleDouble, FF, FR, Moments, RR, UF, UR, UU};
use crate::simd::{SUMS, Vector, add_products, conflict};

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
    fn add_without_ur<const CONFLICTS: bool>(&mut self, f: f32x16<S>, r: f32x16<S>, u: f32x16<S>) {
        if CONFLICTS {
            self.conflicts += conflict(f, r).to_vector();
        }
        let sums = &mut self.sums;
        let (f, r, u) = (f.to_doubles(), r.to_doubles(), u.to_doubles());
        for k in 0..2 {
            for (sum, x, y) in [(FF, f, f), (RR, r, r), (FR, f, r), (UU, u, u), (UF, u, f)] {
                sums[sum] = x[k].mul_add(y[k], sums[sum]);
            }
        }
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
