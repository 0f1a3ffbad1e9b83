//! The end of work that was asked to stop.

/// Work that was asked to stop, and did, between two batches; what was done is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped{}; the same study goes on from here", left.map_or(String::new(), |left| format!(" with {left} cells left")))]
pub struct Stopped {
    /// Cells of a sweep that are left.
    pub left: Option<usize>,
}
