//! Many cases against the host CPU.

use std::fmt;
use std::io;
use std::ops::Range;

use iced_x86::Code;
use x86::Exception;

use crate::case::{Case, Executor};
use crate::compare::differences;
use crate::generate::Generator;
use crate::metal::Metal;

/// Differing cases shown for each code.
const SHOWN: u32 = 2;

/// What a run found.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Cases compared.
    pub compared: u64,
    /// Those in which the host raised #UD.
    pub undefined: u64,
    /// Those in which the host raised anything.
    pub faults: u64,
    /// Cases that differ.
    pub different: u64,
    /// Codes for which no case was found.
    pub missing: Vec<Code>,
    /// Descriptions of the first differences of each code.
    pub report: String,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{} compared, {} faults ({} #UD), {} differ, {} codes without a case {:?}",
            self.report,
            self.compared,
            self.faults,
            self.undefined,
            self.different,
            self.missing.len(),
            self.missing
        )
    }
}

/// The host CPU and a generator.
pub struct Run {
    metal: Metal,
    generator: Generator,
    /// Name every case on stderr before it runs.
    pub trace: bool,
}

impl Run {
    /// Takes the host CPU.
    ///
    /// # Errors
    /// See [`Metal::new`].
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            metal: Metal::new()?,
            generator: Generator::new(),
            trace: false,
        })
    }

    /// Compares one case of each code and seed.
    pub fn all(&mut self, codes: &[Code], seeds: Range<u64>, other: &mut dyn Executor) -> Summary {
        let mut s = Summary::default();
        for &code in codes {
            let mut any = false;
            let mut shown = 0;
            for seed in seeds.clone() {
                let Some(case) = self.generator.case(code, seed) else {
                    continue;
                };
                any = true;
                if other.accepts(&case) {
                    self.one(&case, other, &mut s, &mut shown);
                }
            }
            if !any {
                s.missing.push(code);
            }
        }
        s
    }

    fn one(&mut self, case: &Case, other: &mut dyn Executor, s: &mut Summary, shown: &mut u32) {
        if self.trace {
            eprintln!("{:?} --seed {}: {}", case.insn.code(), case.seed, case.insn);
        }
        let host = self.metal.run(case);
        let outcome = other.run(case);
        s.compared += 1;
        s.faults += u64::from(host.fault.is_some());
        s.undefined += u64::from(host.fault == Some(Exception::UD));
        let found = differences(case, &host, &outcome);
        if found.is_empty() {
            return;
        }
        s.different += 1;
        *shown += 1;
        if *shown <= SHOWN {
            let code = case.insn.code();
            s.report += &format!(
                "{code:?} --seed {}: {} ({} bits, {:02x?}), {}\n",
                case.seed,
                case.insn,
                case.bits,
                case.bytes,
                other.name()
            );
            for line in found {
                s.report += &format!("    {line}\n");
            }
        }
    }
}
