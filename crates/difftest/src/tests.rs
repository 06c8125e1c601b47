//! The executors against the host CPU: the same cases on every run.

use iced_x86::Code;

use crate::bounced::Bounced;
use crate::class;
use crate::interp::Interpreter;
use crate::run::Run;

fn compared() -> Vec<Code> {
    Code::values().filter(|&c| class::compared(c)).collect()
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
