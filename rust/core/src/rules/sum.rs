//! The plain weighted sum.

use super::{Operation, Weights};
use crate::element::Element;

/// `u = alpha r + gamma f`, each operation rounded once.
#[derive(Clone, Copy)]
pub(crate) struct Sum<W>(pub(crate) Weights<W>);

impl<T: Element> Operation<T> for Sum<T::Wide> {
    #[inline(always)]
    fn apply(self, forget: T::Wide, retain: T::Wide) -> T::Wide {
        self.0.alpha * retain + self.0.gamma * forget
    }
}
