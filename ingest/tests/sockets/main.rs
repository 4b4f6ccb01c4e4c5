//! The socket tier through its sockets. The test is the log, the devices and the clock.

mod datagrams;
mod harness;
mod streams;
