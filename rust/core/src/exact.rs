//! Dot products, their signs and the order of two cosines, without rounding.
//!
//! A finite float is an integer times a power of two, and so is a dot product of floats. Products are added to a fixed-point
//! number that is wide enough for the largest and the smallest product of the format (Kulisch and Miranker, "The arithmetic of
//! the digital computer: a new approach", 1986). For long vectors, products with the same power of two are added first. Two
//! cosines are compared through integers. The code uses no floating-point instruction, so that a processor set to flush
//! subnormals to zero gives the same results, as does any number of threads.

use std::cmp::Ordering;

use num_bigint::{BigInt, Sign};
use rayon::prelude::*;

use crate::element::Element;
use crate::error::Error;
use crate::sweep::PARALLEL_MIN_ELEMENTS;

/// Bits of a digit. Products are cut into digits, and added to limbs of 64 bits, which are carried later.
const DIGIT: usize = 32;

/// The product of two `f64` has at most 106 bits. The sum of a chunk's products with the same power of two has up to 16 more,
/// and the shift to the start of a digit adds up to 31.
const PRODUCT_DIGITS: usize = 5;

/// The widest sum, that of `f64`, has 2 * 2045 + 106 bits, at most 64 more for the number of terms, and a sign.
const LIMBS: usize = (2 * 2045 + 106 + 64) / DIGIT + 2;

/// Within a chunk no limb is carried: a term adds less than 2^33 to a limb, so that limbs stay below 2^49.
const CHUNK: usize = 1 << 16;

/// From this many products on, adding those with the same power of two first is faster.
const MANY: usize = 1 << 11;

/// A floating-point format, read as bits: `f64`, `f32`, [`half::f16`] or [`half::bf16`].
pub trait BinaryFormat: Element {
    /// Bits of the exponent.
    #[doc(hidden)]
    const EXPONENT_BITS: u32;
    /// Bits of the stored fraction.
    #[doc(hidden)]
    const FRACTION_BITS: u32;
    /// The integer of the same size.
    #[doc(hidden)]
    type Bits: Copy + Sync + Into<u64>;
    /// Returns the same memory as integers.
    ///
    /// `to_bits` of each float would not do: the compiler may turn a test of bits into a comparison of floats, whose result is
    /// another one on a processor that flushes subnormals to zero.
    #[doc(hidden)]
    fn bits(values: &[Self]) -> &[Self::Bits];
}

macro_rules! exact {
    ($float:ty, $bits:ty, $exponent_bits:literal, $fraction_bits:literal) => {
        impl BinaryFormat for $float {
            const EXPONENT_BITS: u32 = $exponent_bits;
            const FRACTION_BITS: u32 = $fraction_bits;

            type Bits = $bits;

            fn bits(values: &[Self]) -> &[$bits] {
                const {
                    assert!(
                        size_of::<Self>() == size_of::<$bits>() && align_of::<Self>() == align_of::<$bits>()
                    )
                };
                // SAFETY: size and alignment are equal, and any bytes are a valid integer.
                unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
            }
        }
    };
}

exact!(f64, u64, 11, 52);
exact!(f32, u32, 8, 23);
exact!(half::f16, u16, 5, 10);
exact!(half::bf16, u16, 8, 7);

/// Compares the dot product of `update` and `retain` with zero: `Less` if it is negative.
///
/// The dot product of a zero vector, and of empty vectors, is zero.
///
/// # Errors
/// [`Error::LengthsDiffer`] and, for NaN and infinity, [`Error::NotFinite`].
///
/// ```
/// use std::cmp::Ordering;
/// // In floating point both products round to the same number, and their difference to zero.
/// let (x, y) = (1.0 + f64::EPSILON, 1.0 - f64::EPSILON);
/// assert_eq!(x * y - 1.0, 0.0);
/// assert_eq!(retainfirst_core::exact::dot_sign(&[x, 1.0], &[y, -1.0])?, Ordering::Less);
/// # Ok::<(), retainfirst_core::Error>(())
/// ```
pub fn dot_sign<T: BinaryFormat>(update: &[T], retain: &[T]) -> Result<Ordering, Error> {
    Ok(dot_product(update, retain)?.sign().cmp(&Sign::NoSign))
}

