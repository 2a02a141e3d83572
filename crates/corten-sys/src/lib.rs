//! System calls as safe, synchronous functions; the only crate with unsafe code.
