//! The module's exception.

use pyo3::PyErr;
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;

create_exception!(
    retainfirst._rust,
    RustError,
    PyValueError,
    "An input was refused. The text names the argument, its value and the requirement."
);

/// Converts an error of the core.
pub(crate) fn from_core(error: retainfirst_core::Error) -> PyErr {
    RustError::new_err(error.to_string())
}

/// Returns the exception with this text.
pub(crate) fn refuse(text: impl Into<String>) -> PyErr {
    RustError::new_err(text.into())
}
