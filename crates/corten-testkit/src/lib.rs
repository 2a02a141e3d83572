//! Daemons, networks, images and checks for tests.
