//! Runtime choice of vector instructions.
//!
//! Everything hot is inlined into one copy a set of instructions. All copies give the same bits: element-wise arithmetic is
//! never contracted, and sums use a fused multiply-add only where the product is exact or its error is what is asked for.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

pub(crate) use lanes::{Arithmetic, Lanes, Pairwise, Products, SUMS};

/// Elements that are worked on side by side: as many of 16 bits as the widest vector holds.
pub(crate) const LANES: usize = 32;

/// A set of vector instructions. A value of the type is the proof that the machine has them.
pub trait Instructions: Copy {
    /// Half of the elements that are worked on side by side.
    type Floats: Products;
    /// A quarter of them.
    type Doubles: Lanes<Scalar = f64>;

    fn load_f32(self, values: &[f32; LANES]) -> [Self::Floats; 2];

    fn load_f64(self, values: &[f64; LANES]) -> [Self::Doubles; 4];

    fn widen_f16(self, values: &[f16; LANES]) -> [Self::Floats; 2];

    /// Rounds to nearest, ties to even.
    fn narrow_f16(self, values: [Self::Floats; 2]) -> [f16; LANES];

    /// Widens the elements at even places, and those at odd places: that takes one instruction each, and the order of memory two.
    fn widen_bf16(self, values: &[bf16; LANES]) -> [Self::Floats; 2];

    /// Rounds to nearest, ties to even, and puts elements back in their order.
    fn narrow_bf16(self, values: [Self::Floats; 2]) -> [bf16; LANES];
}

/// What every machine of the target has: vectors are for the compiler to find.
#[derive(Clone, Copy)]
struct Plain;

const HALF: usize = LANES / 2;

impl Instructions for Plain {
    type Floats = [f32; HALF];
    type Doubles = [f64; HALF / 2];

    #[inline(always)]
    fn load_f64(self, values: &[f64; LANES]) -> [[f64; HALF / 2]; 4] {
        let mut quarters = [[0.0; HALF / 2]; 4];
        quarters.as_flattened_mut().copy_from_slice(values);
        quarters
    }

    #[inline(always)]
    fn load_f32(self, values: &[f32; LANES]) -> [[f32; HALF]; 2] {
        let mut halves = [[0.0; HALF]; 2];
        halves.as_flattened_mut().copy_from_slice(values);
        halves
    }

    #[inline(always)]
    fn widen_f16(self, values: &[f16; LANES]) -> [[f32; HALF]; 2] {
        let mut halves = [[0.0; HALF]; 2];
        values.convert_to_f32_slice(halves.as_flattened_mut());
        halves
    }

    #[inline(always)]
    fn narrow_f16(self, values: [[f32; HALF]; 2]) -> [f16; LANES] {
        let mut narrow = [f16::ZERO; LANES];
        narrow.convert_from_f32_slice(values.as_flattened());
        narrow
    }

    #[inline(always)]
    fn widen_bf16(self, values: &[bf16; LANES]) -> [[f32; HALF]; 2] {
        let mut halves = [[0.0; HALF]; 2];
        for i in 0..LANES {
            halves[i % 2][i / 2] = f32::from_bits(u32::from(values[i].to_bits()) << 16);
        }
        halves
    }

    #[inline(always)]
    fn narrow_bf16(self, values: [[f32; HALF]; 2]) -> [bf16; LANES] {
        let mut narrow = [bf16::ZERO; LANES];
        for i in 0..LANES {
            narrow[i] = bf16::from_bits((upper_half(values[i % 2][i / 2]) >> 16) as u16);
        }
        narrow
    }
}

/// The upper half of an `f32`.
#[cfg(target_arch = "x86_64")]
const UPPER: i32 = 0xffff_0000_u32.cast_signed();
/// The bit that makes a NaN quiet.
const QUIET: i32 = 0x40_0000;

/// Rounds to a `bf16` in the upper half, to nearest, ties to even; the lower half may hold anything.
#[inline(always)]
fn upper_half(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    // Rounding could carry a NaN into infinity: keep its upper half and make it quiet.
    if x.is_nan() { bits | QUIET.cast_unsigned() } else { rounded }
}

/// Work that is compiled once for each set of vector instructions.
pub(crate) trait Work {
    type Output;

    /// Does the work.
    ///
    /// Must be `#[inline(always)]`, as must everything below it that is hot.
    fn run<I: Instructions>(self, instructions: I) -> Self::Output;
}

/// Runs `work` in the best copy that this machine can execute.
pub(crate) fn dispatch<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        use std::is_x86_feature_detected as has;
        let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
        if has_avx2() && avx512 {
            // SAFETY: the machine has just been asked for every feature that the function is compiled with.
            return unsafe { with_avx512(work) };
        }
        if has_avx2() {
            // SAFETY: as above.
            return unsafe { with_avx2(work) };
        }
    }
    work.run(Plain)
}

/// Whether the machine has what [`with_avx2`] is compiled with.
#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    use std::is_x86_feature_detected as has;
    has!("avx2") && has!("fma") && has!("f16c") && has!("popcnt")
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]
fn with_avx512<W: Work>(work: W) -> W::Output {
    work.run(avx512::Avx512(()))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
fn with_avx2<W: Work>(work: W) -> W::Output {
    work.run(avx2::Avx2(()))
}

/// Runs every copy that this machine can execute, the plain one first.
#[cfg(test)]
pub(crate) fn run_all<W: Work>(make: impl Fn() -> W) -> Vec<W::Output> {
    let mut results = vec![make().run(Plain), dispatch(make())];
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the machine has just been asked for every feature that the function is compiled with.
        results.push(unsafe { with_avx2(make()) });
    }
    results
}
