//! The docker command line.
