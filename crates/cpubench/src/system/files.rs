//! Files in memory, and what the kernel copies.

use super::os::{OneCpu, Pipe, Process};
use crate::row::{Outcome, attempt, mix};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};

const NAME: &str = "cpubench-file";

/// Makes a file of 100 bytes, closes it, looks at it, removes it.
pub(super) fn create(count: u64) -> io::Result<Outcome> {
    attempt(|| {
        (0..count).try_fold(0, |sum, round| {
            File::create(NAME)?.write_all(&[round as u8; 100])?;
            let length = fs::metadata(NAME)?.len();
            fs::remove_file(NAME)?;
            Ok(mix(sum, length))
        })
    })
}

/// Writes 4 KiB at a time, in a file of 256 KiB that is there.
pub(super) fn write(count: u64) -> io::Result<Outcome> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(NAME)?;
    fs::remove_file(NAME)?;
    file.write_all(&[0; 256 << 10])?;
    attempt(|| {
        let mut chunk = [1; 4096];
        for round in 0..count {
            if round % 64 == 0 {
                file.seek(SeekFrom::Start(0))?;
            }
            chunk[round as usize % 4096] ^= round as u8;
            file.write_all(&chunk)?;
        }
        let mut all = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut all)?;
        Ok(all.iter().step_by(61).fold(0, |sum, &b| mix(sum, b.into())))
    })
}

/// Reads 1 MiB of a file in one call.
pub(super) fn kernel_copy(count: u64) -> io::Result<Outcome> {
    const LENGTH: usize = 1 << 20;
    fs::write(
        NAME,
        (0..LENGTH).map(|i| (i / 7) as u8).collect::<Vec<u8>>(),
    )?;
    let mut file = File::open(NAME)?;
    fs::remove_file(NAME)?;
    let mut buffer = vec![0; LENGTH];
    attempt(|| {
        (0..count).try_fold(0, |sum, round| {
            file.seek(SeekFrom::Start(0))?;
            file.read_exact(&mut buffer)?;
            Ok(mix(sum, buffer[round as usize * 4099 % LENGTH].into()))
        })
    })
}

/// 64 KiB through a pipe to another process, which adds up what comes.
pub(super) fn pipe_bulk(count: u64) -> io::Result<Outcome> {
    const CHUNK: usize = 64 << 10;
    let _one = OneCpu::here()?;
    let Pipe {
        mut reader,
        mut writer,
    } = {
        let pipe = Pipe::new()?;
        pipe.grow(CHUNK as i32)?;
        pipe
    };
    let receive = |reader: &mut io::PipeReader| -> io::Result<u8> {
        let mut buffer = vec![0; CHUNK];
        (0..count).try_fold(0u8, |sum, _| {
            reader.read_exact(&mut buffer)?;
            Ok(sum.wrapping_mul(3).wrapping_add(buffer[CHUNK - 1]))
        })
    };
    attempt(|| {
        let child = Process::fork(|| receive(&mut reader).unwrap_or(0))?;
        let mut buffer = vec![0; CHUNK];
        for round in 0..count {
            buffer[CHUNK - 1] = round as u8 | 1;
            writer.write_all(&buffer)?;
        }
        Ok(mix(0, child.wait()?.into()))
    })
}
