//! The formats and the combiners, specified one number at a time.

use half::{bf16, f16};
use proptest::prelude::*;
use retainfirst_core::Element;

/// Writes no file into the source tree; a failure prints its shrunk input.
pub fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// A format: its bits, its values and its rounding.
pub trait Format: Element + std::fmt::Debug {
    /// Returns a value from the lowest bits.
    fn from_raw(bits: u64) -> Self;
    fn bits(self) -> u64;
    fn value(self) -> f64;
    /// Rounds `value` once, to nearest, ties to even.
    fn rounded(value: f64) -> Self;
    /// Rounds `value` once: up where `direction` is above zero, down where it is below, to nearest where it is zero.
    fn toward(value: f64, direction: f64) -> Self;
    /// Returns the product in the format in which element-wise combiners compute, and `add` the sum.
    fn multiply(weight: f64, x: Self) -> f64;
    fn add(x: f64, y: f64) -> f64;
}

impl Format for f64 {
    fn from_raw(bits: u64) -> Self {
        Self::from_bits(bits)
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
    fn value(self) -> f64 {
        self
    }
    fn rounded(value: f64) -> Self {
        value
    }
    fn toward(value: f64, _: f64) -> Self {
        value
    }
    fn multiply(weight: f64, x: Self) -> f64 {
        weight * x
    }
    fn add(x: f64, y: f64) -> f64 {
        x + y
    }
}

macro_rules! computed_in_f32 {
    ($format:ty, $bits:ty, $infinity:expr) => {
        impl Format for $format {
            fn from_raw(bits: u64) -> Self {
                Self::from_bits(bits as $bits)
            }
            fn bits(self) -> u64 {
                self.to_bits().into()
            }
            fn value(self) -> f64 {
                self.into()
            }
            fn rounded(value: f64) -> Self {
                Self::toward(value, 0.0)
            }
            fn toward(value: f64, direction: f64) -> Self {
                let decode = |bits| Self::from_bits(bits as $bits).into();
                let size = search(value.abs(), value.signum() * direction, $infinity, decode);
                let sign = (value.is_sign_negative() as $bits) << (<$bits>::BITS - 1);
                Self::from_bits(sign | size as $bits)
            }
            fn multiply(weight: f64, x: Self) -> f64 {
                (weight as f32 * x.value() as f32).into()
            }
            fn add(x: f64, y: f64) -> f64 {
                (x as f32 + y as f32).into()
            }
        }
    };
}

computed_in_f32!(f32, u32, 0x7f80_0000);
computed_in_f32!(f16, u16, 0x7c00);
computed_in_f32!(bf16, u16, 0x7f80);

/// Rounds a magnitude by a search among all values of a format: away from zero where `outward` is above zero, toward zero where
/// it is below, else to nearest. Midpoints of neighbours are exact in `f64`.
fn search(x: f64, outward: f64, infinity: u32, decode: impl Fn(u32) -> f64) -> u32 {
    if x.is_nan() {
        return infinity | 0x40;
    }
    // For rounding, infinity stands for the number that would follow the largest one.
    let last = decode(infinity - 1);
    let value = |bits| if bits == infinity { last + (last - decode(infinity - 2)) } else { decode(bits) };
    let (mut below, mut above) = (0, infinity);
    if x >= value(infinity) {
        return infinity;
    }
    while above - below > 1 {
        let middle = below.midpoint(above);
        if value(middle) <= x { below = middle } else { above = middle }
    }
    let tie = value(below).midpoint(value(above));
    let up = if outward == 0.0 || value(below) == x {
        x > tie || (x == tie && below % 2 == 1)
    } else {
        outward > 0.0
    };
    if up { above } else { below }
}

/// Returns whether two numbers have equal bits or are both NaN.
pub fn same<T: Format>(a: T, b: T) -> bool {
    a.bits() == b.bits() || (a.value().is_nan() && b.value().is_nan())
}

/// Describes the first coordinate where two arrays differ.
pub fn difference<T: Format>(found: &[T], expected: &[T]) -> Option<String> {
    assert_eq!(found.len(), expected.len());
    let i = found.iter().zip(expected).position(|(&a, &b)| !same(a, b))?;
    Some(format!("u[{i}] = {:?}, but should be {:?}", found[i], expected[i]))
}

/// Returns the update of an element-wise combiner, from its definition.
pub fn specified<T: Format>(combiner: &str, alpha: f64, gamma: f64, f: T, r: T) -> T {
    let (x, y) = (f.value(), r.value());
    let (kept, taken) = (T::multiply(alpha, r), T::multiply(gamma, f));
    let conflict = (x < 0.0 && y > 0.0) || (x > 0.0 && y < 0.0);
    T::rounded(match combiner {
        "sum" => T::add(kept, taken),
        _ if !x.is_finite() || !y.is_finite() => x + y,
        _ if conflict => kept,
        "sago" => taken,
        "sago_keep_retain" => T::add(kept, taken),
        other => panic!("{other} is not element-wise"),
    })
}

/// Returns the linear update with given coefficients.
pub fn linear<T: Format>(c_retain: f64, c_forget: f64, f: T, r: T) -> T {
    T::rounded(c_retain * r.value() + c_forget * f.value())
}

/// Returns the exact sum of numbers, rounded once (Shewchuk's expansions).
pub fn exact_sum(terms: impl IntoIterator<Item = f64>) -> f64 {
    let mut parts: Vec<f64> = Vec::new();
    for mut x in terms {
        let mut kept = 0;
        for i in 0..parts.len() {
            let y = parts[i];
            let sum = x + y;
            let b = sum - x;
            let error = (x - (sum - b)) + (y - b);
            if error != 0.0 {
                parts[kept] = error;
                kept += 1;
            }
            x = sum;
        }
        parts.truncate(kept);
        parts.push(x);
    }
    parts.iter().sum()
}

/// Returns the dot product of two arrays, and that of their magnitudes. Products must neither overflow nor underflow.
pub fn exact_dot<T: Format>(x: &[T], y: &[T]) -> (f64, f64) {
    let products = x.iter().zip(y).flat_map(|(x, y)| {
        let product = x.value() * y.value();
        [product, x.value().mul_add(y.value(), -product)]
    });
    let magnitude = x.iter().zip(y).map(|(x, y)| (x.value() * y.value()).abs()).sum();
    (exact_sum(products), magnitude)
}

/// Returns reproducible values of magnitude up to `size`, including zeros of both signs.
pub fn draw<T: Format>(n: usize, seed: u64, size: f64) -> Vec<T> {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 11
    };
    let mut one = || match next() % 16 {
        0 => 0.0,
        1 => -0.0,
        _ => (next() as f64 / (1_u64 << 52) as f64 - 1.0) * size,
    };
    (0..n).map(|_| T::rounded(one())).collect()
}

