//! What may be forgotten at any moment: the way to Redis, and what is kept there.
//!
//! Nothing in here is the truth. Redis may lose, repeat or refuse everything, and every answer of the
//! appliance stays the same, only slower. This room owns the `redis` crate; it knows keys and bytes, and
//! not what they mean.

pub mod redis;

pub use redis::{Error, Redis, RedisSettings, State, Target};
