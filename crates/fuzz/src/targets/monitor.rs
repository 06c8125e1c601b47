//! Bytes of clients to both kinds of monitors, of a machine that was never made.

use machine::MachineHandle;
use monitor::{About, HmpSession, NoMaker, QmpSession, Target};
use std::sync::Arc;

fn target() -> Arc<Target> {
    let about = About::default();
    Target::new(MachineHandle::default(), about, Box::new(NoMaker))
}

/// Everything that comes out is JSON, an object a line.
pub(super) fn qmp(data: &[u8]) {
    let (target, outbox) = (target(), Arc::default());
    let mut session = QmpSession::new(target, outbox, false);
    session.take(b"{\"execute\":\"qmp_capabilities\"}");
    for part in data.chunks(64) {
        session.take(part);
        for line in session.sent().lines() {
            let message: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert!(message.is_object());
        }
    }
}

/// Nothing goes out but text.
pub(super) fn hmp(data: &[u8]) {
    // Files would be written.
    let hidden = [&b"memsave"[..], b"pmemsave"];
    if hidden
        .iter()
        .any(|name| data.windows(name.len()).any(|w| w == *name))
    {
        return;
    }
    let (target, outbox) = (target(), Arc::default());
    let mut session = HmpSession::new(target, outbox);
    session.greet();
    for part in data.chunks(64) {
        session.take(part);
        assert!(session.sent().is_ascii());
    }
}
