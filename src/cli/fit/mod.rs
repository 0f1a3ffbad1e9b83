//! Commands that fit, write and look after directions.

pub mod directions;
pub mod fit_directions;
pub mod random_directions;
