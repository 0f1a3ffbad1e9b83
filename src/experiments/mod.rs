//! Experiments on an engine: each file one question.

pub mod ablation;
pub mod activation_maps;
pub mod attention;
pub mod attribution_patching;
pub mod chunks;
pub mod comparison;
pub mod component;
pub mod corpus;
pub mod das_fits;
pub mod devices;
pub mod faithfulness;
pub mod head_cosines;
pub mod label_shares;
pub mod logit_attribution;
pub mod logit_filter;
pub mod negation;
pub mod neuron_cosines;
pub mod neuroscope;
pub mod patching_suite;
pub mod path_patching;
pub mod probing;
pub mod sampling;
pub mod self_check;
pub mod steering;
mod test_sets;
pub mod text_loss;
mod token_array;
