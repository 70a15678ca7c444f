//! Moments of a given update.

use std::ops::Range;

use crate::combine::check_length;
use crate::element::Element;
use crate::error::Error;
use crate::groups::Partition;
use crate::moments::Moments;
use crate::sweep::{self, View};

/// Returns the moments of each group for an update from any source.
///
/// # Errors
/// [`Error::LengthMismatch`], or one of the errors about groups.
pub fn geometry<T: Element>(
    forget: &[T],
    retain: &[T],
    update: &[T],
    groups: &[Range<usize>],
) -> Result<Vec<Moments>, Error> {
    check_length("retain", retain.len(), forget.len())?;
    check_length("update", update.len(), forget.len())?;
    Partition::new(groups, forget.len())?;
    let views = groups
        .iter()
        .map(|group| View {
            forget: &forget[group.clone()],
            retain: &retain[group.clone()],
            update: &update[group.clone()],
        })
        .collect();
    Ok(sweep::measure::<T, true, true>(views))
}
