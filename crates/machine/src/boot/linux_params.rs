//! Linux's boot parameters, the "zero page" (Linux Documentation/arch/x86,
//! zero-page.rst and boot.rst), by offset.

use super::LoadedInitrd;
use crate::layout::{Layout, boot};
use crate::ram::{GuestRam, NotRam};

mod at {
    pub const ACPI_RSDP: usize = 0x070;
    pub const E820_COUNT: usize = 0x1e8;
    pub const LOADER: usize = 0x210;
    pub const CODE32_START: usize = 0x214;
    pub const RAMDISK: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const CMDLINE: usize = 0x228;
    pub const SETUP_DATA: usize = 0x250;
    pub const E820: usize = 0x2d0;
}

/// Where the setup header starts, in the file and in the zero page.
pub const HEADER: usize = 0x1f1;
/// The setup header may reach up to here.
pub const HEADER_END: usize = 0x290;
/// "Undefined" boot loader (boot.rst, type_of_loader).
const LOADER_UNDEFINED: u8 = 0xff;
/// Bytes of an e820 row: address, size, type.
const E820_ROW: usize = 20;

/// 4 KiB of parameters.
pub struct ZeroPage([u8; 4096]);

impl ZeroPage {
    /// A zero page with the kernel's own setup header.
    pub fn with_header(header: &[u8]) -> Box<Self> {
        let mut page = Box::new(Self([0; 4096]));
        let len = header.len().min(HEADER_END - HEADER);
        page.put(HEADER, &header[..len]);
        page
    }

    /// Tells where the protected-mode kernel was loaded.
    pub fn set_load_address(&mut self, gpa: u32) {
        self.put(at::CODE32_START, &gpa.to_le_bytes());
    }

    /// Fills in everything that does not depend on the kernel.
    pub fn finish(&mut self, layout: &Layout, initrd: Option<LoadedInitrd>, rsdp: u64) {
        self.put(at::LOADER, &[LOADER_UNDEFINED]);
        self.put(at::CMDLINE, &(boot::CMDLINE as u32).to_le_bytes());
        self.put(at::SETUP_DATA, &[0; 8]);
        self.put(at::ACPI_RSDP, &rsdp.to_le_bytes());
        let initrd = initrd.map_or((0, 0), |i| (i.gpa as u32, i.size as u32));
        self.put(at::RAMDISK, &initrd.0.to_le_bytes());
        self.put(at::RAMDISK_SIZE, &initrd.1.to_le_bytes());
        let map = layout.map();
        self.put(at::E820_COUNT, &[map.len() as u8]);
        for (i, entry) in map.iter().enumerate() {
            let row = at::E820 + i * E820_ROW;
            self.put(row, &entry.gpa.to_le_bytes());
            self.put(row + 8, &entry.size.to_le_bytes());
            self.put(row + 16, &(entry.kind as u32).to_le_bytes());
        }
    }

    /// Copies the page to guest memory.
    pub fn write(&self, ram: &GuestRam) -> Result<(), NotRam> {
        ram.write(boot::ZERO_PAGE, &self.0)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}
