//! Errors.

use std::ops::Range;

/// A refused call. The text names the argument, its value and the requirement.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The combiner is unknown, or it is not element-wise where an element-wise one is needed.
    #[error("combiner: {name:?} is not one of {known}")]
    UnknownCombiner {
        /// The given name.
        name: String,
        /// The accepted names.
        known: String,
    },
    /// An array or a list has another length than forget's.
    #[error("{what}: length {found}, but forget has {expected}; both must be the same")]
    LengthMismatch {
        /// The argument, such as `retain` or `retain[3]`.
        what: String,
        /// Its length.
        found: usize,
        /// The length of forget.
        expected: usize,
    },
    /// A weight is out of range, before or after rounding to the format that the combiner computes in.
    #[error("{name}: {value:e} is {found} in {dtype}; it must be finite and {range}")]
    Weight {
        /// `alpha` or `gamma`.
        name: &'static str,
        /// The given value.
        value: f64,
        /// The value rounded to the format.
        found: f64,
        /// The format that the combiner computes in.
        dtype: &'static str,
        /// The allowed range, in words.
        range: &'static str,
    },
    /// A group reaches beyond the array.
    #[error("groups: ({}, {}) does not lie within the array's 0..{length}", .group.start, .group.end)]
    GroupOutOfRange {
        /// The group.
        group: Range<usize>,
        /// The array's length.
        length: usize,
    },
    /// Two groups share elements.
    #[error("groups: ({}, {}) overlaps ({}, {}); an element belongs to one group", .first.start, .first.end, .second.start, .second.end)]
    GroupsOverlap {
        /// The group that starts first.
        first: Range<usize>,
        /// The other group.
        second: Range<usize>,
    },
    /// Some elements belong to no group.
    #[error("groups: no group covers the elements ({}, {}); the groups must cover the array", .gap.start, .gap.end)]
    GroupsGap {
        /// The first range of such elements.
        gap: Range<usize>,
    },
    #[cfg(feature = "exhaustive")]
    /// A range of bit patterns reaches beyond those of 16 bits.
    #[error("retain: ({}, {}) does not lie within 0..65536, the bit patterns of 16 bits", .range.start, .range.end)]
    BitsOutOfRange {
        /// The range.
        range: Range<u32>,
    },
    /// Two vectors of a dot product differ in length.
    #[error("{name}: length {found}, but {other} has {expected}; both must be the same")]
    LengthsDiffer {
        /// The argument, such as `retain`.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The first argument.
        other: &'static str,
        /// The length of the first argument.
        expected: usize,
    },
    /// A vector of an exact computation holds NaN or infinity.
    #[error("{name}[{index}]: {found}; an exact sum needs finite numbers")]
    NotFinite {
        /// The argument.
        name: &'static str,
        /// The first such element.
        index: usize,
        /// `NaN` or `infinity`.
        found: &'static str,
    },
    /// A vector whose cosine is needed is zero or has no elements.
    #[error("{name}: a zero vector has no cosine; give one with an element other than 0")]
    ZeroVector {
        /// The argument.
        name: &'static str,
    },
}
