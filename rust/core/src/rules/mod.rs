//! The rules, one file each: what to write, given one pair of elements or a group's sums.

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

/// A rule's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// `u = alpha r + gamma f`.
    Sum,
    /// Projects `f` off `r` where the group's dot product is negative, then adds.
    Pcgrad,
    /// Keeps `alpha r` where the signs conflict and takes `gamma f` elsewhere.
    Sago,
    /// Keeps `alpha r` where the signs conflict and adds `gamma f` elsewhere.
    SagoKeepRetain,
    /// Removes from `r` its part along `f`, then adds: the forget-first baseline.
    Blur,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 5] = [Self::Sum, Self::Pcgrad, Self::Sago, Self::SagoKeepRetain, Self::Blur];

    /// The name used in Python.
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

    /// Whether the update at a coordinate depends on that coordinate alone.
    #[must_use]
    pub const fn is_elementwise(self) -> bool {
        matches!(self, Self::Sum | Self::Sago | Self::SagoKeepRetain)
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|rule| rule.name() == name).ok_or_else(|| unknown(name, Self::ALL))
    }
}

/// The error for a name, or for a rule that is not element-wise where one is needed.
pub(crate) fn unknown(name: &str, known: impl IntoIterator<Item = Rule>) -> Error {
    let known: Vec<_> = known.into_iter().map(Rule::name).collect();
    Error::UnknownRule { name: name.to_owned(), known: known.join(", ") }
}

/// What a rule does at each coordinate, in the wide format of the element.
pub(crate) trait Operation<T: Element>: Copy + Send + Sync {
    /// Must be `#[inline(always)]`.
    fn apply<S: Simd, V: Vector<S, Element = T::Wide>>(self, forget: V, retain: V) -> V;
}

/// The two weights, rounded to the format that the rule computes in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights<W> {
    pub(crate) alpha: W,
    pub(crate) gamma: W,
}

impl<W: Wide> Weights<W> {
    /// Checks that `alpha` is finite and above zero and `gamma` finite and not below, before and after rounding, and that
    /// rounding does not make a weight vanish.
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
