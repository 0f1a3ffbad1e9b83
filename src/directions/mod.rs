//! Directions: one file per fitting method; naming and storage of direction files.
