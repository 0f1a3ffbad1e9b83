//! What a run leaves on disk and on the terminal: CSV files, manifests, tables and figures.

mod csv_file;
mod error;
pub mod figure;
mod fitting_stats;
mod golden;
mod keyed_table;
mod manifest;
pub mod neuroscope;
mod page;
pub mod pages;
mod predictions;
mod projections;
mod result_map;
pub mod results;
mod steered_texts;
mod suite_csv;
mod suite_name;
#[cfg(feature = "parquet")]
mod suite_parquet;
mod suite_rows;
mod table;
#[cfg(not(feature = "parquet"))]
mod without_parquet;

pub use csv_file::CsvFile;
pub(crate) use error::read_csv;
pub use error::{ReportError, write_csv};
pub use fitting_stats::{FittingStats, StatsRow};
pub use golden::{GOLDEN_DATASETS, Golden, GoldenFile};
pub use keyed_table::{Columns, KeyedRow, KeyedTable, RowSettings};
pub use manifest::{Manifest, ModelRecord, PromptsCount, PromptsRecord, RunRecord, RunStart, SeenTexts};
pub use page::{Section, write_page};
pub use predictions::{PredictedAs, PredictedBy, PredictionRow};
pub use projections::{ProjectedPrompt, Projections};
pub use result_map::{MapHead, ResultMap, write_array};
pub use steered_texts::{SteeredText, SteeredTexts};
pub use suite_csv::{CellKey, SuiteCsv};
pub use suite_name::{SuiteName, SuiteSite};
pub use suite_rows::{NOTHING, SuiteRow};
pub use table::Table;
