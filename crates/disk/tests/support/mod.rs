//! What the tests of whole images share: files in memory that remember what
//! was done to them, random requests, and the other implementation.
#![allow(dead_code, reason = "each test uses a part")]

pub mod memory;
pub mod model;
pub mod qemu;
pub mod random;
