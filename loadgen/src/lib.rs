//! Virtual meters and gateways that know the truth, and the fleets that load-test a node.
//!
//! Read [`VirtualMeter`] first, then [`truth`]. Devices are state machines without I/O; the
//! [`driver`]s carry their frames over sockets, through [`faults`]; [`feeder`] is the scenario of
//! the demo and [`fleet`] makes fleets of any size.
//!
//! **Invariant:** nothing of the node is used but the vocabulary and codecs of `meter`. Everything
//! follows from a [`Seed`] and from clocks that the caller gives: the same seed, the same bytes.

#![forbid(unsafe_code)]

pub mod profile;
mod seed;

mod address;
mod backlog;
mod cosem;
mod device;
mod plan;
mod sum;
mod virtual_gateway;
mod virtual_meter;

pub mod truth;

pub mod faults;
pub mod fleet;
pub mod proxy;

pub mod driver;
pub mod report;

pub mod feeder;

pub use address::free_address;
pub use device::{Identity, Now, Received, Retry, Sent, Wake, frame_counter};
pub use plan::{Holdback, MeterClock, MeterPlan, VoltageSpell, World};
pub use seed::{Seed, gateway_title, meter_title, mix};
pub use virtual_gateway::{METERS_MAX, VirtualGateway};
pub use virtual_meter::{SPIKE_WH, STORE_S, VirtualMeter};
