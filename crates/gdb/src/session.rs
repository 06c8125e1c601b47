//! One debugger, from connecting to its end.

use crate::conversation::{Conversation, End};
use crate::debugger::{Shared, Wake};
use crate::target::Monitor;
use crate::wire::Wire;
use machine::{MachineHandle, RunState};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A machine that debuggers can connect to.
pub(crate) struct Host {
    pub(crate) handle: MachineHandle,
    pub(crate) monitor: Option<Box<Monitor>>,
    pub(crate) wake: Wake,
    /// The exit code, once the machine has ended.
    pub(crate) ended: Mutex<Option<u8>>,
}

impl Host {
    pub(crate) fn new(handle: MachineHandle, monitor: Option<Box<Monitor>>) -> io::Result<Self> {
        let wake = Wake::new()?;
        let called = wake.clone();
        handle.observe(move |event| {
            if *event == machine::Event::Stopped {
                called.wake();
            }
        });
        Ok(Self {
            handle,
            monitor,
            wake,
            ended: Mutex::default(),
        })
    }

    fn has_ended(&self) -> Option<u8> {
        *self.ended.lock()
    }

    /// False if the machine ended before it ran.
    fn wait_until_started(&self) -> bool {
        while self.handle.on_vcpu(0, |_| ()).is_err() {
            if self.has_ended().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Serves a debugger until its end. Writing to `wire` must not wait forever.
    pub(crate) fn serve(&self, wire: &dyn Wire) -> End {
        if !self.wait_until_started() {
            return End::Machine;
        }
        let shared = Arc::new(Shared::new(self.wake.clone()));
        self.handle.attach(shared.clone());
        self.handle.stop_if_running(RunState::Debug);
        let monitor = self.monitor.as_deref();
        let mut conversation = Conversation::with(&self.handle, shared, monitor);
        let end = self
            .converse(&mut conversation, wire)
            .unwrap_or_else(|why| {
                log::debug!("gdb: {why}");
                End::Lost
            });
        let running = self.handle.run_state() == RunState::Running;
        self.handle.stop_if_running(RunState::Debug);
        conversation.target.clear();
        self.handle.detach();
        match end {
            End::Killed => self.handle.quit(),
            // A guest that is over stays so.
            End::Detached => drop(self.handle.resume()),
            End::Lost if running => drop(self.handle.resume()),
            End::Lost | End::Machine => {}
        }
        end
    }

    fn converse(
        &self,
        conversation: &mut Conversation<'_>,
        wire: &dyn Wire,
    ) -> Result<End, String> {
        loop {
            let end = match self.next(wire)? {
                News::Bytes(bytes) => conversation.take(&bytes),
                News::Machine => conversation.look(),
                News::End(code) => Some(conversation.ended(code)),
            };
            wire.send(&conversation.sent()).map_err(|e| e.to_string())?;
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Waits for something to happen.
    fn next(&self, wire: &dyn Wire) -> Result<News, String> {
        loop {
            if let Some(code) = self.has_ended() {
                return Ok(News::End(code));
            }
            let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
            let readable = wire.readable();
            fds.extend(readable.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            let called = match readable {
                // It may have rung before we listened.
                None => wire.receive().map_err(|e| e.to_string())?,
                Some(_) => Vec::new(),
            };
            if !called.is_empty() {
                return Ok(News::Bytes(called));
            }
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(why) => return Err(why.to_string()),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready[0] {
                self.wake.clear();
                if self.has_ended().is_none() {
                    return Ok(News::Machine);
                }
            } else if ready.get(1) == Some(&true) {
                return wire.receive().map(News::Bytes).map_err(|e| e.to_string());
            }
        }
    }
}

enum News {
    /// The debugger said something.
    Bytes(Vec<u8>),
    /// The machine stopped, perhaps.
    Machine,
    /// It ended, with this exit code.
    End(u8),
}
