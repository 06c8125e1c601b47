//! From the host to the guest.

use super::*;
use smoltcp::socket::udp;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::thread;

fn forward(transport: Transport, guest_port: u16) -> HostForward {
    HostForward {
        transport,
        host: servers::local(),
        guest: None,
        guest_port,
    }
}

/// A guest's server that sends back what comes.
fn serve(world: &mut World, port: u16) -> SocketHandle {
    let buffer = || SocketBuffer::new(vec![0; 64 << 10]);
    let mut socket = TcpSocket::new(buffer(), buffer());
    socket.listen(port).unwrap();
    world.guest.sockets.add(socket)
}

/// What one end of a thread's does until it is over, while the guest echoes.
fn echo_until(world: &mut World, handle: SocketHandle, job: thread::JoinHandle<()>) {
    world.until(|guest| {
        let socket = guest.sockets.get_mut::<TcpSocket>(handle);
        if socket.can_recv() && socket.send_capacity() > socket.send_queue() {
            let free = socket.send_capacity() - socket.send_queue();
            let mut bytes = vec![0; free];
            let len = socket.recv_slice(&mut bytes).unwrap();
            assert_eq!(socket.send_slice(&bytes[..len]).unwrap(), len);
        }
        if !socket.may_recv() && socket.may_send() {
            socket.close();
        }
        job.is_finished()
    });
    job.join().unwrap();
}

#[test]
fn connections_to_the_guest() {
    for long in [false, true] {
        let mut world = World::with_address(forwarding(vec![forward(Transport::Tcp, 22)]), long);
        let address = world.net.listening().unwrap()[0];
        let handle = serve(&mut world, 22);
        let job = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            let data: Vec<u8> = (0..1_000_000u32)
                .map(|n| (n.wrapping_mul(n) >> 5) as u8)
                .collect();
            let mut reader = stream.try_clone().unwrap();
            let copy = data.clone();
            let reading = thread::spawn(move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).unwrap();
                assert!(all == copy);
            });
            stream.write_all(&data).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            reading.join().unwrap();
        });
        // The guest has said nothing yet: it is asked where it is.
        echo_until(&mut world, handle, job);
        assert_eq!(world.guest.longs > 0, long);
    }
}

#[test]
fn a_guest_that_does_not_want_to() {
    let mut world = World::with_address(forwarding(vec![forward(Transport::Tcp, 22)]), false);
    let address = world.net.listening().unwrap()[0];
    let job = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let error = stream.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    });
    world.until(|_| job.is_finished());
    job.join().unwrap();
}

#[test]
fn a_guest_that_is_not_there_yet() {
    let mut world = World::new(forwarding(vec![forward(Transport::Tcp, 22)]), false);
    let address = world.net.listening().unwrap()[0];
    let handle = serve(&mut world, 22);
    let job = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
    });
    world.wait(Duration::from_secs(5));
    assert!(!job.is_finished());
    world.guest.set_address(GUEST.into(), 24, HOST);
    echo_until(&mut world, handle, job);
}

#[test]
fn datagrams_to_the_guest() {
    let mut world = World::with_address(forwarding(vec![forward(Transport::Udp, 69)]), false);
    let address = world.net.listening().unwrap()[0];
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 8192]);
    let mut server = udp::Socket::new(buffer(), buffer());
    server.bind(69).unwrap();
    let handle = world.guest.sockets.add(server);
    let client = UdpSocket::bind(servers::local()).unwrap();
    client.set_nonblocking(true).unwrap();
    let port = client.local_addr().unwrap().port();
    let mut answer = [0; 64];
    world.until(|guest| {
        // The first ones get lost: nobody knows where the guest is.
        client.send_to(b"ping", address).unwrap();
        let server = guest.sockets.get_mut::<udp::Socket>(handle);
        while let Ok((_, from)) = server.recv() {
            assert_eq!(SocketAddr::from(from.endpoint), (HOST, port).into());
            let _ = server.send_slice(b"pong", from.endpoint);
        }
        match client.recv_from(&mut answer) {
            Ok((len, from)) => {
                assert_eq!((&answer[..len], from), (&b"pong"[..], address));
                true
            }
            Err(_) => false,
        }
    });
}

#[test]
fn an_address_that_is_taken_is_refused() {
    let taken = std::net::TcpListener::bind(servers::local()).unwrap();
    let mut wanted = forward(Transport::Tcp, 22);
    wanted.host = taken.local_addr().unwrap();
    let error = UserNet::new(forwarding(vec![wanted.clone()]))
        .err()
        .unwrap();
    assert!(error.to_string().contains(&wanted.host.to_string()));
    let mut wanted = forward(Transport::Tcp, 22);
    wanted.guest = Some(Ipv4Addr::new(192, 168, 1, 1).into());
    assert!(UserNet::new(forwarding(vec![wanted])).is_err());
}
