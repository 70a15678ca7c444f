//! Moments as a numpy array.

use numpy::ndarray::Array2;
use numpy::{PyArray2, ToPyArray};
use pyo3::prelude::*;
use retainfirst_core::Moments;

/// Returns a float64 table with one row a tensor or group, and the columns [`Moments::COLUMNS`].
pub(crate) fn table<'py>(py: Python<'py>, rows: &[Moments]) -> Bound<'py, PyArray2<f64>> {
    let mut table = Array2::zeros((rows.len(), Moments::COLUMNS.len()));
    for (mut line, moments) in table.rows_mut().into_iter().zip(rows) {
        line.iter_mut().zip(moments.row()).for_each(|(cell, value)| *cell = value);
    }
    table.to_pyarray(py)
}
