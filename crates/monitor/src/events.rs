//! QMP's events, to every session that listens.

use crate::outbox::Outbox;
use machine::{Deleted, Event, PanicAction};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

/// The sessions that listen.
#[derive(Default)]
pub struct Events(Mutex<Vec<(Weak<Outbox>, bool)>>);

/// Every event: its name, and the members of its data.
pub const ALL: &[(&str, &[(&str, Data)])] = &[
    ("STOP", &[]),
    ("RESUME", &[]),
    ("SHUTDOWN", &[("guest", Data::Bool), ("reason", Data::Text)]),
    ("RESET", &[("guest", Data::Bool), ("reason", Data::Text)]),
    ("POWERDOWN", &[]),
    ("GUEST_PANICKED", &[("action", Data::Text)]),
    ("GUEST_CRASHLOADED", &[("action", Data::Text)]),
    (
        "BLOCK_IO_ERROR",
        &[
            ("device", Data::Text),
            ("operation", Data::Text),
            ("action", Data::Text),
            ("nospace", Data::Bool),
            ("reason", Data::Text),
        ],
    ),
    (
        "DEVICE_DELETED",
        &[("device", Data::Text), ("path", Data::Text)],
    ),
];

/// Types of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// A text.
    Text,
    /// True or false.
    Bool,
}

impl Events {
    /// A session listens from now on, as long as its box is there.
    pub fn listen(&self, outbox: &Arc<Outbox>, pretty: bool) {
        let mut sessions = self.0.lock();
        sessions.retain(|(session, _)| session.strong_count() > 0);
        sessions.push((Arc::downgrade(outbox), pretty));
    }

    /// Tells everybody.
    pub fn happened(&self, event: &Event) {
        let (name, data) = describe(event);
        self.tell(name, data);
    }

    /// Tells everybody of something that is gone.
    pub fn deleted(&self, gone: &Deleted) {
        let mut data = json!({ "path": gone.path });
        if let Some(id) = &gone.id {
            data["device"] = id.as_str().into();
        }
        self.tell("DEVICE_DELETED", data);
    }

    /// Tells everybody of an event with this name and these data.
    pub fn tell(&self, name: &str, data: Value) {
        debug_assert!(ALL.iter().any(|(known, _)| *known == name), "{name}");
        let mut message = Map::new();
        message.insert("timestamp".into(), timestamp());
        message.insert("event".into(), name.into());
        if data.as_object().is_some_and(|data| !data.is_empty()) {
            message.insert("data".into(), data);
        }
        let message = Value::Object(message);
        let sessions = self.0.lock().clone();
        for (outbox, pretty) in sessions {
            if let Some(outbox) = outbox.upgrade() {
                outbox.offer(crate::qmp::line(&message, pretty));
            }
        }
    }
}

fn timestamp() -> Value {
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({ "seconds": since.as_secs(), "microseconds": since.subsec_micros() })
}

fn action(action: PanicAction) -> &'static str {
    match action {
        PanicAction::None => "run",
        PanicAction::Pause => "pause",
        PanicAction::Shutdown | PanicAction::ExitFailure => "poweroff",
    }
}

fn describe(event: &Event) -> (&'static str, Value) {
    match event {
        Event::Stopped => ("STOP", json!({})),
        Event::Resumed => ("RESUME", json!({})),
        Event::Shutdown(cause) => (
            "SHUTDOWN",
            json!({ "guest": cause.is_guest(), "reason": cause.name() }),
        ),
        Event::Reset(cause) => (
            "RESET",
            json!({ "guest": cause.is_guest(), "reason": cause.name() }),
        ),
        Event::PowerDown => ("POWERDOWN", json!({})),
        Event::GuestPanicked(what) => ("GUEST_PANICKED", json!({ "action": action(*what) })),
        Event::CrashLoaded => ("GUEST_CRASHLOADED", json!({ "action": "run" })),
        Event::BlockIoError {
            drive,
            read,
            no_space,
            reason,
        } => (
            "BLOCK_IO_ERROR",
            json!({
                "device": drive,
                "operation": if *read { "read" } else { "write" },
                "action": "stop",
                "nospace": no_space,
                "reason": reason,
            }),
        ),
    }
}
