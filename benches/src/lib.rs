//! Micro and end-to-end benches, each beside its bare loop or raw socket.
