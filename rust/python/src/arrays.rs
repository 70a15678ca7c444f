//! Combiners on numpy arrays.

use std::ops::Range;

use numpy::{
    BorrowError, Element as NumpyElement, PyArray1, PyArrayDescrMethods, PyArrayMethods, PyReadonlyArray1,
    PyReadwriteArray1, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use retainfirst_core::{Combiner, Element};

use crate::addresses::with_dtype;
use crate::errors::{from_core, refuse};
use crate::table::table;
use crate::threads::install;

pub(crate) type Array<'py> = Bound<'py, PyUntypedArray>;

/// Groups from Python. An index below zero becomes an error that names it.
type Groups = Vec<(i64, i64)>;

/// Combines two arrays. Returns the update, in their dtype, and the table of moments, one row a group.
#[pyfunction]
pub fn combine<'py>(
    py: Python<'py>,
    combiner: &str,
    forget: &Array<'py>,
    retain: &Array<'py>,
    alpha: f64,
    gamma: f64,
    groups: Groups,
) -> PyResult<Bound<'py, PyTuple>> {
    let combiner: Combiner = combiner.parse().map_err(from_core)?;
    with_dtype!(&*dtype(forget)?, combine_new(py, combiner, forget, retain, alpha, gamma, groups))
}

/// Writes the update into `retain`. Returns the table of moments, one row a group.
#[pyfunction]
pub fn combine_<'py>(
    py: Python<'py>,
    combiner: &str,
    forget: &Array<'py>,
    retain: &Array<'py>,
    alpha: f64,
    gamma: f64,
    groups: Groups,
) -> PyResult<Bound<'py, PyAny>> {
    let combiner: Combiner = combiner.parse().map_err(from_core)?;
    with_dtype!(&*dtype(forget)?, combine_in_place(py, combiner, forget, retain, alpha, gamma, groups))
}

/// Measures a given update. Returns the table of moments, one row a group.
#[pyfunction]
pub fn geometry<'py>(
    py: Python<'py>,
    forget: &Array<'py>,
    retain: &Array<'py>,
    update: &Array<'py>,
    groups: Groups,
) -> PyResult<Bound<'py, PyAny>> {
    with_dtype!(&*dtype(forget)?, measure(py, forget, retain, update, groups))
}

fn combine_new<'py, T: Element + NumpyElement>(
    py: Python<'py>,
    combiner: Combiner,
    forget: &Array<'py>,
    retain: &Array<'py>,
    alpha: f64,
    gamma: f64,
    groups: Groups,
) -> PyResult<Bound<'py, PyTuple>> {
    let (forget, retain) = (read::<T>("forget", forget)?, read::<T>("retain", retain)?);
    let (f, r) = (forget.as_slice()?, retain.as_slice()?);
    let groups = ranges(groups, f.len())?;
    let out = PyArray1::<T>::zeros(py, r.len(), false);
    let mut writing = out.try_readwrite().map_err(|error| borrow("out", error))?;
    let u = writing.as_slice_mut()?;
    let rows = py
        .detach(|| {
            install(f.len(), || retainfirst_core::combine_into(combiner, alpha, gamma, f, r, u, &groups))
        })?
        .map_err(from_core)?;
    drop(writing);
    (out, table(py, &rows)).into_pyobject(py)
}

fn combine_in_place<'py, T: Element + NumpyElement>(
    py: Python<'py>,
    combiner: Combiner,
    forget: &Array<'py>,
    retain: &Array<'py>,
    alpha: f64,
    gamma: f64,
    groups: Groups,
) -> PyResult<Bound<'py, PyAny>> {
    let forget = read::<T>("forget", forget)?;
    let mut retain = write::<T>("retain", retain)?;
    let (f, r) = (forget.as_slice()?, retain.as_slice_mut()?);
    let groups = ranges(groups, f.len())?;
    let rows = py
        .detach(|| {
            install(f.len(), || retainfirst_core::combine_in_place(combiner, alpha, gamma, f, r, &groups))
        })?
        .map_err(from_core)?;
    Ok(table(py, &rows).into_any())
}

fn measure<'py, T: Element + NumpyElement>(
    py: Python<'py>,
    forget: &Array<'py>,
    retain: &Array<'py>,
    update: &Array<'py>,
    groups: Groups,
) -> PyResult<Bound<'py, PyAny>> {
    let (forget, retain, update) =
        (read::<T>("forget", forget)?, read::<T>("retain", retain)?, read::<T>("update", update)?);
    let (f, r, u) = (forget.as_slice()?, retain.as_slice()?, update.as_slice()?);
    let groups = ranges(groups, f.len())?;
    let rows = py
        .detach(|| install(f.len(), || retainfirst_core::geometry(f, r, u, &groups)))?
        .map_err(from_core)?;
    Ok(table(py, &rows).into_any())
}

pub(crate) fn dtype(array: &Array<'_>) -> PyResult<String> {
    array.dtype().getattr("name")?.extract()
}

pub(crate) fn read<'py, T: NumpyElement>(
    name: &str,
    array: &Array<'py>,
) -> PyResult<PyReadonlyArray1<'py, T>> {
    typed(name, array)?.try_readonly().map_err(|error| borrow(name, error))
}

fn write<'py, T: NumpyElement>(name: &str, array: &Array<'py>) -> PyResult<PyReadwriteArray1<'py, T>> {
    typed(name, array)?.try_readwrite().map_err(|error| borrow(name, error))
}

/// Refuses arrays that would have to be cast, copied or flattened.
fn typed<'a, 'py, T: NumpyElement>(
    name: &str,
    array: &'a Array<'py>,
) -> PyResult<&'a Bound<'py, PyArray1<T>>> {
    let (found, expected) = (array.dtype(), T::get_dtype(array.py()));
    if !found.is_equiv_to(&expected) {
        return Err(refuse(format!(
            "{name}: dtype {found}, but {expected} is needed, as the first array has, in native byte order"
        )));
    }
    if array.ndim() != 1 {
        return Err(refuse(format!("{name}: {} dimensions; give a flat array", array.ndim())));
    }
    if !array.is_c_contiguous() {
        return Err(refuse(format!("{name}: not contiguous; give numpy.ascontiguousarray({name})")));
    }
    let aligned: bool = array.getattr("flags")?.getattr("aligned")?.extract()?;
    if !aligned {
        return Err(refuse(format!("{name}: not aligned in memory; give a copy")));
    }
    Ok(array.cast()?)
}

fn borrow(name: &str, error: BorrowError) -> PyErr {
    refuse(match error {
        BorrowError::NotWriteable => {
            format!("{name}: read-only, but it is written in place; give a writeable array")
        }
        _ => {
            format!("{name}: shares memory with another array of this call or of a running one; give a copy")
        }
    })
}

fn ranges(groups: Groups, length: usize) -> PyResult<Vec<Range<usize>>> {
    let range = |(start, end): (i64, i64)| match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) => Ok(start..end),
        _ => Err(refuse(format!("groups: ({start}, {end}) does not lie within the array's 0..{length}"))),
    };
    groups.into_iter().map(range).collect()
}
