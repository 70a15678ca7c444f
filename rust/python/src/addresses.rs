//! Tensors given by address: the entry for torch, whose `bfloat16` numpy does not know.

use numpy::PyArray2;
use pyo3::prelude::*;
use retainfirst_core::{Coefficients, Element, Error, Moments, Rounding, Rule};

use crate::errors::{from_core, refuse};
use crate::table::table;
use crate::threads::install;

type Table<'py> = PyResult<Bound<'py, PyArray2<f64>>>;

/// Calls a generic function with the element type that a dtype names.
macro_rules! with_dtype {
    ($dtype:expr, $function:ident $arguments:tt) => {
        match $dtype {
            "float64" => $function::<f64> $arguments,
            "float32" => $function::<f32> $arguments,
            "float16" => $function::<half::f16> $arguments,
            "bfloat16" => $function::<half::bf16> $arguments,
            other => Err(refuse(format!(
                "dtype: {other:?} is not one of float64, float32, float16, bfloat16"
            ))),
        }
    };
}
pub(crate) use with_dtype;

/// Measures tensors given by address and length; the columns of the update are 0.
///
/// Each address must be that of a contiguous tensor of so many elements of the dtype, alive and not written by others during
/// the call. This cannot be checked.
#[pyfunction]
pub fn moments<'py>(
    py: Python<'py>,
    dtype: &str,
    forget: Vec<usize>,
    retain: Vec<usize>,
    lengths: Vec<usize>,
) -> Table<'py> {
    let tensors = Tensors { forget, retain, lengths };
    with_dtype!(dtype, measure(py, tensors))
}

/// Writes an element-wise rule's update into the retain tensors and measures it in the same pass.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the signature is the Python function's")]
pub fn elementwise_<'py>(
    py: Python<'py>,
    rule: &str,
    dtype: &str,
    forget: Vec<usize>,
    retain: Vec<usize>,
    lengths: Vec<usize>,
    alpha: f64,
    gamma: f64,
) -> Table<'py> {
    let rule: Rule = rule.parse().map_err(from_core)?;
    let tensors = Tensors { forget, retain, lengths };
    with_dtype!(dtype, apply_elementwise(py, tensors, rule, alpha, gamma))
}

/// Writes `c_retain[i] * retain[i] + c_forget[i] * forget[i]` into the retain tensors, computed in float64 and rounded once:
/// to nearest, or with `toward_retain` in the direction of each retain element's sign.
///
/// Of the table only `uu`, `ur`, `uf`, `count` and the exponents are filled; `ef` and `er` are those that `moments` gives.
#[pyfunction]
#[pyo3(signature = (dtype, forget, retain, lengths, c_retain, c_forget, toward_retain=false))]
#[expect(clippy::too_many_arguments, reason = "the signature is the Python function's")]
pub fn linear_<'py>(
    py: Python<'py>,
    dtype: &str,
    forget: Vec<usize>,
    retain: Vec<usize>,
    lengths: Vec<usize>,
    c_retain: Vec<f64>,
    c_forget: Vec<f64>,
    toward_retain: bool,
) -> Table<'py> {
    for (name, list) in [("c_retain", &c_retain), ("c_forget", &c_forget)] {
        if list.len() != forget.len() {
            return Err(refuse(format!(
                "{name}: {} values for {} forget tensors; give one a tensor",
                list.len(),
                forget.len()
            )));
        }
    }
    let coefficients =
        c_retain.into_iter().zip(c_forget).map(|(retain, forget)| Coefficients { retain, forget }).collect();
    let rounding = if toward_retain { Rounding::TowardRetain } else { Rounding::Nearest };
    let tensors = Tensors { forget, retain, lengths };
    with_dtype!(dtype, apply_linear(py, tensors, coefficients, rounding))
}

pub(crate) struct Tensors {
    pub(crate) forget: Vec<usize>,
    pub(crate) retain: Vec<usize>,
    pub(crate) lengths: Vec<usize>,
}

fn measure<T: Element>(py: Python<'_>, tensors: Tensors) -> Table<'_> {
    let pairs = tensors.into_read::<T>()?;
    let elements = total(pairs.iter().map(|(forget, _)| forget.len()));
    run(py, elements, || retainfirst_core::moments(&pairs))
}

fn apply_elementwise<T: Element>(
    py: Python<'_>,
    tensors: Tensors,
    rule: Rule,
    alpha: f64,
    gamma: f64,
) -> Table<'_> {
    let pairs = tensors.into_write::<T>()?;
    let elements = total(pairs.iter().map(|(forget, _)| forget.len()));
    run(py, elements, || retainfirst_core::apply_elementwise(rule, alpha, gamma, pairs))
}

fn apply_linear<T: Element>(
    py: Python<'_>,
    tensors: Tensors,
    coefficients: Vec<Coefficients>,
    rounding: Rounding,
) -> Table<'_> {
    let pairs = tensors.into_write::<T>()?;
    let elements = total(pairs.iter().map(|(forget, _)| forget.len()));
    run(py, elements, || retainfirst_core::apply_linear(pairs, &coefficients, rounding))
}

