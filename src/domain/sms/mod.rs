//! Gateways for SMS as templates: how a message becomes an HTTP request, and what the answer means.

mod answer;
mod gateway;
mod position;
mod template;
mod variables;

pub use answer::{AnswerRule, JsonLookup, SmsVerdict, pointer};
pub use gateway::{GatewayFault, GatewayRequest, GatewayText, HttpMethod, SmsGateway, in_order};
pub use template::{BodyForm, SmsTemplate};
pub use variables::{SmsValues, SmsVariable};

#[cfg(test)]
mod tests;
