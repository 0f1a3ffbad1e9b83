//! Large sweeps: cells with stable names, a ledger that survives being killed, shards, and their merge.
//!
//! A sweep of any kind is a list of [`Cell`]s: where a value belongs (a result file and a place in it) and a [`CellId`],
//! the hash of everything the value depends on. What became of a cell is an [`Outcome`]. Nothing here knows what a
//! cell computes.
//!
//! A [`Ledger`] is one append-only file of records, `ledger.jsonl`, in a model's folder or in that of a shard. A cell
//! counts as done once its record has reached the disk, so a process that dies at any moment loses at most the batch
//! it was computing. Result files are made of the ledger, never the other way round.

mod cell;
mod error;
mod folders;
mod ledger;
mod merge;
mod parts;
mod record;
mod recorder;
mod running;
mod shard;
mod state;
mod stopped;
#[cfg(test)]
mod tests;

pub use cell::{Cell, CellId, Configuration, Inputs, Place, Texts};
pub use error::SweepError;
pub use folders::{ledgers, models};
pub use ledger::{Ledger, same_configuration};
pub use merge::{Joined, join};
pub use parts::{Measured, Parts};
pub use recorder::{Known, Recorder, SweepSettings, finite};
pub(crate) use running::clear_marks;
pub use running::{Process, Running, at_work, running};
pub use shard::{Shard, deal};
pub use state::{Counts, Outcome, State};

pub use stopped::Stopped;
