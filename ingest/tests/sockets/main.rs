//! The socket tier through its sockets. The test is the log, the devices and the clock.

#[cfg(test)]
mod datagrams;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod streams;
