//! Kernels, initrds and command lines.

use crate::input::Input;
use machine::layout::Layout;
use machine::ram::GuestRam;
use machine::{Image, MachineConfig, boot};
use std::sync::Arc;

fn image(name: &str, bytes: &[u8]) -> Image {
    Image::Bytes {
        name: name.to_owned(),
        bytes: Arc::from(bytes),
    }
}

/// Loads a kernel into guests of various sizes.
pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mib = [2, 4, 20, 64, 4096][input.below(5)];
    let initrd = input.u16() as usize % 1024;
    let initrd = input.bytes(initrd);
    let cmdline = usize::from(input.u8());
    let cmdline = String::from_utf8_lossy(input.bytes(cmdline)).into_owned();
    let config = MachineConfig {
        ram_bytes: mib << 20,
        kernel: Some(image("kernel", input.rest())),
        initrd: (!initrd.is_empty()).then(|| image("initrd", initrd)),
        cmdline,
        ..MachineConfig::default()
    };
    let (Ok(layout), bytes) = (
        Layout::new(config.ram_bytes, 39, config.board),
        config.ram_bytes,
    ) else {
        panic!("a size from the list was refused");
    };
    let ram = GuestRam::new(&layout).expect("reserving costs nothing");
    if let Ok(start) = boot::load(&config, &layout, &ram, 0xe_0000) {
        assert!(start.rip < bytes.max(layout.high_end), "{:#x}", start.rip);
        assert!(start.info < layout.low_end, "{:#x}", start.info);
    }
}
