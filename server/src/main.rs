//! The `meterd` command.
fn main() {}
