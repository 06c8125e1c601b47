//! fio: its jobs, its call and what it says.

use super::images::Disk;
use crate::bench::guest::{Guest, Kit};
use crate::process::output_of;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

pub(super) const PROGRAM: &str = "fio";

/// One job.
pub(super) struct Job {
    pub(super) name: &'static str,
    /// fio's `rw`.
    pattern: &'static str,
    block: &'static str,
    depth: u32,
}

const fn job(name: &'static str, pattern: &'static str, block: &'static str, depth: u32) -> Job {
    Job {
        name,
        pattern,
        block,
        depth,
    }
}

/// Reads first: writes fill the overlays.
pub(super) const JOBS: [Job; 8] = [
    job("4k random read 1", "randread", "4k", 1),
    job("4k random read 32", "randread", "4k", 32),
    job("1M read 1", "read", "1M", 1),
    job("1M read 32", "read", "1M", 32),
    job("4k random write 1", "randwrite", "4k", 1),
    job("4k random write 32", "randwrite", "4k", 32),
    job("1M write 1", "write", "1M", 1),
    job("1M write 32", "write", "1M", 32),
];

/// fio's words for a job on `file`. Warm-up is not counted.
pub(super) fn words(job: &Job, file: &str, direct: bool, seconds: u32) -> Vec<String> {
    [
        "--name=x",
        "--ioengine=libaio",
        "--thread",
        "--time_based",
        "--ramp_time=1",
        "--output-format=terse",
        "--terse-version=3",
    ]
    .map(str::to_string)
    .into_iter()
    .chain([
        format!("--filename={file}"),
        format!("--direct={}", u8::from(direct)),
        format!("--rw={}", job.pattern),
        format!("--bs={}", job.block),
        format!("--iodepth={}", job.depth),
        format!("--runtime={seconds}"),
    ])
    .collect()
}

/// What a guest needs.
pub(super) const KIT: Kit = Kit {
    programs: &[PROGRAM],
    modules: &[],
};

/// The job on a guest's disk; MB/s.
pub(super) fn in_guest(guest: &mut Guest, disk: &Disk, job: &Job, seconds: u32) -> Result<f64> {
    let file = format!("/dev/vd{}", disk.letter());
    let words = words(job, &file, true, seconds).join(" ");
    let said = guest.say(&format!("{PROGRAM} {words}"), seconds)?;
    throughput(&said).with_context(|| format!("{} {}", disk.name, job.name))
}

/// The job on the host's own file; MB/s.
pub(super) fn native(file: &Path, disk: &Disk, job: &Job, seconds: u32) -> Result<f64> {
    let mut command = Command::new(PROGRAM);
    command.args(words(
        job,
        &file.display().to_string(),
        disk.direct(),
        seconds,
    ));
    throughput(&output_of(&mut command)?)
}

/// MB/s in fio's terse output, version 3: read and write bandwidth in KiB/s
/// are the fields 7 and 48, the error is field 5.
pub(super) fn throughput(text: &str) -> Result<f64> {
    let line = text.lines().find(|l| l.starts_with("3;"));
    let line = line.with_context(|| format!("fio said: {}", text.trim()))?;
    let fields: Vec<&str> = line.trim_end().split(';').collect();
    let number = |at: usize| -> Result<f64> {
        let field = fields.get(at - 1).context("fio's line is short")?;
        field.parse().with_context(|| format!("fio's field {at}"))
    };
    if number(5)? != 0.0 {
        bail!("fio's job failed: error {}", number(5)?);
    }
    let kib = number(7)? + number(48)?;
    match kib > 0.0 {
        true => Ok(kib * 1024.0 / 1e6),
        false => bail!("fio moved nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terse_lines_are_understood() {
        let mut fields = vec!["0"; 130];
        (fields[0], fields[1]) = ("3", "fio-3.33");
        fields[6] = "1000";
        let line = |f: &[&str]| format!("noise\n{}\n", f.join(";"));
        assert_eq!(throughput(&line(&fields)).unwrap(), 1.024);
        fields[47] = "2000";
        assert_eq!(throughput(&line(&fields)).unwrap(), 3.072);
        fields[4] = "5";
        assert!(throughput(&line(&fields)).is_err());
        assert!(throughput("fio: no such file").is_err());
    }
}
