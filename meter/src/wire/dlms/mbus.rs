//! M-Bus.
