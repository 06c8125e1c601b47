//! What is said between a debugger and a machine, without the wire between them.

use crate::debuggee::Debuggee;
use crate::debugger::Shared;
use crate::frame::{Frame, Framer, PACKET, sum};
use crate::target::{Monitor, Target};
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStubBuilder, MultiThreadStopReason};
use machine::Debugger;
use std::convert::Infallible;
use std::sync::Arc;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The debugger detached; the machine goes on.
    Detached,
    /// It killed the machine.
    Killed,
    /// The machine ended.
    Machine,
    /// It vanished, or did not keep to the protocol. The machine is as it was.
    Lost,
}

type Stub<'a> = GdbStubStateMachine<'static, Target<'a>, Outbox>;

/// What a packet that is none of the protocol's gets: EINVAL, QEMU's answer.
const NONSENSE: &[u8] = b"E16";
/// Packets that change what the other end of the protocol knows. The last of each
/// is kept.
const LASTING: [&[u8]; 4] = [b"$qSupported", b"$QStartNoAckMode", b"$Hg", b"$Hc"];

/// One debugger's. It takes bytes, and what is to be sent is fetched from it.
pub struct Conversation<'a> {
    pub(crate) target: Target<'a>,
    framer: Framer,
    /// There is one except while it works.
    stub: Option<Stub<'a>>,
    /// An interrupt came while the machine stood. gdb sends one ahead of the packet
    /// that it is meant for, if the user was quick.
    interrupted: bool,
    lasting: [Option<Vec<u8>>; LASTING.len()],
}

impl<'a> Conversation<'a> {
    /// With a machine that is stopped.
    #[must_use]
    pub fn new(debuggee: &'a dyn Debuggee, monitor: Option<&'a Monitor>) -> Self {
        Self::with(debuggee, Arc::default(), monitor)
    }

    pub(crate) fn with(
        debuggee: &'a dyn Debuggee,
        shared: Arc<Shared>,
        monitor: Option<&'a Monitor>,
    ) -> Self {
        Self {
            target: Target::new(debuggee, shared, monitor),
            framer: Framer::default(),
            stub: None,
            interrupted: false,
            lasting: Default::default(),
        }
    }

    /// Who is to be told of debug events of the vCPUs.
    pub fn debugger(&self) -> Arc<dyn Debugger> {
        self.target.shared.clone()
    }

    /// What is to be sent.
    pub fn sent(&mut self) -> Vec<u8> {
        match &mut self.stub {
            Some(stub) => std::mem::take(&mut outbox(stub).bytes),
            None => Vec::new(),
        }
    }

    /// Takes what the debugger sent; how it ended, if it did.
    pub fn take(&mut self, bytes: &[u8]) -> Option<End> {
        bytes
            .iter()
            .find_map(|&byte| match self.framer.take(byte)? {
                Frame::Packet(packet) => self.packet(&packet),
                Frame::Interrupt => self.interrupt(),
                Frame::Bad => self.say(|outbox| outbox.bytes.push(b'-')),
                Frame::Again => self.say(Outbox::repeat),
            })
    }

    /// The machine has stopped, perhaps: tells a debugger that waits for it.
    pub fn look(&mut self) -> Option<End> {
        match self.stub()? {
            Stub::Running(stub) => match self.target.has_stopped() {
                Some(why) => {
                    let told = stub.report_stop(&mut self.target, why);
                    self.go_on(told.map_err(drop))
                }
                None => self.go_on(Ok(stub.into())),
            },
            stub => self.go_on(Ok(stub)),
        }
    }

    /// The machine has ended with this exit code.
    pub fn ended(&mut self, code: u8) -> End {
        if let Some(Stub::Running(stub)) = self.stub() {
            let why = MultiThreadStopReason::Exited(code);
            let told = stub.report_stop(&mut self.target, why);
            self.go_on(told.map_err(drop));
        }
        End::Machine
    }

