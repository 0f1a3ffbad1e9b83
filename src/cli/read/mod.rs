//! Commands that read what is in a model.

pub mod attention;
pub mod ccs;
pub mod head_cosines;
pub mod logit_attribution;
pub mod logit_lens;
pub mod neuron_cosines;
pub mod probing;
