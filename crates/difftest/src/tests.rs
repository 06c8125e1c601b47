//! The executors against the host CPU: the same cases on every run.

use std::collections::BTreeMap;

use iced_x86::Code;

use crate::bounced::Bounced;
use crate::class::{Class, class};
use crate::interp::Interpreter;
use crate::run::Run;

fn compared() -> Vec<Code> {
    Code::values()
        .filter(|&c| class(c) == Class::Compared)
        .collect()
}

#[test]
fn the_interpreter_agrees_with_the_host_cpu() {
    let mut run = Run::new().unwrap();
    let mut interpreter = Interpreter::new().unwrap();
    let s = run.all(&compared(), 1..31, &mut interpreter);
    assert_eq!(s.different, 0, "{s}");
    assert_eq!(s.missing, [], "{s}");
    assert!(s.compared > 100_000, "{s}");
}

#[test]
fn bounce_buffers_agree_with_real_operands() {
    let mut run = Run::new().unwrap();
    let mut bounced = Bounced::new().unwrap();
    let s = run.all(&compared(), 100..105, &mut bounced);
    assert_eq!(s.different, 0, "{s}");
    assert!(s.compared > 15_000, "{s}");
}

#[test]
fn every_code_is_compared_or_has_a_reason() {
    let mut counts = BTreeMap::new();
    for code in Code::values() {
        *counts.entry(format!("{:?}", class(code))).or_insert(0u32) += 1;
    }
    let total: u32 = counts.values().sum();
    assert_eq!(total as usize, Code::values().len());
    assert!(counts["Compared"] > 3800, "{counts:?}");
}
