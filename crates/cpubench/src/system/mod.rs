//! Workloads that are about the kernel.

mod files;
mod memory;
mod os;
mod processes;
mod signals;
mod threads;
mod together;

pub(crate) use together::together;

use crate::row::{Kind, Outcome, Row};
use std::io;

pub(crate) use processes::{EXECUTED, EXECUTED_CODE};

type Run = fn(u64) -> io::Result<Outcome>;

const fn row(name: &'static str, run: Run) -> Row {
    Row {
        name,
        kind: Kind::System,
        needs: &[],
        run,
    }
}

const ROWS: [Row; 17] = [
    row("system-call", signals::system_call),
    row("fault-anonymous", memory::fault_anonymous),
    row("fault-file", memory::fault_file),
    row("fault-copy-on-write", memory::fault_copy_on_write),
    row("map-unmap", memory::map_unmap),
    row("fork-exit", processes::fork_exit),
    row("fork-exec", processes::fork_exec),
    row("pipe-ping-pong", processes::ping_pong),
    row("switch-2", processes::switch_2),
    row("switch-64", processes::switch_64),
    row("signal", signals::signal),
    row("tmpfs-create", files::create),
    row("tmpfs-write", files::write),
    row("futex-wake", threads::futex_wake),
    row("timer-wake", threads::timer_wake),
    row("kernel-copy-1m", files::kernel_copy),
    row("pipe-bulk", files::pipe_bulk),
];

/// The table.
pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter()
}
