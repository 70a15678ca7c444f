//! What the rules' times are held against, on tensors given by address as in [`crate::addresses`].

use pyo3::prelude::*;
use retainfirst_core::{Element, Error, Limit, Rule};

use crate::addresses::{Tensors, total, with_dtype};
use crate::errors::{from_core, refuse};
use crate::threads::install;

/// Writes an element-wise rule's update into the retain tensors, as `elementwise_` does, and measures nothing.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the signature is the Python function's")]
pub fn update_alone_(
    py: Python<'_>,
    rule: &str,
    dtype: &str,
    forget: Vec<usize>,
    retain: Vec<usize>,
    lengths: Vec<usize>,
    alpha: f64,
    gamma: f64,
) -> PyResult<()> {
    let rule: Rule = rule.parse().map_err(from_core)?;
    let tensors = Tensors { forget, retain, lengths };
    with_dtype!(dtype, apply(py, tensors, rule, alpha, gamma))
}

/// Writes `gamma * forget + alpha * retain` into the retain tensors by the plainest loop there is.
#[pyfunction]
pub fn limit_(
    py: Python<'_>,
    dtype: &str,
    forget: Vec<usize>,
    retain: Vec<usize>,
    lengths: Vec<usize>,
    alpha: f64,
    gamma: f64,
) -> PyResult<()> {
    let tensors = Tensors { forget, retain, lengths };
    with_dtype!(dtype, plain(py, tensors, alpha, gamma))
}

fn apply<T: Element>(py: Python<'_>, tensors: Tensors, rule: Rule, alpha: f64, gamma: f64) -> PyResult<()> {
    run::<T>(py, tensors, |pairs| retainfirst_core::apply_unmeasured(rule, alpha, gamma, pairs))
}

fn plain<T: Limit>(py: Python<'_>, tensors: Tensors, alpha: f64, gamma: f64) -> PyResult<()> {
    run::<T>(py, tensors, |pairs| retainfirst_core::limit(alpha, gamma, pairs))
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
