//! Direct kernel boot: loads kernel, initrd and command line, and says in
//! which state the bootstrap processor must start.

mod bytes;
mod bzimage;
mod elf;
mod firmware;
mod linux_params;
mod multiboot;
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
    let refuse = |why| Error::Kernel {
        name: image.name(),
        why,
    };
    let file = read_kernel(image, layout).map_err(refuse)?;
    let kernel = if let Some(header) = multiboot_header(&file) {
        check_cmdline(&config.cmdline, boot::CMDLINE_MAX - 1)?;
        let texts = (&*config.cmdline, config.initrd.as_ref());
        return multiboot::load(&file, header, &image.name(), texts, layout, ram).map_err(refuse);
    } else if file.starts_with(elf::MAGIC) {
        pvh::load(&file, layout, ram)
    } else {
        bzimage::load(&file, layout, ram)
    };
    let kernel = kernel.map_err(refuse)?;
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

fn read_kernel(image: &Image, layout: &Layout) -> std::result::Result<Vec<u8>, String> {
    let bytes = image.read(layout.low_end)?;
    match bytes.is_empty() {
        true => Err("is empty".into()),
        false => Ok(bytes),
    }
}

/// As QEMU: a Linux kernel is one, whatever else its first bytes hold.
fn multiboot_header(file: &[u8]) -> Option<multiboot::Header> {
    (!bzimage::is_linux(file)).then(|| multiboot::find(file))?
}

fn write_cmdline(cmdline: &str, max: usize, ram: &GuestRam) -> Result<()> {
    check_cmdline(cmdline, max.min(boot::CMDLINE_MAX - 1))?;
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    match ram.write(boot::CMDLINE, &bytes) {
        Ok(()) => Ok(()),
        Err(_) => Err(Error::Cmdline("does not fit into RAM".into())),
    }
}

fn check_cmdline(cmdline: &str, max: usize) -> Result<()> {
    let refuse = |why: String| Err(Error::Cmdline(why));
    if cmdline.len() > max {
        return refuse(format!(
            "{} bytes long, the kernel takes at most {max}",
            cmdline.len()
        ));
    }
    match cmdline.contains('\0') {
        true => refuse("contains a NUL byte".into()),
        false => Ok(()),
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
