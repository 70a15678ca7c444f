//! Exact dot products and orders of cosines on numpy arrays.

use std::cmp::Ordering;

use numpy::Element as NumpyElement;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use retainfirst_core::exact::{self, BinaryFormat};

use crate::addresses::with_dtype;
use crate::arrays::{Array, dtype, read};
use crate::errors::{from_core, refuse};
use crate::threads::install;

/// Returns the sign of the dot product, without rounding: -1, 0 or 1.
#[pyfunction]
pub fn dot_sign<'py>(py: Python<'py>, update: &Array<'py>, retain: &Array<'py>) -> PyResult<i8> {
    with_dtype!(&*dtype(update)?, sign(py, update, retain))
}

/// Returns the dot product, without rounding, in units of the square of the dtype's smallest number above 0. The integer is
/// encoded as little-endian bytes in two's complement.
#[pyfunction]
pub fn dot<'py>(py: Python<'py>, update: &Array<'py>, retain: &Array<'py>) -> PyResult<Bound<'py, PyBytes>> {
    with_dtype!(&*dtype(update)?, product(py, update, retain))
}

/// Returns -1, 0 or 1 if the cosine of `first` and `retain` is below, equal to or above that of `second` and `retain`,
/// without rounding.
#[pyfunction]
pub fn compare_cosines<'py>(
    py: Python<'py>,
    first: &Array<'py>,
    second: &Array<'py>,
    retain: &Array<'py>,
) -> PyResult<i8> {
    with_dtype!(&*dtype(first)?, compare(py, first, second, retain))
}

fn sign<'py, T: BinaryFormat + NumpyElement>(
    py: Python<'py>,
    update: &Array<'py>,
    retain: &Array<'py>,
) -> PyResult<i8> {
    let (update, retain) = (read::<T>("update", update)?, read::<T>("retain", retain)?);
    let (u, r) = (update.as_slice()?, retain.as_slice()?);
    let order = py.detach(|| install(u.len(), || exact::dot_sign(u, r)))?;
    number(order)
}

fn product<'py, T: BinaryFormat + NumpyElement>(
    py: Python<'py>,
    update: &Array<'py>,
    retain: &Array<'py>,
) -> PyResult<Bound<'py, PyBytes>> {
    let (update, retain) = (read::<T>("update", update)?, read::<T>("retain", retain)?);
    let (u, r) = (update.as_slice()?, retain.as_slice()?);
    let product = py.detach(|| install(u.len(), || exact::dot_product(u, r)))?.map_err(from_core)?;
    Ok(PyBytes::new(py, &product.to_signed_bytes_le()))
}

fn compare<'py, T: BinaryFormat + NumpyElement>(
    py: Python<'py>,
    first: &Array<'py>,
    second: &Array<'py>,
    retain: &Array<'py>,
) -> PyResult<i8> {
    let (first, second, retain) =
        (read::<T>("first", first)?, read::<T>("second", second)?, read::<T>("retain", retain)?);
    let (u, v, r) = (first.as_slice()?, second.as_slice()?, retain.as_slice()?);
    let order = py.detach(|| install(u.len(), || exact::compare_cosines(u, v, r)))?;
    number(order)
}

fn number(order: Result<Ordering, retainfirst_core::Error>) -> PyResult<i8> {
    order.map(|order| order as i8).map_err(from_core)
}