    fn stub(&mut self) -> Option<Stub<'a>> {
        match self.stub.take() {
            Some(stub) => Some(stub),
            None => begin(&mut self.target),
        }
    }

    /// What comes of what the protocol's crate made of something.
    fn go_on(&mut self, stub: Result<Stub<'a>, ()>) -> Option<End> {
        let stub = match stub {
            Ok(Stub::CtrlCInterrupt(stub)) => {
                let why = self.target.interrupt();
                let told = stub.interrupt_handled(&mut self.target, Some(why));
                return self.go_on(told.map_err(drop));
            }
            Ok(stub) => stub,
            Err(()) => return Some(End::Lost),
        };
        let end = match &stub {
            Stub::Disconnected(stub) => Some(end_of(stub.get_reason())),
            _ => None,
        };
        self.stub = Some(stub);
        end
    }

    fn say(&mut self, what: impl FnOnce(&mut Outbox)) -> Option<End> {
        let mut stub = self.stub()?;
        what(outbox(&mut stub));
        self.go_on(Ok(stub))
    }

    /// While the machine stands it is for when that goes on, as gdbserver has it.
    fn interrupt(&mut self) -> Option<End> {
        match self.stub()? {
            Stub::Running(stub) => {
                self.interrupted = false;
                let told = stub.incoming_data(&mut self.target, crate::frame::INTERRUPT);
                self.go_on(told.map_err(drop))
            }
            stub => {
                self.interrupted = true;
                self.go_on(Ok(stub))
            }
        }
    }

    fn packet(&mut self, packet: &[u8]) -> Option<End> {
        let mut stub = self.stub()?;
        if is_nonsense(packet) {
            outbox(&mut stub).answer(self.lasting[1].is_none(), NONSENSE);
            return self.go_on(Ok(stub));
        }
        let before = std::mem::take(&mut outbox(&mut stub).bytes);
        let idle = matches!(stub, Stub::Idle(_));
        let mut told = feed(stub, &mut self.target, packet);
        if told.is_err() && idle {
            told = self.begin_again(packet);
        } else if let Some(at) = LASTING.iter().position(|name| packet.starts_with(name)) {
            self.lasting[at] = Some(packet.to_vec());
        }
        if let Ok(stub) = &mut told {
            let outbox = outbox(stub);
            // `k` has no answer, this has one, which the protocol's crate leaves out.
            if packet.starts_with(b"$vKill;") && outbox.bytes.iter().all(|b| *b == b'+') {
                outbox.answer(false, b"OK");
            }
            outbox.bytes.splice(0..0, before);
        }
        let end = self.go_on(told);
        let runs = matches!(self.stub, Some(Stub::Running(_)));
        match runs && self.interrupted {
            true => self.interrupt(),
            false => end,
        }
    }

    /// The protocol's crate gives up on some packets, where others answer with an
    /// error: it starts anew and is told what it knew.
    fn begin_again(&mut self, packet: &[u8]) -> Result<Stub<'a>, ()> {
        log::debug!("gdb: nonsense: {}", packet.escape_ascii());
        let mut stub = begin(&mut self.target).ok_or(())?;
        for known in self.lasting.iter().flatten() {
            stub = feed(stub, &mut self.target, known)?;
        }
        let outbox = outbox(&mut stub);
        outbox.bytes.clear();
        outbox.answer(self.lasting[1].is_none(), NONSENSE);
        Ok(stub)
    }
}

/// What the protocol's crate does not look at: more memory is to be read than an
/// answer holds, or not as much is to be written as there is data for.
fn is_nonsense(packet: &[u8]) -> bool {
    let Some(body) = packet.get(1..packet.len().saturating_sub(3)) else {
        return false;
    };
    let (head, data) = match body.iter().position(|byte| *byte == b':') {
        Some(at) => (&body[..at], &body[at + 1..]),
        None => (body, &[][..]),
    };
    let len = head.split(|byte| *byte == b',').nth(1);
    let len = len.and_then(|len| std::str::from_utf8(len).ok());
    let len = len.and_then(|len| usize::from_str_radix(len, 16).ok());
    match body.first() {
        Some(b'm') => len.is_none_or(|len| len > PACKET / 2 - 4),
        Some(b'M') => len.and_then(|len| len.checked_mul(2)) != Some(data.len()),
        Some(b'X') => {
            // An escape takes two bytes.
            let mut bytes = data.iter();
            let mut count = 0;
            while let Some(byte) = bytes.next() {
                count += 1;
                if *byte == b'}' && bytes.next().is_none() {
                    return true;
                }
            }
            len != Some(count)
        }
        _ => false,
    }
}

fn begin<'a>(target: &mut Target<'a>) -> Option<Stub<'a>> {
    let builder = GdbStubBuilder::new(Outbox::default()).packet_buffer_size(PACKET);
    builder.build().ok()?.run_state_machine(target).ok()
}

fn feed<'a>(mut stub: Stub<'a>, target: &mut Target<'a>, packet: &[u8]) -> Result<Stub<'a>, ()> {
    for &byte in packet {
        stub = match stub {
            Stub::Idle(stub) => stub.incoming_data(target, byte),
            Stub::Running(stub) => stub.incoming_data(target, byte),
            stub => return Ok(stub),
        }
        .map_err(|why| log::debug!("gdb: {why}"))?;
    }
    Ok(stub)
}

fn outbox<'s>(stub: &'s mut Stub<'_>) -> &'s mut Outbox {
    match stub {
        Stub::Idle(stub) => stub.borrow_conn(),
        Stub::Running(stub) => stub.borrow_conn(),
        Stub::CtrlCInterrupt(stub) => stub.borrow_conn(),
        Stub::Disconnected(stub) => stub.borrow_conn(),
    }
}

fn end_of(reason: DisconnectReason) -> End {
    match reason {
        DisconnectReason::Disconnect => End::Detached,
        DisconnectReason::Kill => End::Killed,
        DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_) => End::Machine,
    }
}

/// What is to be sent.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    /// The last packet.
    last: Vec<u8>,
    place: Place,
}

/// Where in a packet that goes out.
#[derive(Clone, Copy, Default)]
enum Place {
    #[default]
    Out,
    In,
    Sum,
    Digit,
}

impl Outbox {
    fn repeat(&mut self) {
        self.bytes.extend(&self.last);
    }

    fn answer(&mut self, acknowledge: bool, body: &[u8]) {
        if acknowledge {
            self.bytes.push(b'+');
        }
        self.last = [b"$", body, format!("#{:02x}", sum(body)).as_bytes()].concat();
        self.repeat();
    }
}

impl Connection for Outbox {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.bytes.push(byte);
        // Inside of packets both are escaped.
        self.place = match (self.place, byte) {
            (_, b'$') => {
                self.last.clear();
                Place::In
            }
            (Place::In, b'#') => Place::Sum,
            (Place::Out, _) => return Ok(()),
            (Place::In, _) => Place::In,
            (Place::Sum, _) => Place::Digit,
            (Place::Digit, _) => Place::Out,
        };
        self.last.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
