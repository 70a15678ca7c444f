//! Tensors given by address, for torch: numpy does not know its `bfloat16`.

use numpy::PyArray2;
use pyo3::prelude::*;
use retainfirst_core::{Coefficients, Combiner, Element, Error, Moments, Rounding};

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

/// Measures tensors given by address and length. The columns of the update are 0.
///
/// Each address must be that of a contiguous tensor of the dtype and the length. The tensor must live, and nothing else may write
/// to it, until the call returns. The function cannot check this.
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

/// Writes an element-wise combiner's update into the retain tensors and measures it in the same pass; without `measure` the
/// table is zeros.
#[pyfunction]
#[pyo3(signature = (combiner, dtype, forget, retain, lengths, alpha, gamma, measure=true))]
#[expect(clippy::too_many_arguments, reason = "the signature is the Python function's")]
pub fn elementwise_<'py>(
    py: Python<'py>,
    combiner: &str,
    dtype: &str,
    forget: Vec<usize>,
    retain: Vec<usize>,
    lengths: Vec<usize>,
    alpha: f64,
    gamma: f64,
    measure: bool,
) -> Table<'py> {
    let combiner: Combiner = combiner.parse().map_err(from_core)?;
    let tensors = Tensors { forget, retain, lengths };
    with_dtype!(dtype, apply_elementwise(py, tensors, combiner, alpha, gamma, measure))
}

/// Writes `c_retain[i] * retain[i] + c_forget[i] * forget[i]` into the retain tensors, computed in float64 and rounded once:
/// to nearest, or with `toward_retain` in the direction of each retain element's sign.
///
/// The table has only `uu`, `ur`, `uf`, `count` and the exponents, and zeros without `measure`. `ef` and `er` equal those of
/// `moments`.
#[pyfunction]
#[pyo3(signature = (dtype, forget, retain, lengths, c_retain, c_forget, toward_retain=false, measure=true))]
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
    measure: bool,
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
    with_dtype!(dtype, apply_linear(py, tensors, coefficients, rounding, measure))
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
    combiner: Combiner,
    alpha: f64,
    gamma: f64,
    measure: bool,
) -> Table<'_> {
    let pairs = tensors.into_write::<T>()?;
    let elements = total(pairs.iter().map(|(forget, _)| forget.len()));
    run(py, elements, || retainfirst_core::apply_elementwise(combiner, alpha, gamma, pairs, measure))
}

fn apply_linear<T: Element>(
    py: Python<'_>,
    tensors: Tensors,
    coefficients: Vec<Coefficients>,
    rounding: Rounding,
    measure: bool,
) -> Table<'_> {
    let pairs = tensors.into_write::<T>()?;
    let elements = total(pairs.iter().map(|(forget, _)| forget.len()));
    run(py, elements, || retainfirst_core::apply_linear(pairs, &coefficients, rounding, measure))
}

fn run(
    py: Python<'_>,
    elements: usize,
    work: impl FnOnce() -> Result<Vec<Moments>, Error> + Send,
) -> Table<'_> {
    let rows = py.detach(|| install(elements, work))?.map_err(from_core)?;
    Ok(table(py, &rows))
}

/// Adds lengths. The sum saturates: the same forget tensor may be given many times.
pub(crate) fn total(lengths: impl Iterator<Item = usize>) -> usize {
    lengths.fold(0, usize::saturating_add)
}

impl Tensors {
    /// Returns the pairs of forget and retain as slices.
    fn into_read<'a, T>(self) -> PyResult<Vec<(&'a [T], &'a [T])>> {
        self.check::<T>(false)?;
        let triples = self.forget.into_iter().zip(self.retain).zip(self.lengths);
        // SAFETY: `check` has found the addresses aligned and not null, and the lengths within the address space. The Python
        // caller guarantees that the memory holds `n` elements that nothing else writes, as the functions document.
        Ok(triples.map(|((f, r), n)| unsafe { (slice(f, n), slice(r, n)) }).collect())
    }

    /// Returns the pairs of forget and retain as slices. Retain will be written.
    pub(crate) fn into_write<'a, T>(self) -> PyResult<Vec<(&'a [T], &'a mut [T])>> {
        self.check::<T>(true)?;
        let triples = self.forget.into_iter().zip(self.retain).zip(self.lengths);
        // SAFETY: as in `into_read`. `check` has also found that no retain slice overlaps another slice.
        Ok(triples.map(|((f, r), n)| unsafe { (slice(f, n), slice_mut(r, n)) }).collect())
    }

    /// Refuses lists of different lengths and invalid addresses. If retain is `written`, also refuses a retain tensor that
    /// overlaps another tensor of the call.
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

pub(crate) struct Memory {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) is_written: bool,
    pub(crate) name: &'static str,
    pub(crate) i: usize,
}

/// Returns the end of the tensor.
pub(crate) fn check_address<T>(name: &str, i: usize, start: usize, length: usize) -> PyResult<usize> {
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

/// Forget tensors may overlap each other; a written tensor may overlap none.
pub(crate) fn check_overlap(mut ranges: Vec<Memory>) -> PyResult<()> {
    ranges.sort_by_key(|range| range.start);
    // The previous range with the largest end, and the previous written range with the largest end.
    let (mut furthest, mut furthest_written): (Option<&Memory>, Option<&Memory>) = (None, None);
    for range in &ranges {
        let before = if range.is_written { furthest } else { furthest_written };
        if let Some(before) = before.filter(|before| before.end > range.start) {
            return Err(refuse(format!(
                "{}[{}] overlaps {}[{}] in memory; a tensor that is written must have memory of its own",
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
/// Like [`std::slice::from_raw_parts`], except that the address of an empty tensor is arbitrary.
pub(crate) unsafe fn slice<'a, T>(address: usize, length: usize) -> &'a [T] {
    if length == 0 {
        return &[];
    }
    // SAFETY: the caller's, as documented.
    unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(address), length) }
}

/// # Safety
/// Like [`std::slice::from_raw_parts_mut`], except that the address of an empty tensor is arbitrary.
pub(crate) unsafe fn slice_mut<'a, T>(address: usize, length: usize) -> &'a mut [T] {
    if length == 0 {
        return &mut [];
    }
    // SAFETY: the caller's, as documented.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(address), length) }
}
