//! Commands about the whole program or a whole analysis.

pub mod bench;
pub mod circuit;
pub mod demo;
pub mod reference;
pub mod report;
pub mod reproduce;
pub mod self_check;
pub mod serve;
pub mod verify;
