//! The guard of an optimiser step, on tensors given by address as in [`crate::addresses`].

use numpy::PyArray2;
use pyo3::prelude::*;
use retainfirst_core::{Element, Guarded, Moments, PutBack, Step};

use crate::addresses::{Memory, check_address, check_overlap, slice, slice_mut, total, with_dtype};
use crate::errors::{from_core, refuse};
use crate::table::table;
use crate::threads::install;

type Measured<'py> = PyResult<(Bound<'py, PyArray2<f64>>, Vec<u64>)>;

/// Puts back coordinates of `after` that work against the retain gradient, and measures the step.
///
/// `signs` decides which: where it and the step have the same sign, and with `zeros` also where it is zero. Empty lists: `signs`
/// puts nothing back, `forget` and `retain` measure nothing.
///
/// Returns a table of moments, in which the step backwards stands for the forget gradient and the forget gradient for the update
/// and `ur` is 0, and the number of coordinates of each tensor that were put back.
///
/// The addresses must be as for `moments`.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the signature is the Python function's")]
pub fn guard_<'py>(
    py: Python<'py>,
    dtype: &str,
    before: Vec<usize>,
    after: Vec<usize>,
    lengths: Vec<usize>,
    signs: Vec<usize>,
    zeros: bool,
    forget: Vec<usize>,
    retain: Vec<usize>,
) -> Measured<'py> {
    let put_back = match (signs.is_empty(), zeros) {
        (true, _) => PutBack::Nothing,
        (false, false) => PutBack::Opposing,
        (false, true) => PutBack::OpposingAndZeros,
    };
    let tensors = Tensors { before, after, lengths, signs, forget, retain };
    with_dtype!(dtype, guard(py, tensors, put_back))
}

fn guard<T: Element>(py: Python<'_>, tensors: Tensors, put_back: PutBack) -> Measured<'_> {
    let elements = total(tensors.lengths.iter().copied());
    let steps = tensors.into_steps::<T>()?;
    let rows = py.detach(|| install(elements, || retainfirst_core::guard(put_back, steps)))?;
    let (moments, counts): (Vec<Moments>, Vec<u64>) =
        rows.map_err(from_core)?.into_iter().map(|Guarded { moments, put_back }| (moments, put_back)).unzip();
    Ok((table(py, &moments), counts))
}

struct Tensors {
    before: Vec<usize>,
    after: Vec<usize>,
    lengths: Vec<usize>,
    signs: Vec<usize>,
    forget: Vec<usize>,
    retain: Vec<usize>,
}

impl Tensors {
    fn into_steps<'a, T>(self) -> PyResult<Vec<Step<'a, T>>> {
        self.check::<T>()?;
        let step = |i: usize| {
            let n = self.lengths[i];
            // SAFETY: `check` has found the addresses aligned and not null, the lengths within the address space, and no other
            // tensor that overlaps one of `after`. The Python caller guarantees that the memory holds `n` elements that nothing
            // else writes, as the functions document.
            let (before, after) = unsafe { (slice(self.before[i], n), slice_mut(self.after[i], n)) };
            // SAFETY: as above.
            let read = |list: &[usize]| list.get(i).map(|&address| unsafe { slice(address, n) });
            let gradients = read(&self.forget).zip(read(&self.retain));
            Step { before, after, signs: read(&self.signs), gradients }
        };
        Ok((0..self.lengths.len()).map(step).collect())
    }

    fn check<T>(&self) -> PyResult<()> {
        let count = self.lengths.len();
        let mut ranges = Vec::with_capacity(5 * count);
        for (name, list, may_be_empty) in [
            ("before", &self.before, false),
            ("after", &self.after, false),
            ("signs", &self.signs, true),
            ("forget", &self.forget, true),
            ("retain", &self.retain, self.forget.is_empty()),
        ] {
            if list.len() != count && !(may_be_empty && list.is_empty()) {
                return Err(refuse(format!(
                    "{name}: {} entries, but lengths has {count}; the lists must be equally long",
                    list.len()
                )));
            }
            for (i, (&start, &length)) in list.iter().zip(&self.lengths).enumerate() {
                if length > 0 {
                    let end = check_address::<T>(name, i, start, length)?;
                    ranges.push(Memory { start, end, is_written: name == "after", name, i });
                }
            }
        }
        if self.forget.is_empty() != self.retain.is_empty() {
            return Err(refuse(format!(
                "retain: {} entries, but forget has {}; give both to measure, or neither",
                self.retain.len(),
                self.forget.len()
            )));
        }
        check_overlap(ranges)
    }
}
