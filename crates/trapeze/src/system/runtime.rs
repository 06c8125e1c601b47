//! Where `trapeze stat` finds this machine.

use machine::{MonitorConfig, SerialConfig, SocketAddress, SocketConfig};
use monitor::{Monitors, Target};
use std::path::PathBuf;
use std::sync::Arc;

/// Removes the socket at the machine's end.
pub(super) struct Here(PathBuf);

impl Drop for Here {
    fn drop(&mut self) {
        // Whoever looks next removes what is left.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens there. A machine does without where there is no such place, as in a
/// sandbox.
pub(super) fn listen(monitors: &Monitors, target: &Arc<Target>) -> Option<Here> {
    let path = vms::runtime::socket()?;
    let host = SerialConfig::Socket(SocketConfig {
        address: SocketAddress::Unix(path.clone()),
        server: true,
        wait: false,
        telnet: false,
    });
    let monitor = MonitorConfig {
        host,
        control: true,
        pretty: false,
    };
    match monitors.start(target, &[monitor], Vec::new()) {
        Ok(()) => Some(Here(path)),
        Err(why) => {
            log::debug!("no place for 'trapeze stat': {why}");
            None
        }
    }
}
