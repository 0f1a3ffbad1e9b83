//! Commands about datasets.

pub mod datasets;
pub mod treebank_data_gen;
