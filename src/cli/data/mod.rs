//! Commands that make datasets.

pub mod treebank_data_gen;
