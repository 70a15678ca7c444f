//! The baseline of benchmarks, on tensors given by address as in [`crate::addresses`].

use pyo3::prelude::*;
use retainfirst_core::Baseline;

use crate::addresses::{Tensors, total, with_dtype};
use crate::errors::{from_core, refuse};
use crate::threads::install;

/// Writes `gamma * forget + alpha * retain` into the retain tensors with a plain loop: the cost of the memory traffic.
#[pyfunction]
pub fn baseline_(
    py: Python<'_>,
    dtype: &str,
    forget: Vec<usize>,
    retain: Vec<usize>,
    lengths: Vec<usize>,
    alpha: f64,
    gamma: f64,
) -> PyResult<()> {
    let tensors = Tensors { forget, retain, lengths };
    with_dtype!(dtype, baseline(py, tensors, alpha, gamma))
}

fn baseline<T: Baseline>(py: Python<'_>, tensors: Tensors, alpha: f64, gamma: f64) -> PyResult<()> {
    let pairs = tensors.into_write::<T>()?;
    let elements = total(pairs.iter().map(|(forget, _)| forget.len()));
    py.detach(|| install(elements, || retainfirst_core::baseline(alpha, gamma, pairs)))?.map_err(from_core)
}
