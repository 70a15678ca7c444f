//! What callers can do wrong.

use std::ops::Range;

/// A refused call: the text says what was given, what was found and what to do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The rule's name is not known, or not known to be element-wise where that is asked for.
    #[error("rule: {name:?} is not one of {known}")]
    UnknownRule {
        /// What was given.
        name: String,
        /// The accepted names.
        known: String,
    },
    /// Two arrays, or two lists, that belong together differ in length.
    #[error("{what}: length {found}, but forget has {expected}; both must be the same")]
    LengthMismatch {
        /// The argument, such as `retain`.
        what: String,
        /// Its length.
        found: usize,
        /// The forget side's length.
        expected: usize,
    },
    /// A weight is out of its range, as given or once rounded to the format that the rule computes in.
    #[error("{name}: {value:e} is {found} in {dtype}; it must be finite and {range}")]
    Weight {
        /// `alpha` or `gamma`.
        name: &'static str,
        /// The value as given.
        value: f64,
        /// What it becomes in the format.
        found: f64,
        /// The format that the rule computes in.
        dtype: &'static str,
        /// The range in words.
        range: &'static str,
    },
    /// A group does not lie in the array.
    #[error("groups: ({}, {}) does not lie within the array's 0..{length}", .group.start, .group.end)]
    GroupOutOfRange {
        /// The group.
        group: Range<usize>,
        /// The array's length.
        length: usize,
    },
    /// Two groups share elements.
    #[error("groups: ({}, {}) overlaps ({}, {}); an element stands in one group", .first.start, .first.end, .second.start, .second.end)]
    GroupsOverlap {
        /// The one that starts first.
        first: Range<usize>,
        /// The other.
        second: Range<usize>,
    },
    /// Some elements stand in no group.
    #[error("groups: no group covers the elements ({}, {}); the groups must cover the array", .gap.start, .gap.end)]
    GroupsGap {
        /// The first run of elements left out.
        gap: Range<usize>,
    },
    /// A range of bit patterns is not one of a 16-bit format's.
    #[error("retain: ({}, {}) does not lie within 0..65536, the bit patterns of 16 bits", .range.start, .range.end)]
    BitsOutOfRange {
        /// The range.
        range: Range<u32>,
    },
    /// Two vectors of which a dot product is asked differ in length.
    #[error("{name}: length {found}, but {other} has {expected}; both must be the same")]
    LengthsDiffer {
        /// The argument, such as `retain`.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The first argument.
        other: &'static str,
        /// The first argument's length.
        expected: usize,
    },
    /// An exact answer is asked about numbers that have none.
    #[error("{name}[{index}]: {found}; exact sums are those of finite numbers")]
    NotFinite {
        /// The argument.
        name: &'static str,
        /// The first such element.
        index: usize,
        /// `NaN` or `infinity`.
        found: &'static str,
    },
    /// A cosine is asked of a zero vector, or of one without elements.
    #[error("{name}: a zero vector, whose cosine is undefined; give one with an element other than 0")]
    ZeroVector {
        /// The argument.
        name: &'static str,
    },
}
