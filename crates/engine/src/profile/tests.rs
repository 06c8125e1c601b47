//! What a guest does most is what the profile says first.

use crate::Options;
use crate::testing::{CODE, Guest};
use hv::VcpuExit;
use iced_x86::code_asm::*;

#[test]
fn the_hottest_block_is_the_loop() {
    let options = Options {
        profile: true,
        ..Options::default()
    };
    let mut guest = Guest::new(options, |a| {
        let mut again = a.create_label();
        a.mov(ecx, 1_000_000_000)?;
        a.set_label(&mut again)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    });
    assert_eq!(guest.run().expect("HLT"), VcpuExit::Hlt);
    let report = guest.vm.profile().expect("asked for");
    let (_, blocks) = report.split_once("blocks:").expect("a table");
    let first = blocks.lines().nth(2).expect("a row");
    let share = first.split_whitespace().next().map(str::parse::<f64>);
    assert!(share.is_some_and(|s| s.is_ok_and(|s| s > 50.0)), "{report}");
    let near = [CODE, CODE + 5].map(|at| format!(" {at:x} "));
    assert!(near.iter().any(|at| first.contains(at)), "{report}");
}
