//! Virtual meters and gateways that know the truth, and the fleets that load-test a node.
