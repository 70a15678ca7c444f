//! The four formats of a gradient, and the two in which element-wise rules compute.

use std::ops::{Add, Mul};

use half::{bf16, f16};

use crate::moments::{Accumulate, NarrowSums, ScaledSums};
use crate::rounding::{round_to_odd, round_toward};
use crate::simd::{Instructions, LANES};

/// A format that element-wise rules compute in: `f32` (for `f32` and the 16-bit formats) or `f64`.
pub trait Wide:
    Copy + Default + PartialOrd + Add<Output = Self> + Mul<Output = Self> + Send + Sync + 'static
{
    /// The format's name in error texts.
    const NAME: &'static str;
    /// How the six sums are kept.
    type Sums: Accumulate<Self>;
    /// The nearest value of this format.
    fn from_f64(value: f64) -> Self;
    /// The same value in `f64`.
    fn to_f64(self) -> f64;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;
    /// Is NaN.
    fn is_nan(self) -> bool;
}

impl Wide for f32 {
    const NAME: &'static str = "float32";
    type Sums = NarrowSums;

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        self.is_nan()
    }
}

impl Wide for f64 {
    const NAME: &'static str = "float64";
    type Sums = ScaledSums;

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        self.is_nan()
    }
}

/// A gradient's element: `f64`, `f32`, [`half::f16`] or [`half::bf16`].
pub trait Element: Copy + Default + Send + Sync + sealed::Sealed + 'static {
    /// The format that element-wise rules compute in.
    #[doc(hidden)]
    type Wide: Wide;

    /// Whether an update that is not measured must be kept apart from its stores for the compiler to find vectors.
    #[doc(hidden)]
    const APART: bool;

    /// Returns the values in the wide format.
    #[doc(hidden)]
    fn widen<I: Instructions>(values: &[Self; LANES], instructions: I) -> [Self::Wide; LANES];

    /// Rounds wide values once (to nearest, ties to even).
    #[doc(hidden)]
    fn narrow<I: Instructions>(values: &[Self::Wide; LANES], instructions: I) -> [Self; LANES];

    /// Returns a wide value that [`Element::narrow`] turns into `value` rounded once to this format.
    #[doc(hidden)]
    fn prepare(value: f64) -> Self::Wide;

    /// Returns a wide value that [`Element::narrow`] turns into `value` rounded once to this format: up where `direction` is
    /// above zero, down where it is below, as by [`Element::prepare`] where it is zero. Overflow gives infinity.
    #[doc(hidden)]
    fn prepare_toward(value: f64, direction: f64) -> Self::Wide;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f64 {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

macro_rules! wide_element {
    ($float:ty, $toward:path) => {
        impl Element for $float {
            type Wide = Self;

            const APART: bool = true;

            #[inline(always)]
            fn widen<I: Instructions>(values: &[Self; LANES], _: I) -> [Self; LANES] {
                *values
            }

            #[inline(always)]
            fn narrow<I: Instructions>(values: &[Self; LANES], _: I) -> [Self; LANES] {
                *values
            }

            #[inline(always)]
            fn prepare(value: f64) -> Self {
                Self::from_f64(value)
            }

            #[inline(always)]
            fn prepare_toward(value: f64, direction: f64) -> Self {
                Self::from_f64($toward(value, direction))
            }
        }
    };
}

wide_element!(f64, unrounded);
wide_element!(f32, round_toward::<24, -149>);

/// Nothing is narrower than `f64` here, so that there is no direction to round in.
#[inline(always)]
fn unrounded(value: f64, _: f64) -> f64 {
    value
}

macro_rules! half_element {
    ($half:ty, $widen:path, $narrow:path, $toward:path, $apart:literal) => {
        impl Element for $half {
            type Wide = f32;

            const APART: bool = $apart;

            #[inline(always)]
            fn widen<I: Instructions>(values: &[Self; LANES], instructions: I) -> [f32; LANES] {
                $widen(values, instructions)
            }

            #[inline(always)]
            fn narrow<I: Instructions>(values: &[f32; LANES], instructions: I) -> [Self; LANES] {
                $narrow(values, instructions)
            }

            #[inline(always)]
            fn prepare(value: f64) -> f32 {
                round_to_odd(value)
            }

            #[inline(always)]
            fn prepare_toward(value: f64, direction: f64) -> f32 {
                $toward(value, direction) as f32
            }
        }
    };
}

half_element!(f16, widen_f16, narrow_f16, round_toward::<11, -24>, false);
half_element!(bf16, widen_bf16, narrow_bf16, round_toward::<8, -133>, true);

#[inline(always)]
fn widen_f16<I: Instructions>(values: &[f16; LANES], instructions: I) -> [f32; LANES] {
    instructions.widen(values)
}

#[inline(always)]
fn narrow_f16<I: Instructions>(values: &[f32; LANES], instructions: I) -> [f16; LANES] {
    instructions.narrow(values)
}

#[inline(always)]
fn widen_bf16<I: Instructions>(values: &[bf16; LANES], _: I) -> [f32; LANES] {
    let mut wide = [0.0; LANES];
    for i in 0..LANES {
        wide[i] = f32::from_bits(u32::from(values[i].to_bits()) << 16);
    }
    wide
}

/// Rounds to nearest, ties to even, without a branch, so that the loop becomes vector instructions.
#[inline(always)]
fn narrow_bf16<I: Instructions>(values: &[f32; LANES], _: I) -> [bf16; LANES] {
    let mut narrow = [bf16::ZERO; LANES];
    for i in 0..LANES {
        let x = values[i];
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // Rounding could carry a NaN into infinity: keep its upper half and make it quiet.
        let nan = (bits >> 16) | 0x40;
        narrow[i] = bf16::from_bits(if x.is_nan() { nan } else { rounded } as u16);
    }
    narrow
}
