//! A machine with a small guest, and a debugger's side of the wire to it.

use gdb::{Place, Server};
use iced_x86::code_asm::*;
use machine::cpu::Topology;
use machine::{
    Image, Machine, MachineConfig, MachineHandle, Outcome, RunState, SocketAddress, SocketConfig,
};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

/// Where the guest is.
pub const BASE: u64 = 0x10_0000;
/// A counter that it counts up.
pub const COUNTER: u64 = BASE + 0x900;
/// The beginning of its loop: the counter, an OUT, a jump.
pub const LOOP: u64 = BASE + 0x100;
/// The OUT.
pub const OUT: u64 = LOOP + 6;
/// UD2, and its handler.
pub const FAULT: u64 = BASE + 0x200;
pub const HANDLER: u64 = BASE + 0x300;
/// Gates, and what LIDT loads.
const GATES: u64 = BASE + 0x400;
const IDTR: u64 = BASE + 0x3f0;
/// No test waits for so long unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

fn code(at: u64, make: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut a = CodeAssembler::new(32).unwrap();
    make(&mut a).unwrap();
    a.assemble(at).unwrap()
}

/// A Multiboot kernel: 32-bit protected mode, no paging.
fn kernel() -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    let mut put = |at: u64, bytes: &[u8]| {
        let at = (at - BASE) as usize;
        file[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let (magic, flags, base) = (0x1bad_b002u32, 0x1_0000u32, BASE as u32);
    let sum = 0u32.wrapping_sub(magic.wrapping_add(flags));
    let header = [magic, flags, sum, base, base, base + 0x1000, 0, base + 0x20];
    put(BASE, header.map(u32::to_le_bytes).as_flattened());
    let start = code(BASE + 0x20, |a| {
        a.mov(esp, BASE as u32 + 0x8_0000)?;
        // The gate of #UD, in this code segment.
        a.mov(eax, cs)?;
        a.mov(word_ptr(GATES + 6 * 8 + 2), ax)?;
        a.lidt(dword_ptr(IDTR))?;
        a.jmp(LOOP)
    });
    put(BASE + 0x20, &start);
    put(
        LOOP,
        &code(LOOP, |a| {
            a.inc(dword_ptr(COUNTER))?;
            a.out(0x80, al)?;
            a.jmp(LOOP)
        }),
    );
    put(FAULT, &code(FAULT, |a| a.ud2()));
    put(
        HANDLER,
        &code(HANDLER, |a| {
            a.inc(ecx)?;
            a.inc(edx)?;
            a.jmp(HANDLER)
        }),
    );
    put(GATES + 6 * 8, &(HANDLER as u16).to_le_bytes());
    put(GATES + 6 * 8 + 4, &[0, 0x8e]);
    put(GATES + 6 * 8 + 6, &((HANDLER >> 16) as u16).to_le_bytes());
    put(IDTR, &0xffu16.to_le_bytes());
    put(IDTR + 2, &(GATES as u32).to_le_bytes());
    file
}

/// A running machine.
pub struct Scene {
    pub handle: MachineHandle,
    path: PathBuf,
    server: Option<Server>,
    thread: Option<JoinHandle<Outcome>>,
}

impl Scene {
    pub fn new() -> Self {
        Self::with(engine::Options::default(), |_| {})
    }

    /// With the engine's options; `prepare` is called before it runs.
    pub fn with(options: engine::Options, prepare: impl FnOnce(&MachineHandle)) -> Self {
        static PLACES: AtomicUsize = AtomicUsize::new(0);
        let number = PLACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("gdb-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let config = MachineConfig {
            ram_bytes: 8 << 20,
            topology: Topology::of_cores(2),
            kernel: Some(Image::Bytes {
                name: "kernel".into(),
                bytes: Arc::from(kernel()),
            }),
            ..Default::default()
        };
        let (tell, told) = channel();
        let (prepared, go) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let hypervisor = Arc::new(engine::Soft::with_options(options));
            let machine = Machine::new(hypervisor, config).unwrap();
            tell.send(machine.handle()).expect("we listen");
            go.recv().expect("we say so");
            machine.run().unwrap()
        });
        let handle = told.recv().expect("the machine can be");
        prepare(&handle);
        let place = Place::Server(SocketConfig {
            address: SocketAddress::Unix(path.clone()),
            server: true,
            wait: false,
            telnet: false,
        });
        let monitor = |line: &str| format!("you said '{line}'\n");
        let server = Server::start(place, handle.clone(), Some(Box::new(monitor))).unwrap();
        prepared.send(()).expect("it waits");
        Self {
            handle,
            path,
            server: Some(server),
            thread: Some(thread),
        }
    }

    /// A debugger that has said nothing yet.
    pub fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream }
    }

    /// Waits until the machine runs, or stands.
    #[track_caller]
    pub fn wait_for(&self, state: RunState) {
        let begin = std::time::Instant::now();
        while self.handle.run_state() != state {
            assert!(begin.elapsed() < PATIENCE, "{:?}", self.handle.run_state());
            std::thread::yield_now();
        }
    }

    /// How far the guest has counted.
    pub fn counted(&self) -> u32 {
        let mut bytes = [0; 4];
        self.handle.read_memory(COUNTER, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    /// Waits until the guest has counted on.
    pub fn counts(&self) {
        let begin = std::time::Instant::now();
        let from = self.counted();
        while self.counted() == from {
            assert!(begin.elapsed() < PATIENCE, "it stands at {from}");
            std::thread::yield_now();
        }
    }

    /// Waits for its end, of which the debugger hears with exit code 5.
    pub fn outcome(mut self) -> Outcome {
        let outcome = self.thread.take().unwrap().join().unwrap();
        self.server.take().unwrap().finish(5);
        outcome
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.handle.quit();
            let _ = thread.join();
        }
        self.server.take();
    }
}

