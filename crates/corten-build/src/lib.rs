//! Dockerfile front end and builder.
