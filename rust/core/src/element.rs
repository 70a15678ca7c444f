//! The four formats of a gradient, and the two in which element-wise rules compute.

use std::ops::{Add, Mul};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::moments::{Accumulate, NarrowSums, ScaledSums};
use crate::rounding::{round_to_odd, round_toward};

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
}

/// A gradient's element: `f64`, `f32`, [`half::f16`] or [`half::bf16`].
pub trait Element: Copy + Default + Send + Sync + sealed::Sealed + 'static {
    /// The format that element-wise rules compute in.
    #[doc(hidden)]
    type Wide: Wide;

    /// Returns the values in the wide format: the slice itself where it is wide already, else a copy in `scratch`.
    #[doc(hidden)]
    fn widen<'a>(values: &'a [Self], scratch: &'a mut [Self::Wide]) -> &'a [Self::Wide];

    /// Lets `write` compute wide values, stores each rounded once (to nearest, ties to even) in `out`, and returns the
    /// stored values in the wide format.
    #[doc(hidden)]
    fn store<'a>(
        out: &'a mut [Self],
        scratch: &'a mut [Self::Wide],
        write: impl FnOnce(&mut [Self::Wide]),
    ) -> &'a [Self::Wide];

    /// Returns a wide value that [`Element::store`] turns into `value` rounded once to this format.
    #[doc(hidden)]
    fn prepare(value: f64) -> Self::Wide;

    /// Returns a wide value that [`Element::store`] turns into `value` rounded once to this format: up where `direction` is
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

            #[inline(always)]
            fn widen<'a>(values: &'a [Self], _: &'a mut [Self]) -> &'a [Self] {
                values
            }

            #[inline(always)]
            fn store<'a>(
                out: &'a mut [Self],
                _: &'a mut [Self],
                write: impl FnOnce(&mut [Self]),
            ) -> &'a [Self] {
                write(out);
                out
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
    ($half:ty, $to_f32:path, $from_f32:path, $toward:path) => {
        impl Element for $half {
            type Wide = f32;

            #[inline(always)]
            fn widen<'a>(values: &'a [Self], scratch: &'a mut [f32]) -> &'a [f32] {
                let scratch = &mut scratch[..values.len()];
                $to_f32(values, scratch);
                scratch
            }

            #[inline(always)]
            fn store<'a>(
                out: &'a mut [Self],
                scratch: &'a mut [f32],
                write: impl FnOnce(&mut [f32]),
            ) -> &'a [f32] {
                let scratch = &mut scratch[..out.len()];
                write(scratch);
                $from_f32(scratch, out);
                $to_f32(out, scratch);
                scratch
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

half_element!(f16, f16_to_f32, f16_from_f32, round_toward::<11, -24>);
half_element!(bf16, bf16_to_f32, bf16_from_f32, round_toward::<8, -133>);

#[inline(always)]
fn f16_to_f32(from: &[f16], to: &mut [f32]) {
    from.convert_to_f32_slice(to);
}

#[inline(always)]
fn f16_from_f32(from: &[f32], to: &mut [f16]) {
    to.convert_from_f32_slice(from);
}

#[inline(always)]
fn bf16_to_f32(from: &[bf16], to: &mut [f32]) {
    for (from, to) in from.iter().zip(to) {
        *to = f32::from_bits(u32::from(from.to_bits()) << 16);
    }
}

/// Rounds to nearest, ties to even, without a branch, so that the loop becomes vector instructions.
#[inline(always)]
fn bf16_from_f32(from: &[f32], to: &mut [bf16]) {
    for (from, to) in from.iter().zip(to) {
        let bits = from.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // Rounding could carry a NaN into infinity: keep its upper half and make it quiet.
        let nan = (bits >> 16) | 0x40;
        *to = bf16::from_bits(if from.is_nan() { nan } else { rounded } as u16);
    }
}