/// Any value: raw bits (including NaN, infinities and subnormals) and usual sizes.
pub fn any_element<T: Format>() -> impl Strategy<Value = T> {
    prop_oneof![
        3 => any::<u64>().prop_map(T::from_raw),
        4 => (-4.0..4.0_f64).prop_map(T::rounded),
        2 => prop::sample::select(vec![0.0, -0.0, 1.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY])
            .prop_map(T::rounded),
        1 => (0..4_u64).prop_map(T::from_raw),
    ]
}

/// A pair of short arrays of any values.
pub fn any_pair<T: Format>() -> impl Strategy<Value = (Vec<T>, Vec<T>)> {
    let pairs = prop::collection::vec((any_element::<T>(), any_element::<T>()), 0..100);
    pairs.prop_map(|pairs| pairs.into_iter().unzip())
}

/// A pair of arrays of usual values, up to several blocks long.
pub fn usual_pair<T: Format>() -> impl Strategy<Value = (Vec<T>, Vec<T>)> {
    (0..5000_usize, any::<u64>(), -3..3_i32).prop_map(|(n, seed, exponent)| {
        (draw(n, seed, 10_f64.powi(exponent)), draw(n, seed.wrapping_add(1), 1.0))
    })
}

/// Simple and arbitrary weights.
pub fn weights() -> impl Strategy<Value = (f64, f64)> {
    let alpha = prop_oneof![Just(1.0), 1e-3..1e3];
    let gamma = prop_oneof![Just(1.0), Just(0.0), 1e-3..1e3];
    (alpha, gamma)
}
