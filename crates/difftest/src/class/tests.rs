//! What the classes claim is so.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use hv::conformance::{Case, Failure, cases};
use iced_x86::Code;

use super::{Class, Why, class, system};
use crate::encodings;
use crate::interp::Interpreter;

#[test]
fn every_code_is_in_the_class_that_its_encodings_say() {
    let decoded = encodings::all();
    let wrong = Code::values().filter(|&code| {
        let exists = decoded.contains_key(&code);
        let right = match class(code) {
            Class::Excluded(Why::NotAnInstruction) => !code.op_code().is_instruction(),
            Class::Excluded(Why::NeverDecoded) => !exists,
            _ => exists,
        };
        !right
    });
    assert_eq!(wrong.collect::<Vec<_>>(), []);
}

#[test]
fn the_table_is_about_as_large_as_it_was() {
    let mut counts = BTreeMap::new();
    for code in Code::values() {
        let name = match class(code) {
            Class::Compared => "compared",
            Class::Undefined => "undefined",
            Class::System { .. } => "system",
            Class::Excluded(_) => "excluded",
        };
        *counts.entry(name).or_insert(0u32) += 1;
    }
    assert!(counts["compared"] > 3700, "{counts:?}");
    assert!(counts["system"] > 200, "{counts:?}");
    assert!(counts["undefined"] < 320, "{counts:?}");
    assert!(counts["excluded"] < 400, "{counts:?}");
}

#[test]
fn undefined_codes_raise_ud_in_ring_0_in_every_mode() {
    let mut interpreter = Interpreter::new().unwrap();
    let mut tried = 0;
    for (code, list) in encodings::all() {
        for e in list.iter().filter(|_| class(code) == Class::Undefined) {
            assert!(interpreter.raises_ud(e), "{code:?} {e:02x?}");
            tried += 1;
        }
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn every_system_code_names_cases() {
    for code in Code::values() {
        if let Class::System { cases, .. } = class(code) {
            assert!(!cases.is_empty(), "{code:?}");
        }
    }
    for (codes, _) in system::ROWS {
        for &code in *codes {
            assert!(matches!(class(code), Class::System { .. }), "{code:?}");
        }
    }
}

/// The named cases run on the interpreter, which logs every instruction. Each
/// code must appear in one of its cases, each case must serve its row.
#[test]
fn the_named_cases_exist_and_execute_the_codes() {
    log::set_logger(&Recorder).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let known: HashMap<String, &Case> = cases()
        .map(|case| (format!("{}::{}", case.group, case.name), case))
        .collect();
    let hv = engine::Soft::with_options(engine::Options {
        translate: false,
        ..engine::Options::default()
    });
    for (codes, names) in system::ROWS {
        let mut missing: BTreeSet<String> = codes.iter().map(|c| format!("{c:?}")).collect();
        let mut skipped = false;
        for name in *names {
            let case = known.get(*name).unwrap_or_else(|| panic!("no case {name}"));
            EXECUTED.take();
            match (case.run)(&hv) {
                Ok(()) => {}
                Err(Failure::Skipped(what)) => {
                    println!("{name} needs {what}, which this host lacks");
                    skipped = true;
                }
                Err(why) => panic!("{name}: {why}"),
            }
            let executed = EXECUTED.take();
            let serves = codes.iter().any(|c| executed.contains(&format!("{c:?}")));
            assert!(serves || skipped, "{name} executes none of {codes:?}");
            missing.retain(|c| !executed.contains(c));
        }
        assert!(missing.is_empty() || skipped, "{names:?}: {missing:?}");
    }
}

thread_local! {
    /// Names of the codes this thread's interpreter executed.
    static EXECUTED: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Takes the code's name from the interpreter's log records.
struct Recorder;

impl log::Log for Recorder {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == engine::INSN_LOG
    }
    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = record.args().to_string();
        if let Some(code) = text.split([' ', ':']).nth(1) {
            EXECUTED.with_borrow_mut(|set| set.insert(code.to_owned()));
        }
    }
    fn flush(&self) {}
}