/// Returns the dot product of `update` and `retain`, in units of the square of the format's smallest subnormal number.
///
/// That number is `2^-1074` for `f64`, `2^-149` for `f32`, `2^-24` for [`half::f16`] and `2^-133` for [`half::bf16`]. The dot
/// product of empty vectors is 0.
///
/// # Errors
/// [`Error::LengthsDiffer`] and, for NaN and infinity, [`Error::NotFinite`].
///
/// ```
/// use half::f16;
/// use retainfirst_core::exact::dot_product;
///
/// let half = f16::from_f32(0.5);
/// assert_eq!(dot_product(&[half, f16::ONE], &[half, -f16::ONE])?, (-3_i64 << 46).into());
/// # Ok::<(), retainfirst_core::Error>(())
/// ```
pub fn dot_product<T: BinaryFormat>(update: &[T], retain: &[T]) -> Result<BigInt, Error> {
    let (update, retain) = (T::bits(update), T::bits(retain));
    check::<T>(&[("update", update), ("retain", retain)])?;
    Ok(dot::<T>(update, retain))
}

/// Compares the cosine of `first` and `retain` with the cosine of `second` and `retain`.
///
/// With the dot products `x` and `y`, the cosines are `x / (|first| |retain|)` and `y / (|second| |retain|)`. If the signs of `x`
/// and `y` are equal, the order is that of the integers `x |x| |second|^2` and `y |y| |first|^2`.
///
/// # Errors
/// [`Error::LengthsDiffer`]; [`Error::NotFinite`]; [`Error::ZeroVector`] if one of the three has no cosine.
pub fn compare_cosines<T: BinaryFormat>(first: &[T], second: &[T], retain: &[T]) -> Result<Ordering, Error> {
    let (first, second, retain) = (T::bits(first), T::bits(second), T::bits(retain));
    let vectors = [("first", first), ("second", second), ("retain", retain)];
    check::<T>(&vectors)?;
    if let Some((name, _)) =
        vectors.into_iter().find(|(_, vector)| vector.iter().all(|&x| split::<T>(x).1 == 0))
    {
        return Err(Error::ZeroVector { name });
    }
    let (x, y) = (dot::<T>(first, retain), dot::<T>(second, retain));
    if x.sign() != y.sign() || x.sign() == Sign::NoSign {
        return Ok(x.sign().cmp(&y.sign()));
    }
    let signed_square = |x: &BigInt| x * BigInt::from(x.magnitude().clone());
    let (left, right) =
        (signed_square(&x) * dot::<T>(second, second), signed_square(&y) * dot::<T>(first, first));
    Ok(left.cmp(&right))
}

/// Refuses vectors of different lengths, and NaN and infinity.
fn check<T: BinaryFormat>(vectors: &[(&'static str, &[T::Bits])]) -> Result<(), Error> {
    let (other, expected) = (vectors[0].0, vectors[0].1.len());
    for &(name, vector) in vectors {
        if vector.len() != expected {
            return Err(Error::LengthsDiffer { name, found: vector.len(), other, expected });
        }
    }
    let all_ones = (1 << T::EXPONENT_BITS) - 1;
    let is_bad = |&x: &T::Bits| exponent::<T>(x.into()) == all_ones;
    // Free of branches, so that the compiler vectorises the loop.
    let any = |chunk: &[T::Bits]| chunk.iter().fold(false, |any, x| any | is_bad(x));
    for &(name, vector) in vectors {
        let found = if expected < PARALLEL_MIN_ELEMENTS {
            vector.chunks(CHUNK).any(any)
        } else {
            vector.par_chunks(CHUNK).any(any)
        };
        if let Some(index) = found.then(|| vector.iter().position(is_bad)).flatten() {
            let fraction = vector[index].into() & ((1 << T::FRACTION_BITS) - 1);
            return Err(Error::NotFinite {
                name,
                index,
                found: if fraction == 0 { "infinity" } else { "NaN" },
            });
        }
    }
    Ok(())
}

/// Returns the dot product in units of the square of the format's smallest number.
fn dot<T: BinaryFormat>(x: &[T::Bits], y: &[T::Bits]) -> BigInt {
    let sum = if x.len() < PARALLEL_MIN_ELEMENTS {
        x.chunks(CHUNK)
            .zip(y.chunks(CHUNK))
            .map(|(x, y)| FixedPoint::of::<T>(x, y))
            .fold(FixedPoint::ZERO, FixedPoint::plus)
    } else {
        let chunks = x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK));
        chunks.map(|(x, y)| FixedPoint::of::<T>(x, y)).reduce(|| FixedPoint::ZERO, FixedPoint::plus)
    };
    sum.into_integer()
}

