//! What the board tells through fw_cfg.

use crate::acpi;
use crate::config::{Image, MachineConfig};
use crate::layout::{HIGH_RAM, Layout, MapKind};
use crate::outcome::{Error, Result};
use crate::smbios::Smbios;
use devices::fw_cfg::{Content, FileError, Items, MAX_FILES, NAME_MAX, key};
use std::sync::Arc;

/// A file of the user's.
#[derive(Clone, Debug)]
pub struct FwCfgFile {
    /// Its name; the user's own begin with `opt/`.
    pub name: String,
    /// Its contents.
    pub content: Image,
}

/// Largest file of the user's.
const FILE_MAX: u64 = 64 << 20;

/// The items of a machine.
pub fn items(
    config: &MachineConfig,
    layout: &Layout,
    tables: &acpi::Tables,
    smbios: &Smbios,
) -> Result<Items> {
    let mut items = Items::default();
    let vcpus = (config.topology.vcpus() - config.absent_vcpus) as u16;
    let apic_ids = config.topology.apic_ids().max().unwrap_or(0) as u16 + 1;
    items.set(key::UUID, config.uuid.to_vec());
    items.set(key::RAM_SIZE, config.ram_bytes.to_le_bytes().to_vec());
    items.set(key::NB_CPUS, vcpus.to_le_bytes().to_vec());
    items.set(key::MAX_CPUS, apic_ids.to_le_bytes().to_vec());
    items.set(key::IRQ0_OVERRIDE, 1u32.to_le_bytes().to_vec());
    add_boot_files(&mut items, config);
    let (rsdp, blob, loader) = tables.for_firmware();
    for (name, bytes) in [
        ("etc/e820", e820(layout)),
        ("etc/acpi/rsdp", rsdp),
        ("etc/acpi/tables", blob),
        ("etc/table-loader", loader),
        ("etc/smbios/smbios-anchor", smbios.anchor.clone()),
        ("etc/smbios/smbios-tables", smbios.tables.clone()),
    ] {
        let added = items.add_file(name, bytes);
        debug_assert_eq!(added, Ok(()), "{name}");
    }
    for file in &config.fw_cfg {
        let refuse = |why: String| Error::FwCfg {
            name: file.name.clone(),
            why,
        };
        let bytes = file.content.read(FILE_MAX).map_err(refuse)?;
        items
            .add_file(&file.name, bytes)
            .map_err(|why| refuse(explain(why)))?;
    }
    Ok(items)
}

/// Kernel, initrd and command line, for firmware that boots them. The files
/// are read again when a guest asks.
fn add_boot_files(items: &mut Items, config: &MachineConfig) {
    let mut line = config.cmdline.clone().into_bytes();
    line.push(0);
    items.set(
        key::CMDLINE_SIZE,
        (line.len() as u32).to_le_bytes().to_vec(),
    );
    items.set(key::CMDLINE_DATA, line);
    for (image, size_key, data_key) in [
        (&config.kernel, key::KERNEL_SIZE, key::KERNEL_DATA),
        (&config.initrd, key::INITRD_SIZE, key::INITRD_DATA),
    ] {
        let Some(image) = image.clone() else {
            continue;
        };
        let size = image.len().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        items.set(size_key, size.to_le_bytes().to_vec());
        let load = move || image.read(u32::MAX.into()).unwrap_or_default();
        items.set(data_key, Content::Load(Arc::new(load)));
    }
}

fn explain(why: FileError) -> String {
    match why {
        FileError::Name => format!("the name must have 1 to {NAME_MAX} bytes"),
        FileError::Exists => "there is a file of this name".into(),
        FileError::TooLarge => format!("there can be {MAX_FILES} files"),
    }
}

/// RAM as QEMU tells it: without the holes of the first MiB.
fn e820(layout: &Layout) -> Vec<u8> {
    let high = layout.high_end - HIGH_RAM;
    let rows = [(0, layout.low_end), (HIGH_RAM, high)];
    let rows = rows.into_iter().filter(|&(_, size)| size > 0);
    rows.flat_map(|(gpa, size)| {
        let mut row = gpa.to_le_bytes().to_vec();
        row.extend(size.to_le_bytes());
        row.extend((MapKind::Ram as u32).to_le_bytes());
        row
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e820_tells_ram_around_the_hole() {
        let rows = e820(&Layout::new(5 << 30, 39, &crate::boards::PC).unwrap());
        let words: Vec<u64> = rows
            .chunks(20)
            .flat_map(|r| [0, 8].map(|at| u64::from_le_bytes(r[at..at + 8].try_into().unwrap())))
            .collect();
        assert_eq!(words, [0, 3 << 30, 4 << 30, 2 << 30]);
        assert_eq!(
            e820(&Layout::new(1 << 30, 39, &crate::boards::PC).unwrap()).len(),
            20
        );
    }
}
