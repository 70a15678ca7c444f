//! Combiners: formulas that turn a forget gradient `f` and a retain gradient `r` into one update `u`.
//!
//! The rounding of every combiner is specified, so that other implementations can agree to the bit. The pass that writes the
//! update also measures the [`Moments`] of `f`, `r` and `u`: squares, dot products and conflicting coordinates. Results depend
//! neither on the number of threads nor on the vector instructions of the machine. [`exact`] computes a dot product, its sign
//! and the order of two cosines without rounding.
//!
//! ```
//! use retainfirst_core::{Combiner, combine_in_place};
//!
//! let forget = [1.0_f32, -2.0, 3.0];
//! let mut gradient = [1.0_f32, 1.0, 1.0];
//! let moments = combine_in_place(Combiner::Sago, 1.0, 0.5, &forget, &mut gradient, &[0..3])?;
//! assert_eq!(gradient, [0.5, 1.0, 1.5]);
//! assert_eq!(moments[0].conflicts, 1);
//! # Ok::<(), retainfirst_core::Error>(())
//! ```
//!
//! # Features
//! - `baseline`: a plain weighted sum, against which benchmarks hold the combiners.
//! - `exhaustive`: a check of SAGO on every pair of 16-bit numbers.

#[cfg(feature = "baseline")]
mod baseline;
mod combine;
mod combiners;
mod element;
mod error;
pub mod exact;
#[cfg(feature = "exhaustive")]
pub mod exhaustive;
mod geometry;
mod groups;
mod guard;
mod moments;
mod put_back;
mod rounding;
mod simd;
mod sweep;
mod tensors;

#[cfg(feature = "baseline")]
pub use baseline::{Baseline, baseline};
pub use combine::{combine_in_place, combine_into};
pub use combiners::{Coefficients, Combiner, Rounding};
pub use element::Element;
pub use error::Error;
pub use geometry::geometry;
pub use guard::{Guarded, PutBack, Step, guard};
pub use moments::Moments;
pub use simd::instruction_set;
pub use sweep::PARALLEL_MIN_ELEMENTS;
pub use tensors::{apply_elementwise, apply_linear, moments};
