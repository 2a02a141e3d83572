//! Archives of paths.
