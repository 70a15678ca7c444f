//! Rules that combine a forget gradient `f` and a retain gradient `r` into one update `u`.
//!
//! Every rule is exact about its rounding, so that other implementations can agree to the bit, and gives the [`Moments`]
//! of `f`, `r` and `u` (squares, dot products, conflicting coordinates) from the pass that writes the update. Results do
//! not depend on the number of threads or on the vector instructions of the machine. Where a rounded number would not do,
//! [`exact`] tells a dot product, its sign and the order of two cosines without any rounding; and [`exhaustive`] tries
//! SAGO on every pair of 16-bit numbers.
//!
//! ```
//! use retainfirst_core::{Rule, combine_in_place};
//!
//! let forget = [1.0_f32, -2.0, 3.0];
//! let mut gradient = [1.0_f32, 1.0, 1.0];
//! let moments = combine_in_place(Rule::Sago, 1.0, 0.5, &forget, &mut gradient, &[0..3])?;
//! assert_eq!(gradient, [0.5, 1.0, 1.5]);
//! assert_eq!(moments[0].conflicts, 1);
//! # Ok::<(), retainfirst_core::Error>(())
//! ```

mod combine;
mod element;
mod error;
pub mod exact;
pub mod exhaustive;
mod geometry;
mod groups;
mod limit;
mod moments;
mod rounding;
mod rules;
mod simd;
mod sweep;
mod tensors;

pub use combine::{combine_in_place, combine_into};
pub use element::Element;
pub use error::Error;
pub use geometry::geometry;
pub use limit::{Limit, limit};
pub use moments::Moments;
pub use rules::{Coefficients, Rounding, Rule};
pub use sweep::PARALLEL_MIN_ELEMENTS;
pub use tensors::{apply_elementwise, apply_linear, apply_unmeasured, moments};
