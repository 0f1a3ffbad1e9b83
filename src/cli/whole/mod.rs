//! Commands that are made of other studies.

pub mod demo;
pub mod verify;
