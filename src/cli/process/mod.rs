//! The processes of an installation on this machine: started, stopped, configured and inspected.

pub(crate) mod addresses;
mod appliance;
pub(crate) mod backends;
pub(crate) mod configuration;
pub(crate) mod database;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod gateways;
pub(crate) mod init;
pub(crate) mod keys;
pub(crate) mod listen;
pub(crate) mod manual;
pub(crate) mod migrate;
pub(crate) mod operator;
pub(crate) mod reload;
mod reloader;
pub(crate) mod serve;
pub(crate) mod signals;
pub(crate) mod state_file;
mod task_group;
mod watchdog;
pub(crate) mod worker;
