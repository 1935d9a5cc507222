//! What the appliance shows to the network: its HTTP routes and its hub.

pub mod hub;
