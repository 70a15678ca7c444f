//! The check of SAGO on all pairs of 16-bit numbers.

use pyo3::prelude::*;
use retainfirst_core::exhaustive::{Outcome, PATTERNS, SixteenBit, Violation, check};

use crate::errors::{from_core, refuse};
use crate::threads::install;

/// The bits of forget, retain, the found and the expected update, and the violated statement.
type Failure = (u16, u16, u16, u16, &'static str);

/// Checks `sago` or `sago_keep_retain` on every forget element with the retain elements whose bits are in `start..stop`.
///
/// Returns the number of checked pairs of finite numbers, the number of other pairs, and the first violation: the bits of forget,
/// of retain, of the found and of the expected update, and `"specification"` or `"T1"`.
#[pyfunction]
pub fn exhaustive(
    py: Python<'_>,
    combiner: &str,
    dtype: &str,
    alpha: f64,
    gamma: f64,
    start: i64,
    stop: i64,
) -> PyResult<(u64, u64, Option<Failure>)> {
    match dtype {
        "float16" => run::<half::f16>(py, combiner, alpha, gamma, start, stop),
        "bfloat16" => run::<half::bf16>(py, combiner, alpha, gamma, start, stop),
        other => Err(refuse(format!("dtype: {other:?} is not one of float16, bfloat16"))),
    }
}

fn run<T: SixteenBit>(
    py: Python<'_>,
    combiner: &str,
    alpha: f64,
    gamma: f64,
    start: i64,
    stop: i64,
) -> PyResult<(u64, u64, Option<Failure>)> {
    let combiner = combiner.parse().map_err(from_core)?;
    let (Ok(first), Ok(last)) = (u32::try_from(start), u32::try_from(stop)) else {
        return Err(refuse(format!(
            "retain: ({start}, {stop}) does not lie within 0..{PATTERNS}, the bit patterns of 16 bits"
        )));
    };
    let pairs = (first..last).len() * PATTERNS as usize;
    let outcome = py.detach(|| install(pairs, || check::<T>(combiner, alpha, gamma, first..last)))?;
    let Outcome { finite, not_finite, violation } = outcome.map_err(from_core)?;
    Ok((finite, not_finite, violation.map(failure)))
}

fn failure(violation: Violation) -> Failure {
    let Violation { forget, retain, found, expected, statement } = violation;
    (forget, retain, found, expected, statement.name())
}
