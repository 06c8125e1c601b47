//! Control messages (5.3.6.2): ports come, are opened and closed.

use super::port::Port;
use crate::chain::Chain;
use crate::doorbell::Doorbell;
use crate::queue::{ActiveQueue, Broken};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Events.
pub(super) mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// Bytes of a message; a name may follow.
const MESSAGE: usize = 8;
/// Messages that wait for a buffer; a driver that asks for more and takes
/// none loses them.
const MAX_MESSAGES: usize = 256;

/// Messages on their way to the driver.
#[derive(Default)]
pub(super) struct Control(Mutex<State>);

#[derive(Default)]
struct State {
    messages: VecDeque<Vec<u8>>,
    bell: Option<Arc<Doorbell>>,
}

impl Control {
    /// Sends a message about a port.
    pub(super) fn send(&self, port: u16, event: u16, value: u16, name: &[u8]) {
        let mut state = self.0.lock();
        if state.messages.len() >= MAX_MESSAGES {
            log::warn!(target: "guest_errors", "virtio-serial: the driver takes no messages");
            return;
        }
        let mut message = Vec::with_capacity(MESSAGE + name.len());
        message.extend(u32::from(port).to_le_bytes());
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        message.extend(name);
        state.messages.push_back(message);
        if let Some(bell) = &state.bell {
            bell.ring();
        }
    }

    pub(super) fn attach(&self, bell: Arc<Doorbell>) {
        self.0.lock().bell = Some(bell);
    }

    pub(super) fn detach(&self) {
        self.0.lock().bell = None;
    }

    pub(super) fn clear(&self) {
        self.0.lock().messages.clear();
    }

    pub(super) fn save(&self) -> Vec<Vec<u8>> {
        self.0.lock().messages.iter().cloned().collect()
    }

    pub(super) fn restore(&self, messages: Vec<Vec<u8>>) {
        self.0.lock().messages = messages.into_iter().take(MAX_MESSAGES).collect();
    }

    fn waiting(&self) -> bool {
        !self.0.lock().messages.is_empty()
    }

    fn take(&self) -> Option<Vec<u8>> {
        self.0.lock().messages.pop_front()
    }
}

/// The thread of the queue to the driver.
pub(super) fn send(queue: ActiveQueue, control: &Control) {
    queue.work(|queue| {
        queue.drain(
            || control.waiting(),
            |chain| {
                let message = control.take().unwrap_or_default();
                Ok(chain.fill(&message) as u32)
            },
        )
    });
}

/// A message from the driver.
pub(super) fn receive(
    mut chain: Chain<'_>,
    control: &Control,
    ports: &[Arc<Port>],
) -> Result<u32, Broken> {
    let mut message = [0; MESSAGE];
    if !chain.take_header(&mut message) {
        return Err(Broken("a control message is cut off"));
    }
    let [i0, i1, i2, i3, e0, e1, v0, v1] = message;
    let id = u32::from_le_bytes([i0, i1, i2, i3]);
    let (event, value) = (u16::from_le_bytes([e0, e1]), u16::from_le_bytes([v0, v1]));
    if event == event::DEVICE_READY {
        let number = |port: &Arc<Port>| control.send(port.number(), event::PORT_ADD, 1, &[]);
        if value == 1 {
            ports.iter().for_each(number);
        }
        return Ok(0);
    }
    let port = ports.iter().find(|p| u32::from(p.number()) == id);
    match (port, event) {
        (Some(port), event::PORT_READY) if value == 1 => port.introduce(),
        (Some(_), event::PORT_READY) => {
            log::warn!(target: "guest_errors", "virtio-serial: the driver cannot use port {id}");
        }
        (Some(port), event::PORT_OPEN) => port.set_open(value == 1),
        (port, _) => {
            let known = if port.is_some() {
                ""
            } else {
                ", which there is not"
            };
            log::warn!(target: "guest_errors", "virtio-serial: event {event} for port {id}{known}");
        }
    }
    Ok(0)
}
