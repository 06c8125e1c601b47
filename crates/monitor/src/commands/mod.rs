//! The commands, in sections.

mod balloon;
mod block;
mod chardev;
mod chips;
mod control;
mod exits;
mod hotplug;
mod memory;
mod network;
mod paging;
mod pci;
mod processor;
mod query;

pub use processor::register;
pub use query::version;

use crate::command::Command;

static SECTIONS: [&[Command]; 12] = [
    control::COMMANDS,
    query::COMMANDS,
    processor::COMMANDS,
    memory::COMMANDS,
    chips::COMMANDS,
    pci::COMMANDS,
    block::COMMANDS,
    hotplug::COMMANDS,
    network::COMMANDS,
    balloon::COMMANDS,
    chardev::COMMANDS,
    exits::COMMANDS,
];

/// Every command.
pub fn all() -> impl Iterator<Item = &'static Command> {
    SECTIONS.iter().flat_map(|section| section.iter())
}

/// The command that programs call so.
pub fn by_qmp_name(name: &str) -> Option<&'static Command> {
    all().find(|command| command.qmp == Some(name))
}

/// The command that people call so.
pub fn by_hmp_name(name: &str) -> Option<&'static Command> {
    all().find(|command| {
        let hmp = command.hmp.as_ref();
        hmp.is_some_and(|hmp| hmp.names.contains(&name))
    })
}

/// What people call the commands, sorted.
pub fn hmp_names() -> impl Iterator<Item = &'static str> {
    let mut names: Vec<_> = all()
        .filter_map(|command| command.hmp.as_ref()?.names.first().copied())
        .collect();
    names.sort_unstable();
    names.into_iter()
}
