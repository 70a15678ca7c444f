//! The four formats of a gradient, and the two formats in which element-wise combiners compute.

use fearless_simd::prelude::{Simd, SimdFloatElement};
use fearless_simd::{f32x16, f64x8};
use half::{bf16, f16};

use crate::moments::{Accumulate, NarrowSums, ScaledSums};
use crate::put_back::{put_back_bf16, put_back_f16, put_back_f32, put_back_f64};
use crate::rounding::round_toward;
use crate::simd::{self, LANES, Vector};

/// A format in which element-wise combiners compute: `f32` for `f32` and the 16-bit formats, else `f64`.
pub trait Wide: SimdFloatElement + Default + PartialOrd + Send + Sync {
    /// The format's name in error texts.
    const NAME: &'static str;
    /// The nearest value of this format.
    fn from_f64(value: f64) -> Self;
    /// The same value in `f64`.
    fn to_f64(self) -> f64;
    /// Whether the value is neither infinite nor NaN.
    fn is_finite(self) -> bool;
}

impl Wide for f32 {
    const NAME: &'static str = "float32";

    fn from_f64(value: f64) -> Self {
        value as f32
    }

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl Wide for f64 {
    const NAME: &'static str = "float64";

    fn from_f64(value: f64) -> Self {
        value
    }

    fn to_f64(self) -> f64 {
        self
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

/// A gradient's element: `f64`, `f32`, [`half::f16`] or [`half::bf16`].
pub trait Element: Copy + Default + PartialOrd + Send + Sync + sealed::Sealed + 'static {
    /// The format in which element-wise combiners compute.
    #[doc(hidden)]
    type Wide: Wide;

    /// A vector of the wide format.
    #[doc(hidden)]
    type Vector<S: Simd>: Vector<S, Element = Self::Wide>;

    /// [`LANES`] elements in the wide format, in the order of [`Element::widen`].
    #[doc(hidden)]
    type Vectors<S: Simd>: Copy + AsRef<[Self::Vector<S>]> + AsMut<[Self::Vector<S>]>;

    /// The accumulator of the six sums.
    #[doc(hidden)]
    type Sums<S: Simd>: Accumulate<S, Self::Vector<S>>;

    /// Converts to the wide format. Vectors may hold the elements in another order than memory.
    #[doc(hidden)]
    fn widen<S: Simd>(simd: S, values: &[Self; LANES]) -> Self::Vectors<S>;

    /// Rounds wide values once (to nearest, ties to even), and restores the order of memory.
    #[doc(hidden)]
    fn narrow<S: Simd>(values: Self::Vectors<S>) -> [Self; LANES];

    /// Rounds to the wide format so that [`Element::narrow`] gives `doubles` rounded once to this format.
    #[doc(hidden)]
    fn prepare<S: Simd, V: Vector<S>>(doubles: V::Doubles) -> V;

    /// Like [`Element::prepare`], but rounds up where `direction` is above zero, down where it is below, and to nearest where it
    /// is zero. Overflow gives infinity.
    #[doc(hidden)]
    fn prepare_toward<S: Simd, V: Vector<S>>(doubles: V::Doubles, direction: V::Doubles) -> V;

    /// Copies `before` into `after` where the step between them has the sign of `signs`, and with `ZEROS` also where `signs` is
    /// zero. Returns the number of copied elements. NaN, in any of the three, is no reason to copy.
    #[doc(hidden)]
    fn put_back<S: Simd, const ZEROS: bool>(
        simd: S,
        before: &[Self; LANES],
        after: &mut [Self; LANES],
        signs: &[Self; LANES],
    ) -> u32;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f64 {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

macro_rules! element {
    ($float:ty, $wide:ty, [$vector:ident; $count:literal], $sums:ty, $widen:ident, $narrow:ident, $prepare:ident, $toward:path, $put_back:ident) => {
        impl Element for $float {
            type Wide = $wide;
            type Vector<S: Simd> = $vector<S>;
            type Vectors<S: Simd> = [$vector<S>; $count];
            type Sums<S: Simd> = $sums;

            #[inline(always)]
            fn widen<S: Simd>(simd: S, values: &[Self; LANES]) -> [$vector<S>; $count] {
                simd::$widen(simd, values)
            }

            #[inline(always)]
            fn narrow<S: Simd>(values: [$vector<S>; $count]) -> [Self; LANES] {
                simd::$narrow(values)
            }

            #[inline(always)]
            fn prepare<S: Simd, V: Vector<S>>(doubles: V::Doubles) -> V {
                V::$prepare(doubles)
            }

            #[inline(always)]
            fn prepare_toward<S: Simd, V: Vector<S>>(mut doubles: V::Doubles, direction: V::Doubles) -> V {
                for (double, &direction) in doubles.as_mut().iter_mut().zip(direction.as_ref()) {
                    *double = $toward(*double, direction);
                }
                V::nearest(doubles)
            }

            #[inline(always)]
            fn put_back<S: Simd, const ZEROS: bool>(
                simd: S,
                before: &[Self; LANES],
                after: &mut [Self; LANES],
                signs: &[Self; LANES],
            ) -> u32 {
                $put_back::<S, ZEROS>(simd, before, after, signs)
            }
        }
    };
}

element!(f64, f64, [f64x8; 4], ScaledSums<S>, load_f64, store_f64, nearest, unrounded, put_back_f64);
element!(
    f32,
    f32,
    [f32x16; 2],
    NarrowSums<S>,
    load_f32,
    store_f32,
    nearest,
    round_toward::<S, 24, -149>,
    put_back_f32
);
element!(
    f16,
    f32,
    [f32x16; 2],
    NarrowSums<S>,
    widen_f16,
    narrow_f16,
    odd,
    round_toward::<S, 11, -24>,
    put_back_f16
);
element!(
    bf16,
    f32,
    [f32x16; 2],
    NarrowSums<S>,
    widen_bf16,
    narrow_bf16,
    odd,
    round_toward::<S, 8, -133>,
    put_back_bf16
);

/// For `f64`, which is not rounded.
#[inline(always)]
fn unrounded<S: Simd>(value: f64x8<S>, _: f64x8<S>) -> f64x8<S> {
    value
}
