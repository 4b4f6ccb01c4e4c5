//! The vocabulary of Meterd and the meter protocols on the wire: pure, no I/O, no clock.
