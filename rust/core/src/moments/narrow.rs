//! Sums over `f32` values (and 16-bit ones widened to it): products are exact in `f64`, and so need no scaling.

use super::{Accumulate, Double, FF, FR, Moments, RR, UF, UR, UU};
use crate::rules::conflict;
use crate::simd::{Instructions, LANES};

/// Independent sums side by side, so that additions neither wait for each other nor depend on the vector width.
const SUMS: usize = 8;

#[derive(Default)]
pub struct NarrowSums {
    sums: [[f64; SUMS]; 6],
    /// By lane; a chunk is short enough for 32 bits.
    conflicts: [u32; LANES],
}

impl Accumulate<f32> for NarrowSums {
    #[inline(always)]
    fn add<I: Instructions, const PAIR: bool, const UPDATE: bool>(
        &mut self,
        f: &[f32; LANES],
        r: &[f32; LANES],
        u: &[f32; LANES],
    ) {
        if PAIR {
            for i in 0..LANES {
                self.conflicts[i] += u32::from(conflict(f[i], r[i]));
            }
        }
        for start in (0..LANES).step_by(SUMS) {
            let mut f_wide = [0.0; SUMS];
            let mut r_wide = [0.0; SUMS];
            let mut u_wide = [0.0; SUMS];
            for i in 0..SUMS {
                f_wide[i] = f64::from(f[start + i]);
                r_wide[i] = f64::from(r[start + i]);
                u_wide[i] = f64::from(u[start + i]);
            }
            let sums = &mut self.sums;
            if PAIR {
                add_products::<I>(&mut sums[FF], &f_wide, &f_wide);
                add_products::<I>(&mut sums[RR], &r_wide, &r_wide);
                add_products::<I>(&mut sums[FR], &f_wide, &r_wide);
            }
            if UPDATE {
                add_products::<I>(&mut sums[UU], &u_wide, &u_wide);
                add_products::<I>(&mut sums[UR], &u_wide, &r_wide);
                add_products::<I>(&mut sums[UF], &u_wide, &f_wide);
            }
        }
    }

    #[inline(always)]
    fn finish<const PAIR: bool, const UPDATE: bool>(self, count: usize) -> Moments {
        let total = |lanes: [f64; SUMS]| {
            lanes.into_iter().fold(Double::default(), |sum, lane| sum.plus(Double::new(lane, 0.0)))
        };
        let conflicts = self.conflicts.into_iter().map(u64::from).sum();
        Moments::new(self.sums.map(total), [Some(0); 3], conflicts, count as u64)
    }
}

/// The product of two `f32` is exact in `f64`, so that fusing it with the addition gives the same bits.
#[inline(always)]
fn add_products<I: Instructions>(sums: &mut [f64; SUMS], x: &[f64; SUMS], y: &[f64; SUMS]) {
    for i in 0..SUMS {
        sums[i] = if I::FMA { x[i].mul_add(y[i], sums[i]) } else { x[i] * y[i] + sums[i] };
    }
}
