//! Sums over `f32` values (and 16-bit ones widened to it): products are exact in `f64`, and so need no scaling.

use super::{Accumulate, Double, FF, FR, Moments, RR, UF, UR, UU};
use crate::rules::conflict;

/// Independent sums side by side, so that additions neither wait for each other nor depend on the vector width.
const LANES: usize = 8;

#[derive(Default)]
pub struct NarrowSums {
    sums: [[f64; LANES]; 6],
    conflicts: u64,
    count: u64,
}

impl Accumulate<f32> for NarrowSums {
    #[inline(always)]
    fn add<const FMA: bool, const PAIR: bool, const UPDATE: bool>(
        &mut self,
        f: &[f32],
        r: &[f32],
        u: &[f32],
    ) {
        let mut sums = self.sums;
        let mut conflicts = [0_u32; LANES];
        let ((f_lanes, f_rest), (r_lanes, r_rest), (u_lanes, u_rest)) =
            (f.as_chunks::<LANES>(), r.as_chunks::<LANES>(), u.as_chunks::<LANES>());
        for ((f, r), u) in f_lanes.iter().zip(r_lanes).zip(u_lanes) {
            add_lanes::<FMA, PAIR, UPDATE>(&mut sums, &mut conflicts, f, r, u);
        }
        if !f_rest.is_empty() {
            let [f, r, u] = [f_rest, r_rest, u_rest].map(pad);
            add_lanes::<FMA, PAIR, UPDATE>(&mut sums, &mut conflicts, &f, &r, &u);
        }
        self.sums = sums;
        self.conflicts += u64::from(conflicts.iter().sum::<u32>());
        self.count += f.len() as u64;
    }

    fn finish(self) -> Moments {
        let total = |lanes: [f64; LANES]| {
            lanes.into_iter().fold(Double::default(), |sum, lane| sum.plus(Double::new(lane, 0.0)))
        };
        Moments::new(self.sums.map(total), [Some(0); 3], self.conflicts, self.count)
    }
}

#[inline(always)]
fn add_lanes<const FMA: bool, const PAIR: bool, const UPDATE: bool>(
    sums: &mut [[f64; LANES]; 6],
    conflicts: &mut [u32; LANES],
    f: &[f32; LANES],
    r: &[f32; LANES],
    u: &[f32; LANES],
) {
    let [f_wide, r_wide, u_wide] = [f, r, u].map(|x| x.map(f64::from));
    if PAIR {
        add_products::<FMA>(&mut sums[FF], &f_wide, &f_wide);
        add_products::<FMA>(&mut sums[RR], &r_wide, &r_wide);
        add_products::<FMA>(&mut sums[FR], &f_wide, &r_wide);
        for i in 0..LANES {
            conflicts[i] += u32::from(conflict(f[i], r[i]));
        }
    }
    if UPDATE {
        add_products::<FMA>(&mut sums[UU], &u_wide, &u_wide);
        add_products::<FMA>(&mut sums[UR], &u_wide, &r_wide);
        add_products::<FMA>(&mut sums[UF], &u_wide, &f_wide);
    }
}

/// The product of two `f32` is exact in `f64`, so that fusing it with the addition gives the same bits.
#[inline(always)]
fn add_products<const FMA: bool>(sums: &mut [f64; LANES], x: &[f64; LANES], y: &[f64; LANES]) {
    for i in 0..LANES {
        sums[i] = if FMA { x[i].mul_add(y[i], sums[i]) } else { x[i] * y[i] + sums[i] };
    }
}

/// Fills up with zeros, which add nothing to a sum and conflict with nothing.
fn pad(rest: &[f32]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}
