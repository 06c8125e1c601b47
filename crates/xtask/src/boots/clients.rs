//! The boot test of other people's programs at a machine: QEMU's clients of QMP,
//! telnet and socat at monitors, a shell on a pseudo-terminal, and host ends that
//! keep what a guest says.

use super::{Devices, PATIENCE, PROMPT, converse};
use crate::expect::Session;
use crate::paths::TempFolder;
use crate::process::output_of;
use crate::setup::qmp_clients;
use anyhow::{Context, Result, ensure};
use std::process::Command;

pub(super) const DEVICES: Devices = Devices {
    modules: &[],
    act: clients,
};

pub(super) const OPTIONS: &[&str] = &[
    "-name",
    "visited",
    "-serial",
    "mon:stdio",
    "-serial",
    "pty",
    "-chardev",
    "ringbuf,id=ring,size=4096",
    "-serial",
    "chardev:ring",
    "-serial",
    "file:{folder}/com4",
    "-qmp",
    "unix:{folder}/qmp,server=on,wait=off",
    "-monitor",
    "telnet:127.0.0.1:{port},server=on,wait=off",
    "-monitor",
    "unix:{folder}/hmp,server=on,wait=off",
];

pub(super) const STEPS: &[(&str, &str)] = &[];

/// What QEMU's library is used for: commands, events, errors, the schema.
const LIBRARY: &str = "
import asyncio, sys
from qemu.qmp import QMPClient, ExecuteError

async def main(path):
    qmp = QMPClient('test')
    await qmp.connect(path)
    print('status', (await qmp.execute('query-status'))['status'])
    with qmp.listener(('STOP', 'RESUME')) as events:
        await qmp.execute('stop')
        await qmp.execute('cont')
        async for event in events:
            print('event', event['event'])
            if event['event'] == 'RESUME':
                break
    try:
        await qmp.execute('no-such-command')
    except ExecuteError as error:
        print('error', error.error_class)
    print('schema', len(await qmp.execute('query-qmp-schema')) > 50)
    await qmp.disconnect()

asyncio.run(main(sys.argv[1]))
";

fn clients(session: &mut Session, folder: &TempFolder) -> Result<()> {
    session.expect(PROMPT, PATIENCE)?;
    session.send("stty -F /dev/ttyS2 raw; echo into a ring > /dev/ttyS2; echo to a file > /dev/ttyS3; echo said $?\r")?;
    session.expect("\nsaid 0", PATIENCE)?;
    library(folder).context("qemu.qmp")?;
    shell(folder).context("qmp-shell")?;
    telnet(folder).context("telnet")?;
    socat(folder).context("socat at the monitor")?;
    pseudo_terminal(session).context("the pseudo-terminal")?;
    let file = std::fs::read_to_string(folder.path("com4"))?;
    ensure!(file.contains("to a file"), "the file holds '{file}'");
    session.send("\r")?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("poweroff\r")
}

fn library(folder: &TempFolder) -> Result<()> {
    let mut python = Command::new(qmp_clients()?.join("python3"));
    python.args(["-c", LIBRARY]).arg(folder.path("qmp"));
    let said = output_of(&mut python)?;
    let want = "status running\nevent STOP\nevent RESUME\nerror CommandNotFound\nschema True\n";
    ensure!(said == want, "it said '{said}'");
    Ok(())
}

/// Types what is to be typed when what is waited for has come.
fn talk(mut command: Command, steps: &[(&str, &str)]) -> Result<()> {
    let mut session = Session::start(command.env("TERM", "dumb"))?;
    converse(&mut session, steps)
}

fn shell(folder: &TempFolder) -> Result<()> {
    const PROMPT: &str = "(QEMU) ";
    let mut command = Command::new(qmp_clients()?.join("qmp-shell"));
    command.arg(folder.path("qmp"));
    talk(
        command,
        &[
            (PROMPT, "query-name\r"),
            ("visited", ""),
            (PROMPT, "ringbuf-read device=ring size=100\r"),
            ("into a ring", ""),
            (PROMPT, "device_add driver=virtio-rng-pci id=late\r"),
            ("{\"return\": {}}", ""),
            (PROMPT, "device_add driver=virtio-rng-pci id=late\r"),
            ("GenericError", ""),
            (PROMPT, "exit\r"),
        ],
    )
}

fn telnet(folder: &TempFolder) -> Result<()> {
    let mut command = Command::new("telnet");
    command.arg("127.0.0.1").arg(folder.port()?.to_string());
    talk(
        command,
        &[
            ("(qemu) ", "info name\r"),
            ("visited", ""),
            ("(qemu) ", "stop\r"),
            ("(qemu) ", "info status\r"),
            ("paused", ""),
            ("(qemu) ", "cont\r"),
            ("(qemu) ", "\x1d"),
            ("telnet> ", "quit\r"),
            ("closed", ""),
        ],
    )
}

fn socat(folder: &TempFolder) -> Result<()> {
    let mut command = Command::new("socat");
    command.args(["-", &folder.fill_in("UNIX-CONNECT:{folder}/hmp")?]);
    talk(
        command,
        &[
            ("(qemu) ", "info status\r"),
            ("running", ""),
            ("(qemu) ", "info chardev\r"),
            ("serial1: filename=pty:/dev/pts/", ""),
        ],
    )
}

/// Its name is what the machine said at its start.
fn pseudo_terminal(session: &mut Session) -> Result<()> {
    let output = session.output();
    let name = output.split("/dev/pts/").nth(1);
    let number: String = name
        .context("no name was said")?
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    session.send("setsid sh -c 'exec sh -i < /dev/ttyS1 > /dev/ttyS1 2>&1' &\r")?;
    let mut command = Command::new("socat");
    command.args(["-", &format!("OPEN:/dev/pts/{number},raw,echo=0")]);
    let mut terminal = Session::start(&mut command)?;
    terminal.send("\r")?;
    terminal.expect("# ", PATIENCE)?;
    terminal.send("echo on $(tty) $((6 * 7))\r")?;
    terminal.expect("on /dev/ttyS1 42", PATIENCE)?;
    Ok(())
}