/// A debugger.
pub struct Client {
    stream: UnixStream,
}

impl Client {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends a packet.
    pub fn packet(&mut self, body: &str) {
        let sum = body.bytes().fold(0u8, u8::wrapping_add);
        self.send(format!("${body}#{sum:02x}").as_bytes());
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => None,
            Ok(_) => Some(byte[0]),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => None,
            Err(e) => panic!("{e}"),
        }
    }

    /// The next byte that is sent outside of a packet.
    #[track_caller]
    pub fn signal(&mut self) -> u8 {
        self.byte().expect("the connection is open")
    }

    /// The body of the next packet, with its checksum looked at; `None` at the end.
    pub fn next(&mut self) -> Option<String> {
        while self.byte()? != b'$' {}
        let mut body = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => body.push(byte),
            }
        }
        let digits = [self.byte()?, self.byte()?];
        let sum = body.iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
        assert_eq!(digits, *format!("{sum:02x}").as_bytes());
        Some(plain(&body))
    }

    #[track_caller]
    pub fn answer(&mut self) -> String {
        self.next().expect("an answer")
    }

    /// Sends a packet and waits for the answer.
    #[track_caller]
    pub fn ask(&mut self, body: &str) -> String {
        self.packet(body);
        self.answer()
    }

    #[track_caller]
    pub fn check(&mut self, body: &str, expected: &str) {
        assert_eq!(self.ask(body), expected, "{body}");
    }

    /// A register by its number.
    #[track_caller]
    pub fn register(&mut self, number: usize) -> u64 {
        let text = self.ask(&format!("p{number:x}"));
        let value = u64::from_str_radix(&text, 16).unwrap_or_else(|_| panic!("{text}"));
        value.swap_bytes()
    }

    #[track_caller]
    pub fn set_register(&mut self, number: usize, value: u64) {
        let value = value.swap_bytes();
        self.check(&format!("P{number:x}={value:016x}"), "OK");
    }
}

/// RIP's number.
pub const RIP: usize = 16;

/// Without the run-length encoding (GDB's manual, "Overview").
fn plain(body: &[u8]) -> String {
    let mut text: Vec<u8> = Vec::new();
    let mut bytes = body.iter();
    while let Some(&byte) = bytes.next() {
        match (byte, text.last().copied()) {
            (b'*', Some(last)) => {
                let count = bytes.next().expect("a count") - 29;
                text.extend(std::iter::repeat_n(last, count.into()));
            }
            _ => text.push(byte),
        }
    }
    String::from_utf8(text).expect("text")
}
