//! The combiners, one file each: element-wise formulas, and the coefficients of a group.

mod blur;
mod linear;
mod pcgrad;
mod sago;
mod sum;
mod toward_retain;

use std::str::FromStr;

pub use linear::{Coefficients, Rounding};

pub(crate) use blur::coefficients as blur;
pub(crate) use linear::Linear;
pub(crate) use pcgrad::coefficients as pcgrad;
pub(crate) use sago::{Sago, SagoKeepRetain};
pub(crate) use sum::Sum;
pub(crate) use toward_retain::LinearTowardRetain;

use fearless_simd::prelude::*;

use crate::element::{Element, Wide};
use crate::error::Error;
use crate::simd::Vector;

/// A combiner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Combiner {
    /// `u = alpha r + gamma f`.
    Sum,
    /// Projects `f` off `r` in groups whose dot product is negative, then adds.
    Pcgrad,
    /// Keeps `alpha r` where the signs conflict and takes `gamma f` elsewhere.
    Sago,
    /// Keeps `alpha r` where the signs conflict and adds `gamma f` elsewhere.
    SagoKeepRetain,
    /// Removes from `r` its component along `f`, then adds: the forget-first baseline.
    Blur,
}

impl Combiner {
    /// All combiners.
    pub const ALL: [Self; 5] = [Self::Sum, Self::Pcgrad, Self::Sago, Self::SagoKeepRetain, Self::Blur];

    /// Returns the name that Python uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Pcgrad => "pcgrad",
            Self::Sago => "sago",
            Self::SagoKeepRetain => "sago_keep_retain",
            Self::Blur => "blur",
        }
    }

    /// Returns whether the update at a coordinate depends on that coordinate alone.
    #[must_use]
    pub const fn is_elementwise(self) -> bool {
        matches!(self, Self::Sum | Self::Sago | Self::SagoKeepRetain)
    }
}

impl FromStr for Combiner {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|combiner| combiner.name() == name).ok_or_else(|| unknown(name, Self::ALL))
    }
}

/// Returns the error for a combiner that is not one of `known`.
pub(crate) fn unknown(name: &str, known: impl IntoIterator<Item = Combiner>) -> Error {
    let known: Vec<_> = known.into_iter().map(Combiner::name).collect();
    Error::UnknownCombiner { name: name.to_owned(), known: known.join(", ") }
}

/// The formula of a combiner at each coordinate, in the wide format of the element.
pub(crate) trait Formula<T: Element>: Copy + Send + Sync {
    /// Must be `#[inline(always)]`.
    fn apply<S: Simd, V: Vector<S, Element = T::Wide>>(self, forget: V, retain: V) -> V;
}

/// The two weights, rounded to the format in which the combiner computes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights<W> {
    pub(crate) alpha: W,
    pub(crate) gamma: W,
}

impl<W: Wide> Weights<W> {
    /// Rounds the weights. Afterwards `alpha` must be finite and above zero, `gamma` finite and at least zero, and no weight
    /// may have become zero.
    pub(crate) fn new(alpha: f64, gamma: f64) -> Result<Self, Error> {
        let weights = Self { alpha: W::from_f64(alpha), gamma: W::from_f64(gamma) };
        let zero = W::default();
        let refuse = |name, value, found: W, range| {
            Err(Error::Weight { name, value, found: found.to_f64(), dtype: W::NAME, range })
        };
        if !(weights.alpha.is_finite() && weights.alpha > zero) {
            return refuse("alpha", alpha, weights.alpha, "above 0");
        }
        let vanished = weights.gamma == zero && gamma != 0.0;
        if !(weights.gamma.is_finite() && weights.gamma >= zero) || vanished {
            return refuse("gamma", gamma, weights.gamma, "0 or above (0 only where 0 is given)");
        }
        Ok(weights)
    }
}
