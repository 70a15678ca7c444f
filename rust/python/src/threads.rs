//! The threads of the module.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use retainfirst_core::PARALLEL_MIN_ELEMENTS;

use crate::errors::refuse;

struct Pool {
    threads: Arc<ThreadPool>,
    /// A forked child inherits the pool but none of its threads, and would wait for them for ever.
    process: u32,
}

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

/// Runs work on so many elements in the pool, or right here if it is too little to be spread.
pub(crate) fn install<R: Send>(elements: usize, work: impl FnOnce() -> R + Send) -> PyResult<R> {
    if elements < PARALLEL_MIN_ELEMENTS {
        return Ok(work());
    }
    let (mut work, mut result) = (Some(work), None);
    install_once(&mut || result = work.take().map(|work| work()))?;
    Ok(result.expect("the pool has run the work"))
}

/// Not generic, so that rayon's code is compiled once and not for each kind of work.
fn install_once(work: &mut (dyn FnMut() + Send)) -> PyResult<()> {
    pool()?.install(work);
    Ok(())
}

/// Sets how many threads large inputs are spread over; the results do not depend on it.
///
/// The default is the environment variable `OMP_NUM_THREADS`, as for torch, else one thread a core.
#[pyfunction]
pub fn set_num_threads(n: usize) -> PyResult<()> {
    if n == 0 {
        return Err(refuse("n: 0 threads; give 1 or more"));
    }
    let pool = build(n)?;
    *POOL.lock().unwrap_or_else(PoisonError::into_inner) = Some(pool);
    Ok(())
}

/// Returns how many threads large inputs are spread over.
#[pyfunction]
pub fn get_num_threads() -> PyResult<usize> {
    Ok(pool()?.current_num_threads())
}

fn pool() -> PyResult<Arc<ThreadPool>> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    match &*pool {
        Some(pool) if pool.process == std::process::id() => Ok(Arc::clone(&pool.threads)),
        stale => {
            let n = stale.as_ref().map_or_else(default_threads, |pool| pool.threads.current_num_threads());
            let fresh = build(n)?;
            let threads = Arc::clone(&fresh.threads);
            // Dropping an inherited pool would wait for the threads that it lacks.
            std::mem::forget(pool.replace(fresh));
            Ok(threads)
        }
    }
}

fn build(n: usize) -> PyResult<Pool> {
    let name = |i| format!("retainfirst-{i}");
    let threads = ThreadPoolBuilder::new().num_threads(n).thread_name(name).build();
    let threads =
        threads.map_err(|error| refuse(format!("n: cannot start {n} threads: {error}; give fewer")))?;
    Ok(Pool { threads: Arc::new(threads), process: std::process::id() })
}

fn default_threads() -> usize {
    let given = std::env::var("OMP_NUM_THREADS").ok().and_then(|n| n.trim().parse::<NonZeroUsize>().ok());
    given.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
}
