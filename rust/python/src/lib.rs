//! The Python module `retainfirst._rust`: arrays and addresses in, the core's rules on them, tables of moments out.
//!
//! Nothing is decided here but whether an input may be touched at all; the interpreter lock is released around all work.

mod addresses;
mod arrays;
mod bounds;
mod errors;
mod exact;
mod exhaustive;
mod table;
mod threads;

use pyo3::prelude::*;

/// Rules on numpy arrays, and on tensors by address, without copies.
#[pymodule]
mod _rust {
    #[pymodule_export]
    use crate::addresses::{elementwise_, linear_, moments};
    #[pymodule_export]
    use crate::arrays::{combine, combine_, geometry};
    #[pymodule_export]
    use crate::bounds::{limit_, update_alone_};
    #[pymodule_export]
    use crate::errors::RustError;
    #[pymodule_export]
    use crate::exact::{compare_cosines, dot, dot_sign};
    #[pymodule_export]
    use crate::exhaustive::exhaustive;
    #[pymodule_export]
    use crate::threads::{get_num_threads, set_num_threads};

    use pyo3::prelude::*;
    use pyo3::types::PyTuple;
    use retainfirst_core::Moments;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("COLUMNS", PyTuple::new(module.py(), Moments::COLUMNS)?)
    }
}
