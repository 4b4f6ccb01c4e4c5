//! Sockets of meters and gateways: sessions, authentication, replay windows, acknowledgements.
