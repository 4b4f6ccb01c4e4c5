//! The node: configuration, clock, wiring, shutdown and the command line of meterd.
