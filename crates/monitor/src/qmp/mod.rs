//! QMP: JSON objects, one after the other, both ways (QEMU Machine Protocol
//! Specification).

mod frame;
mod schema;
mod session;

pub use schema::schema;
pub use session::Session;

use serde_json::Value;

/// A message as it is sent.
pub fn line(message: &Value, pretty: bool) -> String {
    let text = match pretty {
        true => serde_json::to_string_pretty(message),
        false => serde_json::to_string(message),
    };
    // Maps with text keys are always JSON.
    text.unwrap_or_default() + "\r\n"
}
