//! Groups of the elements of an array.

use std::ops::Range;

use crate::error::Error;
use crate::sweep::Piece;

/// Groups that hold each element of an array once.
pub(crate) struct Partition<'g> {
    groups: &'g [Range<usize>],
    /// Indices into `groups`, sorted by position in the array.
    order: Vec<usize>,
}

impl<'g> Partition<'g> {
    /// Checks the groups, given in any order.
    pub(crate) fn new(groups: &'g [Range<usize>], length: usize) -> Result<Self, Error> {
        if let Some(group) = groups.iter().find(|group| group.start > group.end || group.end > length) {
            return Err(Error::GroupOutOfRange { group: group.clone(), length });
        }
        let mut order: Vec<usize> = (0..groups.len()).collect();
        order.sort_by_key(|&i| (groups[i].start, groups[i].end));
        let mut before = 0..0;
        for &i in &order {
            let group = &groups[i];
            if group.start < before.end {
                return Err(Error::GroupsOverlap { first: before, second: group.clone() });
            }
            if group.start > before.end {
                return Err(Error::GroupsGap { gap: before.end..group.start });
            }
            before = group.clone();
        }
        if before.end < length {
            return Err(Error::GroupsGap { gap: before.end..length });
        }
        Ok(Self { groups, order })
    }

    /// Cuts the array into one piece a group, in the order of the array.
    pub(crate) fn pieces<'a, T>(
        &self,
        forget: &'a [T],
        retain: Option<&'a [T]>,
        mut target: &'a mut [T],
    ) -> Vec<Piece<'a, T>> {
        let mut pieces = Vec::with_capacity(self.order.len());
        for &i in &self.order {
            let range = self.groups[i].clone();
            let (head, rest) = target.split_at_mut(range.len());
            target = rest;
            pieces.push(Piece {
                forget: &forget[range.clone()],
                retain: retain.map(|retain| &retain[range]),
                target: head,
            });
        }
        pieces
    }

    /// Sorts results from the order of the array into the order in which the groups were given.
    pub(crate) fn in_given_order<R: Clone + Default>(&self, sorted: Vec<R>) -> Vec<R> {
        let mut given = vec![R::default(); sorted.len()];
        for (&i, result) in self.order.iter().zip(sorted) {
            given[i] = result;
        }
        given
    }
}
