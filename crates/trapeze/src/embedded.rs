//! The guest that comes with the program.

use crate::linux;
use machine::Image;

/// Boots it; `arguments` are options of `trapeze system`.
pub(crate) fn run(arguments: &[String]) -> u8 {
    let mut options = linux::defaults();
    options.config.kernel = Some(Image::Bytes {
        name: "embedded guest".into(),
        bytes: guest::ELF.into(),
    });
    linux::start(options, arguments)
}
