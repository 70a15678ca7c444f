//! Sums kept as two `f64`, and exact scaling by powers of two.

use std::ops::{Add, Sub};

/// An unevaluated sum of two `f64`, about 106 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Double {
    high: f64,
    low: f64,
}

impl Double {
    pub(crate) fn new(high: f64, low: f64) -> Self {
        // Once a sum is infinite or NaN its error term is meaningless, and would turn an infinity into NaN.
        if !high.is_finite() {
            return Self { high, low: 0.0 };
        }
        let sum = high + low;
        Self { high: sum, low: if sum.is_finite() { low - (sum - high) } else { 0.0 } }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        let (sum, error) = two_sum(self.high, other.high);
        Self::new(sum, error + (self.low + other.low))
    }

    pub(crate) fn scaled(self, exponent: i32) -> Self {
        Self { high: scale(self.high, exponent), low: scale(self.low, exponent) }
    }

    pub(crate) fn value(self) -> f64 {
        self.high + self.low
    }
}

/// The rounded sum and its error, exactly (Knuth's `TwoSum`).
#[inline(always)]
pub(crate) fn two_sum<T: Copy + Add<Output = T> + Sub<Output = T>>(a: T, b: T) -> (T, T) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

/// Returns `x * 2^exponent`, exact unless the result leaves the range of `f64`.
pub(crate) fn scale(mut x: f64, mut exponent: i32) -> f64 {
    const STEP: i32 = 1000;
    while exponent > STEP {
        x *= power_of_two(STEP);
        exponent -= STEP;
    }
    while exponent < -STEP {
        x *= power_of_two(-STEP);
        exponent += STEP;
    }
    x * power_of_two(exponent)
}

/// Returns `2^exponent` for exponents of normal numbers, -1022 to 1023.
fn power_of_two(exponent: i32) -> f64 {
    debug_assert!((-1022..=1023).contains(&exponent));
    f64::from_bits(u64::from((exponent + 1023).cast_unsigned()) << 52)
}
