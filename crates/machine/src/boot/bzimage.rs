//! bzImage (Linux Documentation/arch/x86/boot.rst).

use super::bytes::{u16_at, u32_at, u64_at};
use super::linux_params::{HEADER, HEADER_END, ZeroPage};
use super::{Entry, EntryMode, LoadedKernel};
use crate::layout::{Layout, ONE_MIB};
use crate::ram::GuestRam;

mod at {
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const SYSSIZE: usize = 0x1f4;
    pub const BOOT_FLAG: usize = 0x1fe;
    pub const JUMP_LEN: usize = 0x201;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const LOADFLAGS: usize = 0x211;
    pub const INITRD_MAX: usize = 0x22c;
    pub const ALIGNMENT: usize = 0x230;
    pub const RELOCATABLE: usize = 0x234;
    pub const XLOADFLAGS: usize = 0x236;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const PAYLOAD_OFFSET: usize = 0x248;
    pub const PAYLOAD_LENGTH: usize = 0x24c;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
}

const LOADED_HIGH: u8 = 1 << 0;
const XLF_KERNEL_64: u16 = 1 << 0;
/// The 64-bit entry lies this far into the protected-mode kernel.
const ENTRY_64: u64 = 0x200;
/// `syssize` counts units of 16 bytes, rounded up.
const SYSSIZE_UNIT: u64 = 16;
const SECTOR: u64 = 512;
/// Before protocol 2.03 no field said how high an initrd may be.
const OLD_INITRD_MAX: u64 = 0x37ff_ffff;
/// Before protocol 2.06 no field said how long a command line may be.
const OLD_CMDLINE_MAX: usize = 255;

/// The header fields that loading needs.
#[derive(Clone, Copy, Debug)]
struct Header {
    version: u16,
    /// File offset of the protected-mode kernel.
    kernel_at: u64,
    /// Bytes of the protected-mode kernel by the header.
    syssize: u64,
    payload_end: u64,
    initrd_max: u64,
    cmdline_max: usize,
    relocatable: bool,
    alignment: u64,
    preferred: u64,
    init_size: u64,
    is_64bit: bool,
}

/// The file has a Linux setup header.
pub fn is_linux(file: &[u8]) -> bool {
    file.get(at::MAGIC..at::MAGIC + 4) == Some(b"HdrS")
}

/// Loads a bzImage.
pub fn load(file: &[u8], layout: &Layout, ram: &GuestRam) -> Result<LoadedKernel, String> {
    let header = parse(file)?;
    let needed = header.kernel_at + header.syssize.max(header.payload_end);
    // The last unit of `syssize` may be partly padding.
    if (file.len() as u64) + SYSSIZE_UNIT <= needed {
        return Err(format!("is truncated: {} bytes of {needed}", file.len()));
    }
    let kernel = file.get(header.kernel_at as usize..).unwrap_or_default();
    let room = header.init_size.max(kernel.len() as u64);
    let gpa = place(&header, room, layout)?;
    ram.write(gpa, kernel).map_err(|_| too_big(room, layout))?;

    let header_end = HEADER_END.min(at::MAGIC + usize::from(file[at::JUMP_LEN]));
    let mut params = ZeroPage::with_header(&file[HEADER..header_end.max(HEADER)]);
    params.set_load_address(gpa as u32);
    let (rip, mode) = match header.is_64bit {
        true => (gpa + ENTRY_64, EntryMode::Long),
        false => (gpa, EntryMode::Protected),
    };
    Ok(LoadedKernel {
        entry: Entry::Linux { params, rip, mode },
        end: gpa + room,
        initrd_max: header.initrd_max,
        cmdline_max: header.cmdline_max,
    })
}

fn parse(file: &[u8]) -> Result<Header, String> {
    let magic = file.get(at::MAGIC..at::MAGIC + 4);
    if u16_at(file, at::BOOT_FLAG) != Some(0xaa55) || magic != Some(b"HdrS") {
        return Err("is not a kernel (neither a bzImage nor an ELF file with a PVH entry)".into());
    }
    if file.len() < HEADER_END {
        return Err(format!(
            "is truncated: {} bytes end inside the header",
            file.len()
        ));
    }
    // In bounds from here on; a field a protocol version lacks reads as 0.
    let version = u16_at(file, at::VERSION).unwrap_or(0);
    let since = |min: u16| version >= min;
    let word = |at| u64::from(u32_at(file, at).unwrap_or(0));
    if !since(0x0202) || file[at::LOADFLAGS] & LOADED_HIGH == 0 {
        return Err(format!(
            "uses boot protocol {}.{:02} or loads low; a bzImage with protocol 2.02 or newer works",
            version >> 8,
            version & 0xff
        ));
    }
    let setup_sects = match file[at::SETUP_SECTS] {
        0 => 4,
        n => u64::from(n),
    };
    let payload_end = match since(0x0208) {
        true => word(at::PAYLOAD_OFFSET) + word(at::PAYLOAD_LENGTH),
        false => 0,
    };
    Ok(Header {
        version,
        kernel_at: (setup_sects + 1) * SECTOR,
        syssize: if since(0x0204) {
            word(at::SYSSIZE) * SYSSIZE_UNIT
        } else {
            1
        },
        payload_end,
        initrd_max: if since(0x0203) {
            word(at::INITRD_MAX)
        } else {
            OLD_INITRD_MAX
        },
        cmdline_max: match since(0x0206) {
            true => word(at::CMDLINE_SIZE) as usize,
            false => OLD_CMDLINE_MAX,
        },
        relocatable: since(0x0205) && file[at::RELOCATABLE] != 0,
        alignment: word(at::ALIGNMENT),
        preferred: if since(0x020a) {
            u64_at(file, at::PREF_ADDRESS).unwrap_or(0)
        } else {
            ONE_MIB
        },
        init_size: if since(0x020a) {
            word(at::INIT_SIZE)
        } else {
            0
        },
        is_64bit: since(0x020c) && u16_at(file, at::XLOADFLAGS).unwrap_or(0) & XLF_KERNEL_64 != 0,
    })
}

/// The preferred address if there is room, else (relocatable kernels only)
/// the lowest aligned one above 1 MiB.
fn place(header: &Header, room: u64, layout: &Layout) -> Result<u64, String> {
    let fits = |gpa: u64| {
        let end = gpa.checked_add(room);
        gpa >= ONE_MIB && end.is_some_and(|end| end <= layout.low_end)
    };
    if fits(header.preferred) {
        return Ok(header.preferred);
    }
    let aligned = match header.alignment {
        a if a.is_power_of_two() => ONE_MIB.next_multiple_of(a),
        _ => ONE_MIB,
    };
    if header.relocatable && fits(aligned) {
        return Ok(aligned);
    }
    log::debug!("boot protocol {:#x}, room {room:#x}", header.version);
    Err(too_big(room, layout))
}

fn too_big(room: u64, layout: &Layout) -> String {
    format!(
        "needs {} KiB of memory to start, the guest has {} KiB below 4 GiB; give it more memory",
        room >> 10,
        layout.low_end >> 10
    )
}
