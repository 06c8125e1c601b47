//! Servers on the loopback interface.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

/// A thread for each connection does `job` with it.
pub(super) fn tcp(address: SocketAddr, job: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || job(stream));
        }
    });
    port
}

pub(super) fn local() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Sends back what comes, until nothing comes any more.
pub(super) fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len) = stream.read(&mut buffer)
        && len > 0
        && stream.write_all(&buffer[..len]).is_ok()
    {}
}

/// Answers each datagram with the same in capitals.
pub(super) fn udp(address: SocketAddr) -> u16 {
    let socket = UdpSocket::bind(address).unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            buffer[..len].make_ascii_uppercase();
            let _ = socket.send_to(&buffer[..len], peer);
        }
    });
    port
}
