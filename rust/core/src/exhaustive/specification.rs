//! The specification of the two combiners for one pair of elements, on bits. It shares no code with the kernels.

use std::marker::PhantomData;

use super::round::round16;
use super::{PATTERNS, SixteenBit};
use crate::combiners::{Combiner, Weights, unknown};
use crate::error::Error;
use crate::exact::BinaryFormat;

const SIGN: u16 = 0x8000;

/// A combiner with its weights: `alpha r` where the signs conflict, else `gamma f`, to which `keep_retain` adds `alpha r`.
pub(super) struct Specification<T> {
    keep_retain: bool,
    /// Rounded to `f32`, like the weights of the kernels.
    alpha: f32,
    /// `gamma f`, indexed by the bits of `f`.
    taken: Vec<f32>,
    format: PhantomData<T>,
}

impl<T: SixteenBit> Specification<T> {
    pub(super) fn new(combiner: Combiner, alpha: f64, gamma: f64) -> Result<Self, Error> {
        let keep_retain = match combiner {
            Combiner::Sago => false,
            Combiner::SagoKeepRetain => true,
            other => return Err(unknown(other.name(), [Combiner::Sago, Combiner::SagoKeepRetain])),
        };
        Weights::<f32>::new(alpha, gamma)?;
        let gamma = gamma as f32;
        let taken = (0..PATTERNS).map(|bits| gamma * value::<T>(bits as u16)).collect();
        Ok(Self { keep_retain, alpha: alpha as f32, taken, format: PhantomData })
    }

    /// Writes the updates of one retain element with every forget element, indexed by the bits of the latter.
    #[inline(always)]
    pub(super) fn write_row(&self, retain: u16, out: &mut [u16]) {
        let kept = self.alpha * value::<T>(retain);
        for (forget, (out, &taken)) in out.iter_mut().zip(&self.taken).enumerate() {
            *out = self.update(forget as u16, retain, taken, kept);
        }
    }

    /// Returns the update of one pair, given `gamma f` and `alpha r`.
    #[inline(always)]
    fn update(&self, f: u16, r: u16, taken: f32, kept: f32) -> u16 {
        let agreed = if self.keep_retain { kept + taken } else { taken };
        let finite = round16::<T>(if signs_conflict(f, r) { kept } else { agreed });
        let opposite_infinities = (f ^ r == SIGN) & is_infinite::<T>(f);
        let nan = is_nan::<T>(f) | is_nan::<T>(r) | opposite_infinities;
        if nan {
            infinity::<T>() | 1
        } else if is_infinite::<T>(f) {
            f
        } else if is_infinite::<T>(r) {
            r
        } else {
            finite
        }
    }
}

/// Returns whether two results differ. All NaNs are equal; zeros of different sign are not.
#[inline(always)]
pub(super) fn differs<T: BinaryFormat>(found: u16, expected: u16) -> bool {
    (found != expected) & !(is_nan::<T>(found) & is_nan::<T>(expected))
}

/// Returns whether the update of two finite numbers violates T1: it is NaN, or its sign is opposite to retain's.
#[inline(always)]
pub(super) fn opposes<T: BinaryFormat>(f: u16, r: u16, update: u16) -> bool {
    is_finite::<T>(f) & is_finite::<T>(r) & (is_nan::<T>(update) | signs_conflict(update, r))
}

/// Returns whether two numbers have opposite signs and neither is zero.
#[inline(always)]
fn signs_conflict(x: u16, y: u16) -> bool {
    (magnitude(x) != 0) & (magnitude(y) != 0) & ((x ^ y) & SIGN != 0)
}

#[inline(always)]
pub(super) fn is_finite<T: BinaryFormat>(bits: u16) -> bool {
    magnitude(bits) < infinity::<T>()
}

#[inline(always)]
fn is_infinite<T: BinaryFormat>(bits: u16) -> bool {
    magnitude(bits) == infinity::<T>()
}

#[inline(always)]
fn is_nan<T: BinaryFormat>(bits: u16) -> bool {
    magnitude(bits) > infinity::<T>()
}

#[inline(always)]
fn magnitude(bits: u16) -> u16 {
    bits & !SIGN
}

#[inline(always)]
fn infinity<T: BinaryFormat>() -> u16 {
    ((1 << T::EXPONENT_BITS) - 1) << T::FRACTION_BITS
}

