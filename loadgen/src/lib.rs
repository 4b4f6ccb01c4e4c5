//! Virtual meters and gateways that know the truth, and the fleets that load-test a node.
#![forbid(unsafe_code)]

mod backlog;
mod device;
pub mod profile;
mod seed;
mod virtual_gateway;
mod virtual_meter;

pub mod driver;
pub mod faults;
pub mod feeder;
pub mod fleet;
pub mod report;
pub mod truth;

pub use device::{Identity, Now, Received, Retry, Sent, Wake, frame_counter};
pub use seed::{Seed, gateway_title, meter_title, mix};
pub use virtual_gateway::{METERS_MAX, VirtualGateway};
pub use virtual_meter::{
    Holdback, MeterClock, MeterPlan, STORE_S, VirtualMeter, VoltageSpell, World,
};
