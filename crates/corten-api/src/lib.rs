//! Engine API: HTTP edge.
