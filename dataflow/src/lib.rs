//! The books: a deterministic timely dataflow from entries of the log to effects. Pure.
