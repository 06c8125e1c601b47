//! Connections of the guest's.

use super::*;
use smoltcp::socket::tcp::State;
use std::io::{Read, Write};

/// The byte at `at` of what is sent.
fn byte(at: usize) -> u8 {
    ((at * 31) >> 3) as u8 ^ (at >> 11) as u8
}

/// How far an exchange is.
#[derive(Default)]
struct Exchange {
    sent: usize,
    received: usize,
    closed: bool,
}

impl Exchange {
    /// Sends up to `len` bytes, says that there are no more, and looks at what comes.
    /// True: everything has come back, and the end.
    fn go(&mut self, socket: &mut TcpSocket, len: usize) -> bool {
        let at = self.sent;
        if socket.can_send() && at < len {
            self.sent += socket
                .send(|buffer| {
                    let count = buffer.len().min(len - at);
                    for (n, b) in buffer[..count].iter_mut().enumerate() {
                        *b = byte(at + n);
                    }
                    (count, count)
                })
                .unwrap();
        }
        if self.sent == len && !self.closed && socket.may_send() {
            self.closed = true;
            socket.close();
        }
        while socket.can_recv() {
            let at = self.received;
            self.received += socket
                .recv(|bytes| {
                    let wrong = bytes.iter().enumerate().find(|(n, b)| **b != byte(at + n));
                    assert!(wrong.is_none(), "at {at}: {wrong:?}");
                    (bytes.len(), bytes.len())
                })
                .unwrap();
        }
        self.closed && matches!(socket.state(), State::TimeWait | State::Closed)
    }
}

/// Sends `len` bytes to a server that sends them back.
fn echo(long: bool, weather: Weather, len: usize) -> World {
    let port = servers::tcp(servers::local(), servers::echo);
    let mut world = World::with_address(UserConfig::default(), long);
    world.weather = weather;
    let handle = world.connect((HOST, port).into(), 1000);
    let socket = world.guest.sockets.get_mut::<TcpSocket>(handle);
    // Word of an open window may get lost for good.
    socket.set_keep_alive(Some(smoltcp::time::Duration::from_secs(2)));
    let mut exchange = Exchange::default();
    world.until(|guest| exchange.go(guest.sockets.get_mut(handle), len));
    assert_eq!((exchange.sent, exchange.received), (len, len));
    world
}

const FAIR: Weather = Weather {
    lost: 0,
    late: 0,
    broken: 0,
};
const FOUL: Weather = Weather {
    lost: 20,
    late: 20,
    broken: 0,
};
const FOULER: Weather = Weather { lost: 50, ..FOUL };
const LONG: usize = 8 << 20;

#[test]
fn a_stream_there_and_back() {
    let world = echo(false, FAIR, LONG);
    assert_eq!(world.guest.longs, 0);
}

#[test]
fn a_stream_of_long_segments() {
    let world = echo(true, FAIR, LONG);
    assert!(world.guest.longs > 50, "{}", world.guest.longs);
}

#[test]
fn a_stream_in_foul_weather() {
    echo(false, FOUL, LONG);
}

#[test]
fn a_stream_of_long_segments_in_foul_weather() {
    let world = echo(true, FOULER, LONG);
    assert!(world.guest.longs > 50, "{}", world.guest.longs);
}

#[test]
fn a_stream_to_a_guest_with_little_room() {
    let port = servers::tcp(servers::local(), servers::echo);
    let mut world = World::with_address(UserConfig::default(), false);
    world.guest.room = 1;
    let handle = world.connect((HOST, port).into(), 1000);
    let mut exchange = Exchange::default();
    world.until(|guest| exchange.go(guest.sockets.get_mut(handle), 1 << 20));
    assert_eq!(exchange.received, 1 << 20);
}

#[test]
fn nobody_there_is_a_reset() {
    let mut world = World::with_address(UserConfig::default(), false);
    let listener = std::net::TcpListener::bind(servers::local()).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for to in [(HOST, port), (DNS, 80), ("10.0.2.77".parse().unwrap(), 80)] {
        let handle = world.connect(to.into(), 2000);
        let begin = world.now();
        world.until(|g| g.sockets.get_mut::<TcpSocket>(handle).state() == State::Closed);
        assert!(world.now() - begin < Duration::from_secs(3), "{to:?}");
        world.guest.sockets.remove(handle);
    }
}

