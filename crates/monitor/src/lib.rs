//! Who controls a running machine: QMP for programs, a monitor for people.
//!
//! [`commands::all`] is the one table of commands. Each row says what it takes
//! and what it returns; arguments are checked, `help`, completion and
//! `query-qmp-schema` are made from it. A command returns a JSON value, which
//! QMP sends as it is and the row turns into text for people.
//!
//! A [`Monitors`] serves any number of sessions, each on threads of its own, so
//! that one client that is slow or asks for much keeps nobody else waiting.

mod command;
pub mod commands;
mod events;
mod hmp;
mod maker;
mod outbox;
mod qmp;
mod server;
mod target;

pub use command::{Class, Failure};
pub use hmp::Editor;
pub use hmp::Session as HmpSession;
pub use hmp::{comma_words, execute};
pub use maker::{Maker, NoMaker, Words};
pub use outbox::Outbox;
pub use qmp::Session as QmpSession;
pub use server::Monitors;
pub use target::{About, Target};
