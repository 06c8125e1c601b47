//! The boot test of the user-mode network: Linux gets its address by DHCP, loads a
//! file from the host, and answers somebody who comes through a forwarded port.

use super::{Devices, PATIENCE, PROMPT};
use crate::expect::Session;
use crate::paths::TempFolder;
use crate::process::output_of;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Bytes that the guest loads, and that it sends back.
const FILE: usize = 64 << 20;
const ECHO: usize = 8 << 20;

pub(super) const DEVICES: Devices = Devices {
    modules: &["failover", "net_failover", "virtio_net"],
    act: use_network,
};

pub(super) const OPTIONS: &[&str] = &["-nic", "user,hostfwd=tcp:127.0.0.1:{port}-:7000"];

pub(super) const MICROVM_OPTIONS: &[&str] = &[
    "-M",
    "microvm",
    "-nic",
    "user,net=192.168.76.0/24,hostfwd=tcp:127.0.0.1:{port}-:7000",
];

pub(super) const STEPS: &[(&str, &str)] = &[
    (PROMPT, super::boards::LOAD),
    ("\nin 0", ""),
    (
        PROMPT,
        "echo 'case $1 in bound) ip addr add $ip/24 dev $interface; ip route add default via $router; echo router=$router > /net; echo nameserver $dns;; esac' > /dhcp; chmod +x /dhcp\r",
    ),
    (
        PROMPT,
        "sed -i '1i#!/bin/sh' /dhcp; ip link set eth0 up; udhcpc -i eth0 -s /dhcp -n -q; . /net; ping -c 1 $router\r",
    ),
    ("\nnameserver ", ""),
    (" 0% packet loss", ""),
];

fn use_network(session: &mut Session, folder: &TempFolder) -> Result<()> {
    load_file(session, &folder.path("file"))?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("nc -l -p 7000 -e cat & sleep 1; echo listens $?\r")?;
    session.expect("\nlistens 0", PATIENCE)?;
    echo(folder.port()?)?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("poweroff\r")
}

/// The guest loads a file from a server on the host's loopback.
fn load_file(session: &mut Session, file: &Path) -> Result<()> {
    let bytes: Vec<u8> = (0..FILE as u64 / 8).flat_map(scattered).collect();
    std::fs::write(file, &bytes)?;
    let sum = output_of(Command::new("md5sum").arg(file))?;
    let sum = sum.split(' ').next().context("md5sum")?;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let port = server.local_addr()?.port();
    let serving = std::thread::spawn(move || serve(&server, &bytes));
    session.expect(PROMPT, PATIENCE)?;
    session.send(&format!(
        "wget -q -O - http://$router:{port}/file | md5sum\r"
    ))?;
    session.expect(sum, PATIENCE)?;
    match serving.join() {
        Ok(served) => served.context("the server"),
        Err(_) => bail!("the server panicked"),
    }
}

/// Some bytes that are like no others.
fn scattered(n: u64) -> [u8; 8] {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(31)
        .to_le_bytes()
}

/// Answers one request of HTTP.
fn serve(server: &TcpListener, bytes: &[u8]) -> Result<()> {
    let (mut stream, _) = server.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        let n = stream.read(&mut buffer)?;
        if n == 0 || request.len() > 1 << 16 {
            bail!("that is no request");
        }
        request.extend(&buffer[..n]);
    }
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    )?;
    Ok(stream.write_all(bytes)?)
}

/// The guest sends back what comes through the forwarded port.
fn echo(port: u16) -> Result<()> {
    let limit = Instant::now() + PATIENCE;
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let sent: Vec<u8> = (0..ECHO as u64 / 8).flat_map(scattered).collect();
    let mut there = stream.try_clone()?;
    let sending = {
        let sent = sent.clone();
        std::thread::spawn(move || there.write_all(&sent))
    };
    let mut came = vec![0; ECHO];
    stream.read_exact(&mut came).context("from the guest")?;
    if came != sent || Instant::now() > limit + Duration::from_secs(1) {
        bail!("other bytes came back than were sent");
    }
    match sending.join() {
        Ok(sent) => Ok(sent?),
        Err(_) => bail!("the sender panicked"),
    }
}