/// Returns the stored exponent.
#[inline(always)]
fn exponent<T: BinaryFormat>(bits: u64) -> u64 {
    (bits >> T::FRACTION_BITS) & ((1 << T::EXPONENT_BITS) - 1)
}

/// Returns the sign, and the magnitude in units of the format's smallest number as an integer and an exponent of two.
#[inline(always)]
fn split<T: BinaryFormat>(x: T::Bits) -> (bool, u64, usize) {
    let bits = x.into();
    let exponent = exponent::<T>(bits);
    let implied = u64::from(exponent != 0) << T::FRACTION_BITS;
    let whole = (bits & ((1 << T::FRACTION_BITS) - 1)) | implied;
    (bits >> (T::EXPONENT_BITS + T::FRACTION_BITS) != 0, whole, exponent.max(1) as usize - 1)
}

/// Returns the product in units of the square of the format's smallest number, as an integer and an exponent of two.
#[inline(always)]
fn product<T: BinaryFormat>(x: T::Bits, y: T::Bits) -> (i128, usize) {
    let (x, y) = (split::<T>(x), split::<T>(y));
    let size = i128::from(x.1) * i128::from(y.1);
    // Free of branches, since signs are unpredictable.
    let flip = -i128::from(x.0 != y.0);
    ((size ^ flip) - flip, x.2 + y.2)
}

/// A sum of products in fixed point: limb `i` has the weight `2^(32 i)`. After a carry, every limb but the last is a digit; the
/// last one holds the sign.
struct FixedPoint([i64; LIMBS]);

impl FixedPoint {
    const ZERO: Self = Self([0; LIMBS]);

    /// Returns the dot product of at most [`CHUNK`] elements, carried.
    fn of<T: BinaryFormat>(x: &[T::Bits], y: &[T::Bits]) -> Self {
        debug_assert!(x.len() <= CHUNK);
        let mut sum = Self::ZERO;
        let products = x.iter().zip(y).map(|(&x, &y)| product::<T>(x, y));
        if x.len() < MANY {
            products.for_each(|(product, shift)| sum.add(product, shift));
        } else {
            let mut by_shift = vec![0; 2 << T::EXPONENT_BITS];
            products.for_each(|(product, shift)| by_shift[shift] += product);
            let terms = by_shift.into_iter().enumerate().filter(|&(_, term)| term != 0);
            terms.for_each(|(shift, term)| sum.add(term, shift));
        }
        sum.carried()
    }

    /// Adds `term * 2^shift`.
    #[inline(always)]
    fn add(&mut self, term: i128, shift: usize) {
        let size = term.unsigned_abs();
        // A shifted term could exceed 128 bits, but its halves do not.
        let low = u128::from(size as u64) << (shift % DIGIT);
        let high = (size >> 64) << (shift % DIGIT);
        let digit = |number: u128, i: usize| i64::from((number >> (DIGIT * i)) as u32);
        let digits: [i64; PRODUCT_DIGITS] =
            [digit(low, 0), digit(low, 1), digit(low, 2) + digit(high, 0), digit(high, 1), digit(high, 2)];
        let flip = -i64::from(term < 0);
        let start = shift / DIGIT;
        for (limb, digit) in self.0[start..start + PRODUCT_DIGITS].iter_mut().zip(digits) {
            *limb += (digit ^ flip) - flip;
        }
    }

    /// Returns the sum of two carried sums, carried.
    fn plus(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(limb, other)| *limb += other);
        self.carried()
    }

    fn carried(mut self) -> Self {
        let mut carry = 0;
        for limb in &mut self.0[..LIMBS - 1] {
            let total = *limb + carry;
            *limb = total & ((1 << DIGIT) - 1);
            carry = total >> DIGIT;
        }
        self.0[LIMBS - 1] += carry;
        self
    }

    /// The digits of a carried sum are the number in two's complement.
    fn into_integer(self) -> BigInt {
        let bytes: Vec<u8> =
            self.0.into_iter().flat_map(|limb| limb.to_le_bytes().into_iter().take(4)).collect();
        BigInt::from_signed_bytes_le(&bytes)
    }
}
