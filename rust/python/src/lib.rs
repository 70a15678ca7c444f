//! The Python module `retainfirst._rust`: the core's functions for numpy arrays, and for tensors given by address.
//!
//! This crate checks that inputs are safe to access, and releases the interpreter lock; the core does the rest.

mod addresses;
mod arrays;
mod baselines;
mod errors;
mod exact;
mod exhaustive;
mod guard;
mod table;
mod threads;

use pyo3::prelude::*;

/// Combiners on numpy arrays, and on tensors given by address, without copies.
#[pymodule]
mod _rust {
    #[pymodule_export]
    use crate::addresses::{elementwise_, linear_, moments};
    #[pymodule_export]
    use crate::arrays::{combine, combine_, geometry};
    #[pymodule_export]
    use crate::baselines::baseline_;
    #[pymodule_export]
    use crate::errors::RustError;
    #[pymodule_export]
    use crate::exact::{compare_cosines, dot, dot_sign};
    #[pymodule_export]
    use crate::exhaustive::exhaustive;
    #[pymodule_export]
    use crate::guard::guard_;
    #[pymodule_export]
    use crate::threads::{get_num_threads, set_num_threads};

    use pyo3::prelude::*;
    use pyo3::types::PyTuple;
    use retainfirst_core::Moments;

    /// Returns the name of the vector instructions that the kernels use on this machine, such as "AVX2".
    #[pyfunction]
    fn instruction_set() -> &'static str {
        retainfirst_core::instruction_set()
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("COLUMNS", PyTuple::new(module.py(), Moments::COLUMNS)?)
    }
}
