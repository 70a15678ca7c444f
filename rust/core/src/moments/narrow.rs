//! Sums over `f32` values (and 16-bit ones widened to it): products are exact in `f64`, and so need no scaling.

use super::{Accumulate, Double, FF, FR, Moments, RR, UF, UR, UU};
use crate::simd::{Products, SUMS};

#[derive(Default)]
pub struct NarrowSums {
    sums: [[f64; SUMS]; 6],
    conflicts: u64,
}

impl<L: Products> Accumulate<L> for NarrowSums {
    #[inline(always)]
    fn add<const PAIR: bool, const UPDATE: bool>(&mut self, f: L, r: L, u: L) {
        let sums = &mut self.sums;
        if PAIR {
            self.conflicts += u64::from(L::count(f.conflict(r)));
            f.add_products(f, &mut sums[FF]);
            r.add_products(r, &mut sums[RR]);
            f.add_products(r, &mut sums[FR]);
        }
        if UPDATE {
            u.add_products(u, &mut sums[UU]);
            u.add_products(r, &mut sums[UR]);
            u.add_products(f, &mut sums[UF]);
        }
    }

    #[inline(always)]
    fn finish<const PAIR: bool, const UPDATE: bool>(self, count: usize) -> Moments {
        let total = |lanes: [f64; SUMS]| {
            lanes.into_iter().fold(Double::default(), |sum, lane| sum.plus(Double::new(lane, 0.0)))
        };
        Moments::new(self.sums.map(total), [Some(0); 3], self.conflicts, count as u64)
    }
}
