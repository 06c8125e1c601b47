//! `trapeze stat`: what running machines count, as `kvm_stat` shows it.
//!
//! Where numbers come from is a [`Source`]; how they are shown is a function of two
//! [`Sample`]s. A counter that a source does not have is nowhere.

mod counters;
mod exits;
mod fleet;
mod host;
mod latency;
mod machine;
mod prometheus;
mod sample;
mod screen;
mod text;
mod trace;

pub use exits::{Access, Batch, Exit};
pub use fleet::Fleet;
pub use host::Host;
pub use latency::Latencies;
pub use machine::Machine;
pub use prometheus::serve;
pub use sample::{Filter, Sample};
pub use screen::watch;
pub use text::{json, log, once};
pub use trace::Trace;

use anyhow::Result;

/// Where counters come from.
pub trait Source: Send {
    /// What they are now.
    ///
    /// # Errors
    /// Nothing can be read at all.
    fn read(&mut self) -> Result<Sample>;
}
