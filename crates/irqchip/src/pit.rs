//! The 8254 programmable interval timer of the PC (Intel 8254 data sheet
//! 231164) with the speaker port 0x61.
//!
//! Channel 0 is IRQ 0. Ticks that the guest is too slow to take are kept and
//! delivered after the acknowledge of the one before, as KVM's PIT does
//! (`KVM_REINJECT_CONTROL`), but only [`MAX_BACKLOG`] of them.

mod channel;

use channel::Channel;
pub use channel::PitChannelState;

/// Ticks kept for a guest that is late: one second at 1 kHz.
pub const MAX_BACKLOG: u64 = 1000;

/// `KVM_PIT_FLAGS_HPET_LEGACY`: the HPET has taken over IRQ 0.
const FLAG_HPET_LEGACY: u32 = 1;
/// `KVM_PIT_FLAGS_SPEAKER_DATA_ON`.
const FLAG_SPEAKER: u32 = 2;

/// Saved state with `kvm_pit_state2`'s fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "names and meaning are kvm_pit_state2's")]
pub struct PitState {
    pub channels: [PitChannelState; 3],
    pub flags: u32,
}

/// The 8254 and port 0x61.
#[derive(Clone, Debug)]
pub struct Pit {
    reinject: bool,

    channels: [Channel; 3],
    speaker: bool,
    hpet_legacy: bool,

    /// Time up to which channel 0's edges are in `backlog`.
    seen_ns: u64,
    backlog: u64,
    /// The guest has acknowledged the last IRQ 0.
    acked: bool,
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit {
    /// Power-up: no channel is programmed; gates 0 and 1 are wired high.
    pub fn new() -> Self {
        Self {
            reinject: true,
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            speaker: false,
            hpet_legacy: false,
            seen_ns: 0,
            backlog: 0,
            acked: true,
        }
    }

    /// Back to power-up.
    pub fn reset(&mut self) {
        *self = Self {
            reinject: self.reinject,
            seen_ns: self.seen_ns,
            ..Self::new()
        };
    }

    /// True for the ports of the PIT and the speaker.
    pub const fn owns_port(port: u16) -> bool {
        matches!(port, 0x40..=0x43 | 0x61)
    }

    /// Reads a port; the control port and others read as 0.
    pub fn read(&mut self, port: u16, now_ns: u64) -> u8 {
        match port {
            0x40..=0x42 => self.channels[usize::from(port & 3)].read(now_ns),
            0x61 => self.read_speaker(now_ns),
            _ => 0,
        }
    }

    /// Writes a port; others are ignored.
    pub fn write(&mut self, port: u16, value: u8, now_ns: u64) {
        self.advance(now_ns);
        match port {
            0x40..=0x42 => self.channels[usize::from(port & 3)].write(value, now_ns),
            0x43 => self.write_control(value, now_ns),
            0x61 => {
                self.speaker = value & 2 != 0;
                self.channels[2].set_gate(value & 1 != 0, now_ns);
            }
            _ => {}
        }
    }

    fn write_control(&mut self, value: u8, now_ns: u64) {
        match usize::from(value >> 6) {
            3 => {
                for (index, channel) in self.channels.iter_mut().enumerate() {
                    if value >> (index + 1) & 1 != 0 {
                        channel.read_back(value, now_ns);
                    }
                }
            }
            index if value & 0x30 == 0 => self.channels[index].latch_count(now_ns),
            index => self.channels[index].program(value),
        }
    }

    /// Bit 4 is the DRAM refresh request that software uses as a clock (it
    /// toggles every 15 us on the PC/AT, here as with KVM every 16.4 us).
    fn read_speaker(&mut self, now_ns: u64) -> u8 {
        let channel = &mut self.channels[2];
        let refresh = (now_ns >> 14 & 1) as u8;
        let out = u8::from(channel.out(now_ns));
        u8::from(channel.gate()) | u8::from(self.speaker) << 1 | refresh << 4 | out << 5
    }

    /// Output of a channel; false for a channel that does not exist.
    pub fn out(&mut self, channel: usize, now_ns: u64) -> bool {
        let channel = self.channels.get_mut(channel);
        channel.is_some_and(|channel| channel.out(now_ns))
    }

    /// When IRQ 0 rises next, in ns.
    pub fn next_edge(&self) -> Option<u64> {
        if self.hpet_legacy {
            return None;
        }
        self.channels[0].next_edge(self.seen_ns)
    }

    /// Collects channel 0's edges up to now.
    pub fn advance(&mut self, now_ns: u64) {
        if now_ns <= self.seen_ns {
            return;
        }
        let edges = self.channels[0].edges(self.seen_ns, now_ns);
        self.seen_ns = now_ns;
        if self.hpet_legacy {
            return;
        }
        self.backlog = match self.reinject {
            true => self.backlog.saturating_add(edges).min(MAX_BACKLOG),
            false => edges.min(1),
        };
    }

    /// True if IRQ 0 is to be pulsed now. Call it after [`Pit::advance`] and
    /// [`Pit::ack`].
    pub fn take_irq(&mut self) -> bool {
        let due = self.backlog != 0 && (self.acked || !self.reinject);
        if due {
            self.backlog -= 1;
            self.acked = false;
        }
        due
    }

    /// The guest acknowledged IRQ 0.
    pub fn ack(&mut self) {
        self.acked = true;
    }

    /// IRQ 0 was unmasked: what it missed while masked is dropped.
    pub fn forget_backlog(&mut self) {
        self.backlog = 0;
        self.acked = true;
    }

    /// Chooses between reinjecting and dropping late ticks.
    pub fn set_reinject(&mut self, reinject: bool) {
        self.reinject = reinject;
        self.forget_backlog();
    }

    /// Saved state. Load times are in the caller's time base.
    pub fn state(&mut self, now_ns: u64) -> PitState {
        let flags = [
            (self.hpet_legacy, FLAG_HPET_LEGACY),
            (self.speaker, FLAG_SPEAKER),
        ];
        PitState {
            channels: self.channels.each_mut().map(|c| c.state(now_ns)),
            flags: flags.iter().map(|(on, bit)| u32::from(*on) * bit).sum(),
        }
    }

    /// Restores what [`Pit::state`] returned. A load time in the future, from
    /// another time base, counts as now.
    pub fn set_state(&mut self, state: &PitState, now_ns: u64) {
        for (channel, state) in self.channels.iter_mut().zip(&state.channels) {
            channel.set_state(state, now_ns);
        }
        self.hpet_legacy = state.flags & FLAG_HPET_LEGACY != 0;
        self.speaker = state.flags & FLAG_SPEAKER != 0;
        self.seen_ns = now_ns;
        self.forget_backlog();
    }
}

#[cfg(test)]
mod tests;
