//! A Debian behind the user-mode network: it loads a large file, has thousands of
//! connections at once, and installs a package.

use super::record;
use crate::home::Home;
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

/// Connections that are open at the same time.
const MANY: usize = 2000;
/// Bytes of which the file consists, again and again.
const PART: usize = 64 << 20;
/// The host, as the guest sees it.
const HOST: &str = "10.0.2.2";
/// A package that is small and not there.
const PACKAGE: &str = "hello";

pub(super) fn run(gibibytes: usize) -> Result<bool> {
    let commit = record::commit();
    let what = format!(
        "Debian behind the user-mode network: {gibibytes} GiB loaded, {MANY} connections at once, apt-get install"
    );
    let home = Home::new("network", "soft")?;
    let verdict = all(&home, gibibytes);
    let (good, measured) = match verdict {
        Ok(measured) => (true, measured),
        Err(why) => (false, format!("{why:#}")),
    };
    println!("{measured}");
    let guest = home.sh(". /etc/os-release; echo $PRETTY_NAME, $(uname -r)");
    let guest = guest.unwrap_or_default().trim_end().to_string();
    record::append(&commit, &what, good, &measured, &guest)?;
    Ok(good)
}

fn all(home: &Home, gibibytes: usize) -> Result<String> {
    home.run(&[
        "run", "debian", "--name", "network", "--detach", "--memory", "1G",
    ])?;
    let load = load(home, gibibytes).context("loading")?;
    println!("loaded: {load}");
    let many = many(home).context("many connections")?;
    println!("many connections: {many}");
    let install = install(home).context("apt-get")?;
    Ok(format!("{load}; {many}; {install}"))
}

/// The guest's checksum of what a server of the host's sends is the host's own.
fn load(home: &Home, gibibytes: usize) -> Result<String> {
    let part: Vec<u8> = (0..PART as u64 / 8).flat_map(scattered).collect();
    let times = gibibytes * ((1 << 30) / PART);
    let mut md5sum = Command::new("md5sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = md5sum.stdin.take().context("md5sum")?;
    for _ in 0..times {
        input.write_all(&part)?;
    }
    drop(input);
    let sum = String::from_utf8(md5sum.wait_with_output()?.stdout)?;
    let (port, serving) = serve(move |server| {
        let (mut stream, _) = server.accept()?;
        for _ in 0..times {
            stream.write_all(&part)?;
        }
        Ok(())
    })?;
    let begin = Instant::now();
    let line = format!("exec 3<>/dev/tcp/{HOST}/{port}; md5sum <&3");
    let came = home.exec(&["bash", "-c", &line])?;
    let seconds = begin.elapsed().as_secs_f64();
    join(serving)?;
    ensure!(came == sum, "{came} came of {sum}");
    Ok(format!(
        "{gibibytes} GiB intact in {seconds:.1} s, md5sum included"
    ))
}

fn scattered(n: u64) -> [u8; 8] {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(23)
        .to_le_bytes()
}

/// All are open before the first is answered; each gets back its own number.
fn many(home: &Home) -> Result<String> {
    raise_open_files()?;
    let (port, serving) = serve(|server| {
        let accept = |_| Ok(server.accept()?.0);
        let all: Vec<TcpStream> = (0..MANY).map(accept).collect::<Result<_>>()?;
        for mut stream in all {
            let mut line = [0; 5];
            stream.read_exact(&mut line)?;
            stream.write_all(&line)?;
        }
        Ok(())
    })?;
    let line = format!(
        "ulimit -n 8192; for i in $(seq -f %04g {MANY}); do exec {{fd}}<>/dev/tcp/{HOST}/{port} || exit 1; \
         echo $i >&$fd; all+=($fd); done; n=0; for fd in ${{all[@]}}; do n=$((n + 1)); read -r -u $fd x; \
         [ $x = $(printf %04d $n) ] || exit 2; done; echo right $n"
    );
    let begin = Instant::now();
    let said = home.exec(&["bash", "-c", &line])?;
    let seconds = begin.elapsed().as_secs_f64();
    join(serving)?;
    ensure!(said == format!("right {MANY}\n"), "the guest said '{said}'");
    Ok(format!(
        "{MANY} connections, all answered, in {seconds:.1} s"
    ))
}

/// For the server; the machine runs already, and sees to that itself.
fn raise_open_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current, ..limit })?)
}

fn install(home: &Home) -> Result<String> {
    let begin = Instant::now();
    home.sh(&format!(
        "apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install {PACKAGE}"
    ))?;
    let seconds = begin.elapsed().as_secs_f64();
    let said = home.exec(&[PACKAGE])?;
    ensure!(said.contains("Hello, world!"), "it says '{said}'");
    // What is on the guest's disk is what Debian has.
    home.sh(&format!("dpkg --verify {PACKAGE} | grep . && exit 1; true"))?;
    Ok(format!(
        "apt-get update and install of {PACKAGE} in {seconds:.1} s"
    ))
}

/// A server on the host's loopback: its port, and the thread that serves.
fn serve(
    what: impl FnOnce(TcpListener) -> Result<()> + Send + 'static,
) -> Result<(u16, JoinHandle<Result<()>>)> {
    let server = TcpListener::bind("127.0.0.1:0")?;
    let port = server.local_addr()?.port();
    Ok((port, std::thread::spawn(move || what(server))))
}

fn join(serving: JoinHandle<Result<()>>) -> Result<()> {
    match serving.join() {
        Ok(served) => served.context("the server"),
        Err(_) => bail!("the server panicked"),
    }
}
