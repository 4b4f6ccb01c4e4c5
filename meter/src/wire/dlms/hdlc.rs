//! HDLC.
