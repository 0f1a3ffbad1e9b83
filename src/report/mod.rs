//! What a run leaves on disk and on the terminal: CSV files, manifests, tables and figures.

mod error;
pub mod figure;
mod fitting_stats;
mod golden;
mod keyed_table;
mod manifest;
mod projections;
mod result_map;
pub mod results;
mod suite_csv;
mod table;

pub use error::ReportError;
pub use fitting_stats::{FittingStats, StatsRow};
pub use golden::{GOLDEN_DATASETS, Golden, GoldenFile};
pub use keyed_table::{Columns, KeyedRow, KeyedTable};
pub use manifest::{Manifest, ModelRecord, PromptsRecord, RunRecord, RunStart};
pub use projections::{ProjectedPrompt, Projections};
pub use result_map::{ResultMap, write_array};
pub use suite_csv::{CellKey, SuiteCsv};
pub use table::Table;
