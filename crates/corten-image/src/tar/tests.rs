//! Conformance and attacks.