#[test]
fn loopback_addresses_are_not_the_hosts() {
    let port = servers::tcp(servers::local(), servers::echo);
    let mut world = World::with_address(UserConfig::default(), false);
    let handle = world.connect((Ipv4Addr::LOCALHOST, port).into(), 2000);
    world.until(|g| g.sockets.get_mut::<TcpSocket>(handle).state() == State::Closed);
}

#[test]
fn the_guest_closes_its_half_first() {
    let job = |mut stream: std::net::TcpStream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&vec![b'x'; 100_000]).unwrap();
    };
    let port = servers::tcp(servers::local(), job);
    let mut world = World::with_address(UserConfig::default(), false);
    let handle = world.connect((HOST, port).into(), 2000);
    let mut received = 0;
    world.until(|guest| {
        let socket = guest.sockets.get_mut::<TcpSocket>(handle);
        if socket.state() == State::Established {
            socket.send_slice(b"hello").unwrap();
            socket.close();
        }
        while socket.can_recv() {
            received += socket.recv(|b| (b.len(), b.len())).unwrap();
        }
        socket.state() == State::TimeWait
    });
    assert_eq!(received, 100_000);
}

#[test]
fn the_host_closes_its_half_first() {
    let job = |mut stream: std::net::TcpStream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 300_000);
    };
    let port = servers::tcp(servers::local(), job);
    let mut world = World::with_address(UserConfig::default(), false);
    let handle = world.connect((HOST, port).into(), 2000);
    let mut left = 300_000;
    world.until(|guest| {
        let socket = guest.sockets.get_mut::<TcpSocket>(handle);
        if socket.state() == State::CloseWait {
            left -= socket.send_slice(&vec![1; left]).unwrap();
            if left == 0 {
                socket.close();
            }
        }
        socket.state() == State::Closed
    });
}

#[test]
fn a_reset_comes_through() {
    let job = |stream: std::net::TcpStream| socket::reset_when_closed(&stream);
    let port = servers::tcp(servers::local(), job);
    let mut world = World::with_address(UserConfig::default(), false);
    let handle = world.connect((HOST, port).into(), 2000);
    world.until(|g| g.sockets.get_mut::<TcpSocket>(handle).state() == State::Closed);
    // And the other way round.
    let listener = std::net::TcpListener::bind(servers::local()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = world.connect((HOST, port).into(), 2001);
    world.until(|g| g.sockets.get_mut::<TcpSocket>(handle).may_send());
    let (mut stream, _) = listener.accept().unwrap();
    world.guest.sockets.get_mut::<TcpSocket>(handle).abort();
    world.wait(Duration::from_millis(50));
    let error = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn hundreds_of_connections_at_once() {
    const COUNT: u16 = 300;
    const LEN: usize = 5_000;
    let port = servers::tcp(servers::local(), servers::echo);
    let mut world = World::with_address(UserConfig::default(), false);
    let mut all: Vec<_> = (0..COUNT)
        .map(|n| {
            (
                world.connect((HOST, port).into(), 3000 + n),
                Exchange::default(),
            )
        })
        .collect();
    world.until(|guest| {
        let done = |(handle, exchange): &mut (SocketHandle, Exchange)| {
            exchange.go(guest.sockets.get_mut(*handle), LEN)
        };
        all.iter_mut().map(done).filter(|done| *done).count() == all.len()
    });
    assert!(all.iter().all(|(_, e)| e.received == LEN));
}

#[test]
fn a_new_driver_ends_connections_with_long_segments() {
    let port = servers::tcp(servers::local(), servers::echo);
    let mut world = World::with_address(UserConfig::default(), true);
    let handle = world.connect((HOST, port).into(), 2000);
    world.until(|g| g.sockets.get_mut::<TcpSocket>(handle).may_send());
    world.net.accepts(Accepts::default());
    world.until(|g| g.sockets.get_mut::<TcpSocket>(handle).state() == State::Closed);
}