fn run(
    py: Python<'_>,
    elements: usize,
    work: impl FnOnce() -> Result<Vec<Moments>, Error> + Send,
) -> Table<'_> {
    let rows = py.detach(|| install(elements, work))?.map_err(from_core)?;
    Ok(table(py, &rows))
}

/// Forget tensors may be given again and again, so that a sum of lengths can exceed any memory.
pub(crate) fn total(lengths: impl Iterator<Item = usize>) -> usize {
    lengths.fold(0, usize::saturating_add)
}

impl Tensors {
    /// The pairs of forget and retain as slices.
    fn into_read<'a, T>(self) -> PyResult<Vec<(&'a [T], &'a [T])>> {
        self.check::<T>(false)?;
        let triples = self.forget.into_iter().zip(self.retain).zip(self.lengths);
        // SAFETY: aligned, not null and of a length that fits the address space, as checked; that the memory holds `n`
        // elements that nobody writes during the call is the Python caller's promise, in the functions' documentation.
        Ok(triples.map(|((f, r), n)| unsafe { (slice(f, n), slice(r, n)) }).collect())
    }

    /// The pairs of forget and retain as slices, the retain ones to be written.
    pub(crate) fn into_write<'a, T>(self) -> PyResult<Vec<(&'a [T], &'a mut [T])>> {
        self.check::<T>(true)?;
        let triples = self.forget.into_iter().zip(self.retain).zip(self.lengths);
        // SAFETY: as in `into_read`; and no element of a retain slice lies in another slice, as checked.
        Ok(triples.map(|((f, r), n)| unsafe { (slice(f, n), slice_mut(r, n)) }).collect())
    }

    /// Refuses lists of different lengths, addresses that cannot be those of a tensor and, where retain is `written`,
    /// retain memory that is also that of another tensor in the call.
    fn check<T>(&self, written: bool) -> PyResult<()> {
        let count = self.forget.len();
        for (name, list) in [("retain", &self.retain), ("lengths", &self.lengths)] {
            if list.len() != count {
                return Err(refuse(format!(
                    "{name}: {} entries, but forget has {count}; the lists must be equally long",
                    list.len()
                )));
            }
        }
        let mut ranges = Vec::with_capacity(2 * count);
        for (name, list, is_written) in [("forget", &self.forget, false), ("retain", &self.retain, written)] {
            for (i, (&start, &length)) in list.iter().zip(&self.lengths).enumerate() {
                if length > 0 {
                    let end = check_address::<T>(name, i, start, length)?;
                    ranges.push(Memory { start, end, is_written, name, i });
                }
            }
        }
        if written { check_overlap(ranges) } else { Ok(()) }
    }
}

struct Memory {
    start: usize,
    end: usize,
    is_written: bool,
    name: &'static str,
    i: usize,
}

/// Returns where the tensor ends.
fn check_address<T>(name: &str, i: usize, start: usize, length: usize) -> PyResult<usize> {
    if start == 0 {
        return Err(refuse(format!(
            "{name}[{i}]: null address for {length} elements; give tensor.data_ptr()"
        )));
    }
    if !start.is_multiple_of(align_of::<T>()) {
        return Err(refuse(format!(
            "{name}[{i}]: address {start:#x} is not a multiple of {}, as the dtype's alignment asks",
            align_of::<T>()
        )));
    }
    let bytes = length.checked_mul(size_of::<T>()).filter(|&bytes| isize::try_from(bytes).is_ok());
    bytes.and_then(|bytes| start.checked_add(bytes)).ok_or_else(|| {
        refuse(format!("lengths[{i}]: {length} elements at address {start:#x} exceed the address space"))
    })
}

/// Forget tensors may share memory with each other; a written one with nothing.
fn check_overlap(mut ranges: Vec<Memory>) -> PyResult<()> {
    ranges.sort_by_key(|range| range.start);
    // Of the ranges so far, the one that reaches furthest, and of the written ones likewise.
    let (mut furthest, mut furthest_written): (Option<&Memory>, Option<&Memory>) = (None, None);
    for range in &ranges {
        let before = if range.is_written { furthest } else { furthest_written };
        if let Some(before) = before.filter(|before| before.end > range.start) {
            return Err(refuse(format!(
                "{}[{}] overlaps {}[{}] in memory; a retain tensor is written and must be its own",
                before.name, before.i, range.name, range.i
            )));
        }
        for (reach, counts) in [(&mut furthest, true), (&mut furthest_written, range.is_written)] {
            if counts && reach.is_none_or(|reach| range.end > reach.end) {
                *reach = Some(range);
            }
        }
    }
    Ok(())
}

/// # Safety
/// As [`std::slice::from_raw_parts`], except that the address of an empty tensor may be anything.
unsafe fn slice<'a, T>(address: usize, length: usize) -> &'a [T] {
    if length == 0 {
        return &[];
    }
    // SAFETY: passed on to the caller.
    unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(address), length) }
}

/// # Safety
/// As [`std::slice::from_raw_parts_mut`], except that the address of an empty tensor may be anything.
unsafe fn slice_mut<'a, T>(address: usize, length: usize) -> &'a mut [T] {
    if length == 0 {
        return &mut [];
    }
    // SAFETY: passed on to the caller.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(address), length) }
}
