//! The one exception of the module.

use pyo3::PyErr;
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;

create_exception!(
    retainfirst._rust,
    RustError,
    PyValueError,
    "An input was refused; the text names it, what was found and what to do."
);

/// The exception for an error of the core.
pub(crate) fn from_core(error: retainfirst_core::Error) -> PyErr {
    RustError::new_err(error.to_string())
}

/// The exception for a text.
pub(crate) fn refuse(text: impl Into<String>) -> PyErr {
    RustError::new_err(text.into())
}