/// Returns the value of a finite number. The result for NaN and infinity is arbitrary.
fn value<T: BinaryFormat>(bits: u16) -> f32 {
    let implied = 1 << T::FRACTION_BITS;
    let (exponent, fraction) = (magnitude(bits) / implied, magnitude(bits) % implied);
    let whole = if exponent == 0 { fraction } else { fraction + implied };
    let bias = (1 << (T::EXPONENT_BITS - 1)) - 1;
    let power = i32::from(exponent.max(1)) - bias - T::FRACTION_BITS.cast_signed();
    let value = f64::from(whole) * 2_f64.powi(power);
    (if bits & SIGN == 0 { value } else { -value }) as f32
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn check_values<T: SixteenBit + Into<f32>>() {
        for bits in (0..=u16::MAX).filter(|&bits| is_finite::<T>(bits)) {
            assert_eq!(value::<T>(bits).to_bits(), T::from_bits(bits).into().to_bits(), "{bits:#06x}");
        }
    }

    #[test]
    fn bits_have_the_values_of_the_format() {
        check_values::<f16>();
        check_values::<bf16>();
    }

    fn check_kinds<T: SixteenBit + Into<f32>>() {
        for bits in 0..=u16::MAX {
            let x: f32 = T::from_bits(bits).into();
            assert_eq!(
                [is_finite::<T>(bits), is_infinite::<T>(bits), is_nan::<T>(bits)],
                [x.is_finite(), x.is_infinite(), x.is_nan()],
                "{bits:#06x}"
            );
        }
    }

    #[test]
    fn bits_are_of_the_kind_of_their_value() {
        check_kinds::<f16>();
        check_kinds::<bf16>();
    }

    /// Literal pairs of float16: forget, retain, the update of SAGO with `alpha` 1 and `gamma` 2, and that of keep-retain.
    const PAIRS: [[u16; 4]; 14] = [
        [0x3c00, 0x3c00, 0x4000, 0x4200], // 1, 1: 2, and 3
        [0xbc00, 0x3c00, 0x3c00, 0x3c00], // -1, 1: 1
        [0x8001, 0x0001, 0x0001, 0x0001], // the smallest numbers of both signs, whose product underflows to zero
        [0x0000, 0x3c00, 0x0000, 0x3c00], // a zero of either sign never conflicts
        [0x8000, 0x3c00, 0x8000, 0x3c00],
        [0x3c00, 0x8000, 0x4000, 0x4000],
        [0x8000, 0x8000, 0x8000, 0x8000],
        [0x8000, 0x0000, 0x8000, 0x0000],
        [0x7bff, 0x7bff, 0x7c00, 0x7c00], // overflow
        [0x7c00, 0x3c00, 0x7c00, 0x7c00], // infinity shows in spite of a conflict
        [0xfc00, 0x3c00, 0xfc00, 0xfc00],
        [0x3c00, 0xfc00, 0xfc00, 0xfc00],
        [0x7c00, 0xfc00, 0x7c01, 0x7c01], // NaN
        [0xbc00, 0x7e00, 0x7c01, 0x7c01],
    ];

    #[test]
    fn literal_pairs_have_literal_updates() {
        for (combiner, column) in [(Combiner::Sago, 2), (Combiner::SagoKeepRetain, 3)] {
            let specification = Specification::<f16>::new(combiner, 1.0, 2.0).unwrap();
            let mut row = vec![0; PATTERNS as usize];
            for pair in PAIRS {
                specification.write_row(pair[1], &mut row);
                assert_eq!(row[usize::from(pair[0])], pair[column], "{pair:#06x?}");
            }
        }
    }

    #[test]
    fn other_results_differ_or_oppose() {
        let differs = differs::<f16>;
        assert!(!differs(0x7c01, 0xffff) && !differs(0x8000, 0x8000));
        assert!(differs(0x0000, 0x8000) && differs(0x7c00, 0x7c01) && differs(0x7c01, 0x7c00));
        let opposes = opposes::<f16>;
        assert!(opposes(0, 0x0001, 0x8001) && opposes(0, 0xbc00, 0x7c00) && opposes(0, 0, 0x7c01));
        assert!(!opposes(0, 0x0001, 0x8000) && !opposes(0, 0x8000, 0x3c00) && !opposes(0, 0xbc00, 0xbc00));
        assert!(!opposes(0x7c00, 0xbc00, 0x7c00) && !opposes(0, 0x7c01, 0x7c01));
    }
}
