//! What a monitor controls.

use crate::events::Events;
use crate::maker::Maker;
use machine::MachineHandle;
use std::sync::Arc;

/// The machine and what is known of it.
pub struct Target {
    /// The machine.
    pub machine: MachineHandle,
    /// What it is called.
    pub about: About,
    /// Who makes devices from their options.
    pub maker: Box<dyn Maker>,
    /// Who is told what happens.
    pub events: Arc<Events>,
}

/// Names.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The guest's name (`-name`).
    pub name: Option<String>,
    /// Name of the accelerator.
    pub accelerator: &'static str,
    /// Our version: major, minor, micro.
    pub version: [u32; 3],
}

impl Target {
    /// A target whose events go to the sessions.
    pub fn new(machine: MachineHandle, about: About, maker: Box<dyn Maker>) -> Arc<Self> {
        let events = Arc::new(Events::default());
        let sink = Arc::downgrade(&events);
        machine.observe(move |event| {
            if let Some(events) = sink.upgrade() {
                events.happened(event);
            }
        });
        let sink = Arc::downgrade(&events);
        machine.when_deleted(move |gone| {
            if let Some(events) = sink.upgrade() {
                events.deleted(gone);
            }
        });
        Arc::new(Self {
            machine,
            about,
            maker,
            events,
        })
    }
}
