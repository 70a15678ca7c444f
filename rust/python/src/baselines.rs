//! The baselines of benchmarks, on tensors given by address as in [`crate::addresses`].

use pyo3::prelude::*;
use retainfirst_core::{Baseline, Combiner, Element, Error};

use crate::addresses::{Tensors, total, with_dtype};
use crate::errors::{from_core, refuse};
use crate::threads::install;

/// Writes an element-wise combiner's update into the retain tensors, like `elementwise_`, but measures nothing.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the signature is the Python function's")]
pub fn update_alone_(
    py: Python<'_>,
    combiner: &str,
    dtype: &str,
    forget: Vec<usize>,
    retain: Vec<usize>,
    lengths: Vec<usize>,
    alpha: f64,
    gamma: f64,
) -> PyResult<()> {
    let combiner: Combiner = combiner.parse().map_err(from_core)?;
    let tensors = Tensors { forget, retain, lengths };
    with_dtype!(dtype, update_alone(py, tensors, combiner, alpha, gamma))
}

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

fn update_alone<T: Element>(
    py: Python<'_>,
    tensors: Tensors,
    combiner: Combiner,
    alpha: f64,
    gamma: f64,
) -> PyResult<()> {
    run::<T>(py, tensors, |pairs| retainfirst_core::apply_unmeasured(combiner, alpha, gamma, pairs))
}

fn baseline<T: Baseline>(py: Python<'_>, tensors: Tensors, alpha: f64, gamma: f64) -> PyResult<()> {
    run::<T>(py, tensors, |pairs| retainfirst_core::baseline(alpha, gamma, pairs))
}

type Pairs<'a, T> = Vec<(&'a [T], &'a mut [T])>;

fn run<T: Element>(
    py: Python<'_>,
    tensors: Tensors,
    work: impl FnOnce(Pairs<'_, T>) -> Result<(), Error> + Send,
) -> PyResult<()> {
    let pairs = tensors.into_write::<T>()?;
    let elements = total(pairs.iter().map(|(forget, _)| forget.len()));
    py.detach(|| install(elements, || work(pairs)))?.map_err(from_core)
}
