//! The machines' folders.

use crate::unfinished::Unfinished;
use crate::{check_name, places};
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a machine is made of; `vm.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Of the image that its disk is laid over.
    pub image: String,
    /// Processors.
    pub cpus: u32,
    /// As `-m` takes it.
    pub memory: String,
    /// Port of the host's loopback that leads to the guest's ssh.
    pub ssh_port: u16,
    /// `ADDR:PORT-:PORT`, as `hostfwd=` takes them after `tcp:`.
    pub publish: Vec<String>,
    /// Folders of the host with the guest's tags for them.
    pub shares: Vec<(PathBuf, String)>,
    /// More options of `trapeze system`.
    pub options: Vec<String>,
}

/// How a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A process runs it.
    Running,
    /// It ended by itself or was told to.
    Stopped,
    /// Its process went away without a word.
    Killed,
}

impl State {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
        }
    }
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// What it is made of.
    pub config: Config,
}

/// What folders begin with that are no machines yet, and no more.
const NEW: &str = ".new.";
const OLD: &str = ".old.";

/// The folder of all.
fn all() -> Result<PathBuf> {
    Ok(places::state()?.join("vms"))
}

/// Every machine, by name. A folder without a description is being removed.
///
/// # Errors
/// The host's, or a description is damaged.
pub fn list() -> Result<Vec<Vm>> {
    let Ok(entries) = fs::read_dir(all()?) else {
        return Ok(Vec::new());
    };
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|n| check_name(n).is_ok()).collect();
    names.sort();
    names.iter().filter_map(|n| find(n).transpose()).collect()
}

/// The machine of that name, if there is one.
///
/// # Errors
/// The name is none, or its description is damaged.
pub fn find(name: &str) -> Result<Option<Vm>> {
    check_name(name)?;
    let folder = all()?.join(name);
    let Ok(text) = fs::read_to_string(folder.join("vm.json")) else {
        return Ok(None);
    };
    let config = serde_json::from_str(&text)
        .with_context(|| format!("{} is damaged", folder.join("vm.json").display()))?;
    Ok(Some(Vm {
        name: name.into(),
        folder,
        config,
    }))
}

/// Refuses a name that a machine has.
///
/// # Errors
/// That, or it can be no name.
pub fn check_free(name: &str) -> Result<()> {
    match find(name)? {
        Some(_) => Err(in_use(name)),
        None => Ok(()),
    }
}

fn in_use(name: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "the name '{name}' is in use; 'trapeze start {name}' starts that machine again, \
         'trapeze rm {name}' removes it"
    )
}

/// Names of sockets are short (unix(7)), wherever a machine is.
fn check_length(folder: &Path) -> Result<()> {
    const MOST: usize = 107;
    let longest = folder.join("console.sock").as_os_str().len();
    if longest > MOST {
        bail!(
            "{} has {longest} bytes with a socket's name, and sockets may have {MOST}: set \
             XDG_STATE_HOME to a folder with a shorter name",
            folder.display()
        );
    }
    Ok(())
}

/// Removes what creations and removals left that were killed: nobody holds its
/// lock.
fn sweep(all: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with(NEW) && !name.starts_with(OLD) {
            continue;
        }
        let lock = File::open(entry.path().join("lock"));
        if !lock.is_ok_and(|l| l.try_lock().is_err()) {
            // What cannot be removed now is tried again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Vm {
    /// Takes the name, or a free one that begins with `name` if it is not
    /// `exact`. `fill` makes what belongs into the folder first: who comes
    /// second, or is interrupted, leaves nothing of that name.
    ///
    /// # Errors
    /// The name is in use, or what `fill` says.
    pub fn create(
        name: &str,
        exact: bool,
        config: Config,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        check_name(name)?;
        let all = all()?;
        check_length(&all.join(name))?;
        places::make(&all)?;
        let new = all.join(format!("{NEW}{}", std::process::id()));
        let begin = places::lock(&all.join(".lock"))?;
        sweep(&all);
        let _unfinished = Unfinished::new(&new)?;
        let _lock = places::lock(&new.join("lock"))?;
        drop(begin);
        places::write(
            &new.join("vm.json"),
            &serde_json::to_string_pretty(&config)?,
        )?;
        fill(&new)?;
        for number in 1.. {
            let name = match number {
                1 => name.to_string(),
                n => format!("{name}-{n}"),
            };
            let folder = all.join(&name);
            match fs::rename(&new, &folder) {
                Ok(()) => {
                    return Ok(Self {
                        name,
                        folder,
                        config,
                    });
                }
                Err(_) if folder.exists() && !exact => {}
                Err(_) if folder.exists() => return Err(in_use(&name)),
                Err(why) => return Err(why).with_context(|| folder.display().to_string()),
            }
        }
        bail!("no name is left");
    }

    /// A file of the machine's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes down what it is made of.
    ///
    /// # Errors
    /// The host's.
    pub fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.config)?;
        places::write(&self.path("vm.json"), &text)
    }

    /// Until it is dropped nobody else starts or removes the machine.
    ///
    /// # Errors
    /// It has been removed, or the host's.
    pub fn lock(&self) -> Result<File> {
        let gone = || format!("{} has been removed", self.name);
        if !self.folder.exists() {
            bail!(gone());
        }
        let path = self.path("lock");
        let file = places::lock(&path)?;
        let there = fs::metadata(&path).with_context(gone)?;
        // Another machine may have got the name while we waited.
        if there.ino() != file.metadata()?.ino() {
            bail!(gone());
        }
        Ok(file)
    }

    /// How it is. Who holds its lock starts it or removes it.
    pub fn state(&self) -> State {
        let guard = File::open(self.path("lock"));
        let busy = guard.as_ref().is_ok_and(|f| f.try_lock_shared().is_err());
        match busy {
            true if self.path("pid").exists() => State::Running,
            true => State::Stopped,
            false => self.state_under_lock(),
        }
    }

    /// The same for who holds the machine's lock. The pid file's lock, which
    /// the process holds, says so; only under the machine's own lock may one
    /// try that, since a process that starts would find it taken.
    pub(crate) fn state_under_lock(&self) -> State {
        let path = self.path("pid");
        let Ok(file) = File::open(&path) else {
            return State::Stopped;
        };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => State::Running,
            // It ended between the two looks.
            _ if !path.exists() => State::Stopped,
            _ => State::Killed,
        }
    }

    /// The process's number, while it runs.
    pub fn pid(&self) -> Option<i32> {
        let running = self.state() == State::Running;
        let text = fs::read_to_string(self.path("pid")).ok()?;
        text.trim().parse().ok().filter(|_| running)
    }

    /// The process, while it runs. The descriptor is opened before the machine
    /// is seen to run, so it cannot be another's.
    pub fn process(&self) -> Option<Process> {
        let pid = self.pid()?;
        let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        (self.pid() == Some(pid)).then_some(Process(process))
    }

    /// Removes all of it. It must not run.
    ///
    /// # Errors
    /// It runs, or the host's.
    pub fn remove(&self) -> Result<()> {
        let _lock = self.lock()?;
        if self.state_under_lock() == State::Running {
            bail!(
                "{0} runs; 'trapeze stop {0}' ends it, 'trapeze rm --force {0}' does both",
                self.name
            );
        }
        let old = format!("{OLD}{}.{}", self.name, std::process::id());
        let old = self.folder.with_file_name(old);
        fs::rename(&self.folder, &old).with_context(|| self.folder.display().to_string())?;
        match fs::remove_dir_all(&old) {
            // Somebody who swept may have been faster.
            Err(why) if old.exists() => Err(why).with_context(|| old.display().to_string()),
            _ => Ok(()),
        }
    }
}

/// A machine's process. Its pid file goes a moment before it does, and its ports
/// with it.
pub struct Process(OwnedFd);

impl Process {
    /// Sends it a signal.
    ///
    /// # Errors
    /// The host's.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(why) => Err(why).context("a signal to the machine"),
        }
    }

    /// Waits until it has ended; false if that takes longer.
    pub fn wait(&self, patience: Duration) -> bool {
        let begin = Instant::now();
        loop {
            let left = patience.saturating_sub(begin.elapsed());
            let left = Timespec {
                tv_sec: left.as_secs().min(1 << 30) as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)) {
                Err(Errno::INTR) => {}
                ended => return ended.is_ok_and(|n| n > 0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(test: &str) -> Vm {
        let folder = std::env::temp_dir().join(format!("vms-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let config = Config {
            image: "i".into(),
            cpus: 1,
            memory: "1G".into(),
            ssh_port: 1,
            publish: vec![],
            shares: vec![],
            options: vec![],
        };
        Vm {
            name: "v".into(),
            folder,
            config,
        }
    }

    /// The number in the file is that of a process that runs, this one, but it
    /// does not hold the lock: the machine's process is gone.
    #[test]
    fn a_number_that_another_process_has_now_is_not_the_machine() {
        let vm = vm("reuse");
        assert_eq!(vm.state(), State::Stopped);
        fs::write(vm.path("pid"), std::process::id().to_string()).unwrap();
        assert_eq!((vm.state(), vm.pid()), (State::Killed, None));
        assert!(vm.process().is_none());
        let holder = File::open(vm.path("pid")).unwrap();
        holder.lock().unwrap();
        assert_eq!(vm.state(), State::Running);
        assert_eq!(vm.pid(), Some(std::process::id() as i32));
        let process = vm.process().unwrap();
        assert!(!process.wait(Duration::ZERO));
        assert!(vm.remove().unwrap_err().to_string().contains("rm --force"));
        drop(holder);
        assert!(vm.process().is_none());
        vm.remove().unwrap();
        assert!(!vm.folder.exists());
    }

    #[test]
    fn a_process_is_waited_for() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let process = Process(pidfd_open(pid, PidfdFlags::empty()).unwrap());
        assert!(!process.wait(Duration::from_millis(1)));
        process.signal(Signal::KILL).unwrap();
        assert!(process.wait(Duration::from_secs(60)));
        assert!(!child.wait().unwrap().success());
        // It is nobody's any more.
        process.signal(Signal::KILL).unwrap();
    }
}
