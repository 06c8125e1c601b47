//! A port: two queues and a host end.

use super::control::{Control, event};
use super::{HostEnd, Listener, PortOptions};
use crate::chain::Chain;
use crate::doorbell::Doorbell;
use crate::queue::{ActiveQueue, Broken};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// Bytes that are copied at a time.
const PIECE: usize = 16 << 10;

/// A port.
pub(super) struct Port {
    options: PortOptions,
    control: Arc<Control>,
    state: Mutex<State>,
    itself: Weak<Port>,
}

#[derive(Default)]
struct State {
    /// The driver opens ports and is told of the host's end; if not, a port
    /// is open all the time.
    multiport: bool,
    /// Of the queue to the driver.
    bell: Option<Arc<Doorbell>>,
    /// The driver knows the port.
    ready: bool,
    /// A program of the guest has it open.
    open: bool,
    /// What the driver was told last of the host's end.
    told_connected: bool,
    /// Bytes of the request in work that the host's end has taken.
    taken: u64,
}

impl Port {
    pub(super) fn new(options: PortOptions, control: Arc<Control>) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            options,
            control,
            state: Mutex::default(),
            itself: itself.clone(),
        })
    }

    pub(super) fn number(&self) -> u16 {
        self.options.number
    }

    pub(super) fn host(&self) -> &dyn HostEnd {
        &*self.options.host
    }

    /// Its queues to and from the driver (5.3.2).
    pub(super) fn queues(&self) -> [u16; 2] {
        let first = match self.options.number {
            0 => 0,
            number => 2 * number + 2,
        };
        [first, first + 1]
    }

    pub(super) fn attach(&self, bell: Arc<Doorbell>) {
        self.state.lock().bell = Some(bell);
    }

    /// A driver is there, with or without control messages: hears of the
    /// host's end from now on.
    pub(super) fn listen(&self, multiport: bool) {
        self.state.lock().multiport = multiport;
        let listener: Weak<dyn Listener> = self.itself.clone();
        self.host().attach(listener);
        self.changed();
    }

    pub(super) fn detach(&self) {
        self.state.lock().bell = None;
    }

    /// As the driver finds it after a reset.
    pub(super) fn reset(&self) {
        *self.state.lock() = State::default();
    }

    pub(super) fn save(&self) -> state::virtio::SerialPort {
        let state = self.state.lock();
        state::virtio::SerialPort {
            number: self.number().into(),
            ready: state.ready,
            open: state.open,
            told_connected: state.told_connected,
            taken: state.taken,
        }
    }

    pub(super) fn restore(&self, saved: &state::virtio::SerialPort) {
        let mut state = self.state.lock();
        state.ready = saved.ready;
        state.open = saved.open;
        state.told_connected = saved.told_connected;
        state.taken = saved.taken;
    }

    /// The driver knows the port and hears what it is.
    pub(super) fn introduce(&self) {
        let send = |event, value, name: &[u8]| {
            self.control.send(self.number(), event, value, name);
        };
        if self.options.console {
            send(event::CONSOLE_PORT, 1, &[]);
        }
        if !self.options.name.is_empty() {
            send(event::PORT_NAME, 1, self.options.name.as_bytes());
        }
        {
            let mut state = self.state.lock();
            state.ready = true;
            state.told_connected = false;
        }
        self.changed();
    }

    /// The guest opens or closes it.
    pub(super) fn set_open(&self, open: bool) {
        self.state.lock().open = open;
        self.changed();
    }

    /// There is something for the driver, and it listens: what it gets for a
    /// closed port it throws away.
    fn has_input(&self) -> bool {
        let open = {
            let state = self.state.lock();
            state.open || !state.multiport
        };
        open && self.host().has_input()
    }
}

impl Listener for Port {
    fn changed(&self) {
        let connected = self.host().connected();
        let (bell, tell) = {
            let mut state = self.state.lock();
            let tell = state.multiport && state.ready && state.told_connected != connected;
            if tell {
                state.told_connected = connected;
            }
            (state.bell.clone(), tell)
        };
        if tell {
            let value = connected.into();
            self.control
                .send(self.number(), event::PORT_OPEN, value, &[]);
        }
        if let Some(bell) = bell {
            bell.ring();
        }
    }
}

/// The thread of the queue to the driver.
pub(super) fn receive(queue: ActiveQueue, port: &Port) {
    queue.work(|queue| {
        queue.drain(
            || port.has_input(),
            |chain| {
                let room = chain.writable_len().min(PIECE);
                if room == 0 {
                    return Err(Broken("a buffer to receive has no room"));
                }
                let mut bytes = vec![0; room];
                let n = port.host().get(&mut bytes);
                Ok(chain.fill(&bytes[..n]) as u32)
            },
        )
    });
}

/// The thread of the queue from the driver. A host end without room stops
/// only this queue.
pub(super) fn transmit(queue: ActiveQueue, port: &Port) {
    queue.work(|queue| {
        loop {
            let memory = queue.memory.clone();
            match queue.pop(&memory)? {
                Some(mut chain) => {
                    if !send(&mut chain, port, &queue.doorbell) {
                        return Ok(());
                    }
                    // Before the driver can see it done.
                    port.state.lock().taken = 0;
                    queue.complete(chain.head, 0)?;
                }
                None if !queue.listen()? => return Ok(()),
                None => {}
            }
            if queue.doorbell.is_stopped() {
                return Ok(());
            }
        }
    });
}

/// Passes a request on; false when the worker shall end first. How far it
/// came is remembered: the request stays in the queue, and whoever serves it
/// next goes on there.
fn send(chain: &mut Chain<'_>, port: &Port, doorbell: &Doorbell) -> bool {
    let mut buffer = vec![0; PIECE];
    let mut skip = port.state.lock().taken;
    while skip > 0 {
        let piece = skip.min(PIECE as u64) as usize;
        let n = chain.take(&mut buffer[..piece]);
        if n == 0 {
            break;
        }
        skip -= n as u64;
    }
    loop {
        let n = chain.take(&mut buffer);
        if n == 0 {
            return true;
        }
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            let done = port.host().put(rest).min(rest.len());
            port.state.lock().taken += done as u64;
            rest = &rest[done..];
            if rest.is_empty() {
                break;
            }
            if doorbell.is_stopped() {
                return false;
            }
            port.host().wait_for_room();
        }
    }
}
