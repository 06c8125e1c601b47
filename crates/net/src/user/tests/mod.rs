//! The network with a guest that is a TCP/IP stack of somebody else's, frame by
//! frame, and with servers on the loopback interface. The clock is the tests'.

mod forwards;
mod hostile;
mod names;
mod six;
mod streams;

mod guest;
mod random;
mod servers;

use super::*;
use crate::{Offload, SegmentKind};
use guest::TestGuest;
use random::Random;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket as TcpSocket, SocketBuffer};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time that passes in each step, and in one in which nothing happens.
const STEP: Duration = Duration::from_micros(20);
const IDLE: Duration = Duration::from_millis(2);

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));
const DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3));
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// What happens to frames on their way.
#[derive(Clone, Copy, Default)]
struct Weather {
    /// Of a thousand, this many get lost.
    lost: u32,
    /// And this many are overtaken by the next one.
    late: u32,
    /// And this many of the guest's have a broken copy in front of them.
    broken: u32,
}

struct World {
    net: UserNet,
    guest: TestGuest,
    start: Instant,
    passed: Arc<AtomicU64>,
    weather: Weather,
    random: Random,
    /// A frame that is to be overtaken, each way.
    held: [Option<Frame>; 2],
}

impl World {
    /// `long`: the guest takes and sends long segments, and leaves checksums to others.
    fn new(config: UserConfig, long: bool) -> Self {
        let start = Instant::now();
        let passed = Arc::new(AtomicU64::new(0));
        let time = passed.clone();
        let clock = move || start + Duration::from_micros(time.load(Ordering::Relaxed));
        let mut net = UserNet::with_clock(config, Box::new(clock)).unwrap();
        net.accepts(Accepts {
            checksum: long,
            tcp4: long,
            tcp6: long,
            ecn: false,
        });
        Self {
            net,
            guest: TestGuest::new(long),
            start,
            passed,
            weather: Weather::default(),
            random: Random(1),
            held: [None, None],
        }
    }

    /// With an address, without asking for one.
    fn with_address(config: UserConfig, long: bool) -> Self {
        let mut world = Self::new(config, long);
        world.guest.set_address(GUEST.into(), 24, HOST);
        world
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_micros(self.passed.load(Ordering::Relaxed))
    }

    fn pass(&self, time: Duration) {
        self.passed
            .fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    /// What arrives of `frame`.
    fn travel(&mut self, way: usize, frame: Frame) -> Vec<Frame> {
        if self.random.below(1000) < self.weather.lost {
            return Vec::new();
        }
        if self.random.below(1000) < self.weather.late && self.held[way].is_none() {
            self.held[way] = Some(frame);
            return Vec::new();
        }
        std::iter::once(frame)
            .chain(self.held[way].take())
            .collect()
    }

    /// One round of frames each way. False: there was none.
    fn step(&mut self) -> bool {
        let ticks = smoltcp::time::Instant::from_micros(self.passed.load(Ordering::Relaxed) as i64);
        self.guest.poll(ticks);
        let mut busy = false;
        while let Some(frame) = self.guest.sent.pop_front() {
            busy = true;
            if self.random.below(1000) < self.weather.broken {
                let copy = hostile::mutate(&mut self.random, &frame);
                self.net.send(&copy);
            }
            for frame in self.travel(0, frame) {
                assert!(self.net.send(&frame));
            }
        }
        self.net.run(self.now(), &mut self.guest).unwrap();
        let delivered = std::mem::take(&mut self.guest.delivered);
        for frame in delivered {
            busy = true;
            for frame in self.travel(1, frame) {
                self.guest.receive(frame);
            }
        }
        self.pass(STEP);
        busy
    }

    /// What the guest gets at once for a frame.
    fn answers(&mut self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let frame = Frame {
            bytes,
            offload: Offload::default(),
        };
        assert!(self.net.send(&frame));
        self.net.run(self.now(), &mut self.guest).unwrap();
        let delivered = std::mem::take(&mut self.guest.delivered);
        delivered.into_iter().map(|f| f.bytes).collect()
    }

    /// Steps until `done` says so; what takes 10 minutes of the tests' time, or 20
    /// seconds, takes too long.
    #[track_caller]
    fn until(&mut self, mut done: impl FnMut(&mut TestGuest) -> bool) {
        let (end, begin) = (self.now() + Duration::from_secs(600), Instant::now());
        loop {
            let busy = self.step();
            if done(&mut self.guest) {
                return;
            }
            if !busy {
                // The servers' turn.
                std::thread::sleep(Duration::from_micros(20));
                self.pass(IDLE);
            }
            assert!(self.now() < end, "10 minutes have passed");
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "a minute has passed"
            );
        }
    }

    /// Steps while `time` passes.
    fn wait(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.now() < end {
            if !self.step() {
                std::thread::sleep(Duration::from_micros(20));
                self.pass(IDLE);
            }
        }
    }

    /// A connection from the guest to `to`, which is being made.
    fn connect(&mut self, to: SocketAddr, port: u16) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 256 << 10]);
        let mut socket = TcpSocket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        let handle = self.guest.sockets.add(socket);
        let socket = self.guest.sockets.get_mut::<TcpSocket>(handle);
        let context = self.guest.interface.context();
        socket.connect(context, to, port).unwrap();
        handle
    }
}

/// The default, with forwards.
fn forwarding(host_forwards: Vec<HostForward>) -> UserConfig {
    UserConfig {
        host_forwards,
        ..UserConfig::default()
    }
}

#[test]
fn contradictions_are_refused() {
    let check = |change: fn(&mut UserConfig), why: &str| {
        let mut config = UserConfig::default();
        change(&mut config);
        let error = UserNet::new(config).err().map(|e| e.to_string());
        assert!(error.as_ref().is_some_and(|e| e.contains(why)), "{error:?}");
    };
    check(|c| c.prefix = 33, "prefix");
    check(|c| c.host = Ipv4Addr::new(10, 0, 3, 2), "10.0.3.2");
    check(|c| c.dns = c.host, "of their own");
    check(|c| c.dhcp_start = Ipv4Addr::new(10, 0, 2, 250), "10.0.3.9");
    check(|c| c.dhcp_start = c.host, "of their own");
    check(|c| c.ipv6_prefix_len = 127, "IPv6 prefix");
    check(|c| c.ipv6_host = "fe80::9".parse().unwrap(), "fe80::9");
    check(|c| c.hostname = Some(String::new()), "255");
    assert!(UserNet::new(UserConfig::default()).is_ok());
}
