//! Datasets themselves: what there is for a model, what its prompts look like as tokens, and what is wrong with a file.

mod check;
mod list;
mod show;

pub use check::{CheckedFile, check_datasets};
pub use list::{DatasetList, DatasetSummary, list_datasets};
pub use show::{ShownDataset, ShownPair, ShownToken, show_dataset};
