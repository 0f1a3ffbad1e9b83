//! Commands that read and write texts.

pub mod corpus;
pub mod label_shares;
pub mod negation;
pub mod neuroscope;
pub mod steering;
pub mod text_loss;
