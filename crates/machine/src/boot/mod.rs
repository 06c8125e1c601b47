//! Direct kernel boot: loads kernel, initrd and command line, and says in
//! which state the bootstrap processor must start.

mod bytes;
mod bzimage;
mod elf;
mod firmware;
mod linux_params;
mod pvh;
mod start;

pub use firmware::firmware_state;
pub use start::{EntryMode, Start, apply};

use crate::config::{Image, MachineConfig};
use crate::layout::{Layout, PAGE, boot};
use crate::outcome::{Error, Result};
use crate::ram::GuestRam;

/// Where a kernel went and what it wants.
pub struct LoadedKernel {
    /// How it starts.
    pub entry: Entry,
    /// First byte behind everything the kernel needs while it unpacks.
    pub end: u64,
    /// Highest address an initrd may occupy.
    pub initrd_max: u64,
    /// Longest command line it takes, without the NUL.
    pub cmdline_max: usize,
}

/// The boot protocol and entry point.
pub enum Entry {
    /// Linux boot protocol: parameters, address and mode of the entry.
    Linux {
        /// The setup header, in a zero page.
        params: Box<linux_params::ZeroPage>,
        /// Entry point.
        rip: u64,
        /// 32-bit or 64-bit.
        mode: EntryMode,
    },
    /// PVH: 32-bit entry.
    Pvh {
        /// Entry point.
        rip: u64,
    },
}

/// An initrd in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct LoadedInitrd {
    /// Guest-physical start.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
}

/// Loads everything `config` names. `rsdp` is where the ACPI tables start.
pub fn load(config: &MachineConfig, layout: &Layout, ram: &GuestRam, rsdp: u64) -> Result<Start> {
    let image = config.kernel.as_ref().ok_or(Error::NoKernel)?;
    let kernel = load_kernel(image, layout, ram).map_err(|why| Error::Kernel {
        name: image.name(),
        why,
    })?;
    write_cmdline(&config.cmdline, kernel.cmdline_max, ram)?;
    let initrd = match &config.initrd {
        None => None,
        Some(image) => {
            Some(
                load_initrd(image, &kernel, layout, ram).map_err(|why| Error::Initrd {
                    name: image.name(),
                    why,
                })?,
            )
        }
    };
    let written = match kernel.entry {
        Entry::Linux {
            mut params,
            rip,
            mode,
        } => {
            params.finish(layout, initrd, rsdp);
            params.write(ram).map(|()| Start {
                rip,
                mode,
                info: boot::ZERO_PAGE,
            })
        }
        Entry::Pvh { rip } => pvh::write_info(layout, initrd, rsdp, ram).map(|()| Start {
            rip,
            mode: EntryMode::Pvh,
            info: boot::PVH_INFO,
        }),
    };
    let start = written.and_then(|start| start::write_tables(ram).map(|()| start));
    start.map_err(|e| Error::Kernel {
        name: image.name(),
        why: format!("boot data at {:#x} does not fit into RAM", e.gpa),
    })
}

fn load_kernel(
    image: &Image,
    layout: &Layout,
    ram: &GuestRam,
) -> std::result::Result<LoadedKernel, String> {
    let bytes = image.read(layout.low_end)?;
    if bytes.is_empty() {
        return Err("is empty".into());
    }
    if bytes.starts_with(elf::MAGIC) {
        pvh::load(&bytes, layout, ram)
    } else {
        bzimage::load(&bytes, layout, ram)
    }
}

fn write_cmdline(cmdline: &str, max: usize, ram: &GuestRam) -> Result<()> {
    let max = max.min(boot::CMDLINE_MAX - 1);
    let refuse = |why: String| Err(Error::Cmdline(why));
    if cmdline.len() > max {
        return refuse(format!(
            "{} bytes long, the kernel takes at most {max}",
            cmdline.len()
        ));
    }
    if cmdline.contains('\0') {
        return refuse("contains a NUL byte".into());
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    match ram.write(boot::CMDLINE, &bytes) {
        Ok(()) => Ok(()),
        Err(_) => refuse("does not fit into RAM".into()),
    }
}

/// Puts the initrd as high as the kernel allows, page-aligned.
fn load_initrd(
    image: &Image,
    kernel: &LoadedKernel,
    layout: &Layout,
    ram: &GuestRam,
) -> std::result::Result<LoadedInitrd, String> {
    let bytes = image.read(layout.low_end)?;
    let size = bytes.len() as u64;
    let top = layout.low_end.min(kernel.initrd_max.saturating_add(1));
    let gpa = top.checked_sub(size).map(|gpa| gpa & !(PAGE - 1));
    match gpa.filter(|&gpa| gpa >= kernel.end) {
        Some(gpa) if ram.write(gpa, &bytes).is_ok() => Ok(LoadedInitrd { gpa, size }),
        _ => Err(format!(
            "{size} bytes do not fit between the kernel's end at {} KiB and {} KiB; \
             give the guest more memory",
            kernel.end >> 10,
            top >> 10
        )),
    }
}

#[cfg(test)]
mod tests;
