//! `actpatch._core`: sessions, passes and studies for Python.
//!
//! What users see is written in Python (`python/actpatch`); here is what only Rust can do, with settings and outcomes as
//! JSON texts and values as flat numpy arrays. The interpreter's lock is released wherever something is computed.

mod errors;
mod model;
mod passes;
mod watched;

use actpatch::studies::AnyStudy;
use pyo3::prelude::*;

/// The names of all studies.
#[pyfunction]
fn studies() -> Vec<&'static str> {
    AnyStudy::NAMES.to_vec()
}

/// The settings of a study with their defaults, as JSON.
#[pyfunction]
fn settings(py: Python<'_>, study: &str) -> PyResult<String> {
    let settings = errors::guarded(|| Ok(serde_json::to_string(&AnyStudy::settings(study)?)?));
    settings.map_err(|failure| failure.raised(py))
}

/// Panics, to see what becomes of it.
#[pyfunction]
fn _panic(py: Python<'_>) -> PyResult<()> {
    watched::directly(py, |_| panic!("on purpose"))
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(studies, module)?)?;
    module.add_function(wrap_pyfunction!(settings, module)?)?;
    module.add_function(wrap_pyfunction!(_panic, module)?)?;
    module.add_class::<model::Model>()
}
