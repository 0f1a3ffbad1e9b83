//! What goes wrong becomes an exception of its kind; a panic becomes one, too.

use actpatch::backend::BackendError;
use actpatch::datasets::DatasetError;
use actpatch::directions::DirectionError;
use actpatch::engine::EngineError;
use actpatch::model::ModelError;
use actpatch::report::ReportError;
use actpatch::session::{Fault, Spelling, Stopped, text_of};
use actpatch::sweep::SweepError;
use pyo3::prelude::*;
use std::any::Any;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why there is no result.
pub enum Failure {
    /// The library says so.
    Error(anyhow::Error),
    /// A mistake of the library: the panic's text.
    Panic(String),
}

/// Does work; a panic ends it as an error would.
pub fn guarded<T>(work: impl FnOnce() -> anyhow::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(Failure::Error),
        Err(panic) => Err(Failure::Panic(panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

/// Settings as Python's arguments, studies as calls.
struct Python3;

impl Spelling for Python3 {
    fn setting(&self, name: &str) -> String {
        // What commands take several of is one here.
        let own = if name == "models" { "name" } else { name };
        own.to_owned()
    }

    fn value(&self, name: &str, value: &str) -> String {
        let name = self.setting(name);
        if value.is_empty() { format!("{name}=True") } else { format!("{name}={value:?}") }
    }

    fn study(&self, name: &str, settings: &[String]) -> String {
        let settings: String = settings.iter().map(|setting| format!(", {setting}")).collect();
        format!("run model.study({name:?}{settings}) first")
    }
}

impl Failure {
    /// The exception.
    pub fn raised(self, py: Python<'_>) -> PyErr {
        match self {
            Failure::Error(error) => exception(py, kind(&error), text_of(&error, &Python3)),
            Failure::Panic(text) => exception(
                py,
                "InternalError",
                format!(
                    "actpatch {} has stopped with {text:?}. This is a mistake of actpatch and not of yours: please report it \
                     with this text, the call, and what stderr says above. The model can still be used",
                    env!("CARGO_PKG_VERSION")
                ),
            ),
        }
    }
}

/// An exception of a class of `actpatch.errors`.
pub fn exception(py: Python<'_>, class: &str, text: String) -> PyErr {
    let made = py.import("actpatch.errors").and_then(|errors| errors.getattr(class)?.call1((text,)));
    // Without the package around it there is nothing but the error of importing it.
    made.map_or_else(|error| error, PyErr::from_value)
}

/// The class of an error: that of the outermost cause that has one.
fn kind(error: &anyhow::Error) -> &'static str {
    error.chain().find_map(kind_of).unwrap_or("ActpatchError")
}

fn kind_of(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if error.is::<Fault>() {
        return Some("SettingError");
    }
    if error.is::<Stopped>() {
        return Some("StoppedError");
    }
    if error.is::<ModelError>() {
        return Some("ModelError");
    }
    if error.is::<DatasetError>() {
        return Some("DatasetError");
    }
    if let Some(error) = error.downcast_ref::<EngineError>() {
        return Some(match error {
            EngineError::Model(_) => "ModelError",
            EngineError::NoSuchSite { .. } | EngineError::NotCaptured { .. } => "SiteError",
            EngineError::Backend(_) | EngineError::Memory { .. } | EngineError::NotFinite { .. } => "DeviceError",
            EngineError::NeverFires { .. } | EngineError::Sequence { .. } | EngineError::Mismatch { .. } => {
                "SettingError"
            }
        });
    }
    if error.is::<BackendError>() {
        return Some("DeviceError");
    }
    let of_files = error.is::<DirectionError>() || error.is::<ReportError>() || error.is::<SweepError>();
    (of_files || error.is::<std::io::Error>()).then_some("FileError")
}
