//! fw_cfg (QEMU docs/specs/fw_cfg): what the VMM tells firmware and guests,
//! as items behind a selector port, and files on top of items.

mod core;
mod items;
mod port;

pub use items::{Content, FileError, Items, MAX_FILES, NAME_MAX, key};
pub use port::{DMA_LEN, DMA_PORT, DmaPort, FwCfg, PORT, PORT_LEN};
