//! The four formats of a gradient, and the two in which element-wise rules compute.

use half::{bf16, f16};

use crate::moments::{Accumulate, NarrowSums, ScaledSums};
use crate::rounding::round_toward;
use crate::simd::{Instructions, LANES, Lanes};

/// A format that element-wise rules compute in: `f32` (for `f32` and the 16-bit formats) or `f64`.
pub trait Wide: Copy + Default + PartialOrd + Send + Sync + 'static {
    /// The format's name in error texts.
    const NAME: &'static str;
    /// The nearest value of this format.
    fn from_f64(value: f64) -> Self;
    /// The same value in `f64`.
    fn to_f64(self) -> f64;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;
}

impl Wide for f32 {
    const NAME: &'static str = "float32";

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

    /// [`LANES`] elements in the wide format, in whichever order.
    #[doc(hidden)]
    type Vector<I: Instructions>: Lanes<Scalar = Self::Wide>;

    /// How the six sums are kept.
    #[doc(hidden)]
    type Sums<I: Instructions>: Accumulate<Self::Vector<I>>;

    /// Returns the values in the wide format.
    #[doc(hidden)]
    fn widen<I: Instructions>(values: &[Self; LANES], instructions: I) -> Self::Vector<I>;

    /// Rounds wide values once (to nearest, ties to even).
    #[doc(hidden)]
    fn narrow<I: Instructions>(values: Self::Vector<I>, instructions: I) -> [Self; LANES];

    /// Returns wide values that [`Element::narrow`] turns into these, rounded once to this format.
    #[doc(hidden)]
    fn prepare<L: Lanes<Scalar = Self::Wide>>(values: L::Double) -> L;

    /// Returns a wide value that [`Element::narrow`] turns into `value` rounded once to this format: up where `direction` is
    /// above zero, down where it is below, to nearest where it is zero. Overflow gives infinity.
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
    ($float:ty, $vector:ty, $sums:ty, $load:ident, $toward:path) => {
        impl Element for $float {
            type Wide = Self;
            type Vector<I: Instructions> = $vector;
            type Sums<I: Instructions> = $sums;

            #[inline(always)]
            fn widen<I: Instructions>(values: &[Self; LANES], instructions: I) -> $vector {
                instructions.$load(values)
            }

            #[inline(always)]
            fn narrow<I: Instructions>(values: $vector, _: I) -> [Self; LANES] {
                let mut narrow = [0.0; LANES];
                values.write(&mut narrow);
                narrow
            }

            #[inline(always)]
            fn prepare<L: Lanes<Scalar = Self>>(values: L::Double) -> L {
                L::nearest(values)
            }

            #[inline(always)]
            fn prepare_toward(value: f64, direction: f64) -> Self {
                Self::from_f64($toward(value, direction))
            }
        }
    };
}

wide_element!(f64, [I::Doubles; 4], ScaledSums, load_f64, unrounded);
wide_element!(f32, [I::Floats; 2], NarrowSums, load_f32, round_toward::<24, -149>);

/// Nothing is narrower than `f64` here, so that there is no direction to round in.
#[inline(always)]
fn unrounded(value: f64, _: f64) -> f64 {
    value
}

macro_rules! half_element {
    ($half:ty, $widen:ident, $narrow:ident, $toward:path) => {
        impl Element for $half {
            type Wide = f32;
            type Vector<I: Instructions> = [I::Floats; 2];
            type Sums<I: Instructions> = NarrowSums;

            #[inline(always)]
            fn widen<I: Instructions>(values: &[Self; LANES], instructions: I) -> [I::Floats; 2] {
                instructions.$widen(values)
            }

            #[inline(always)]
            fn narrow<I: Instructions>(values: [I::Floats; 2], instructions: I) -> [Self; LANES] {
                instructions.$narrow(values)
            }

            #[inline(always)]
            fn prepare<L: Lanes<Scalar = f32>>(values: L::Double) -> L {
                L::odd(values)
            }

            #[inline(always)]
            fn prepare_toward(value: f64, direction: f64) -> f32 {
                $toward(value, direction) as f32
            }
        }
    };
}

half_element!(f16, widen_f16, narrow_f16, round_toward::<11, -24>);
half_element!(bf16, widen_bf16, narrow_bf16, round_toward::<8, -133>);
