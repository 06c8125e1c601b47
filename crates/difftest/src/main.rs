//! `difftest [--seed S] [--cases N] [--code NAME] [--forever]`: compares random
//! instructions with the host CPU and prints what differs.

use std::process::ExitCode;

use difftest::bounced::Bounced;
use difftest::class::{Class, class};
use difftest::compare::differences;
use difftest::{Executor, Generator, Metal};
use iced_x86::Code;

struct Options {
    seed: u64,
    cases: u64,
    code: Option<String>,
    forever: bool,
}

fn options() -> Result<Options, String> {
    let mut o = Options {
        seed: 1,
        cases: 20,
        code: None,
        forever: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        let mut value = || args.next().ok_or(format!("{a} needs a value"));
        match a.as_str() {
            "--seed" => o.seed = value()?.parse().map_err(|e| format!("--seed: {e}"))?,
            "--cases" => o.cases = value()?.parse().map_err(|e| format!("--cases: {e}"))?,
            "--code" => o.code = Some(value()?),
            "--forever" => o.forever = true,
            _ => return Err(format!("unknown option {a}")),
        }
    }
    Ok(o)
}

fn main() -> ExitCode {
    match options().and_then(|o| run(&o)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("difftest: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(o: &Options) -> Result<bool, String> {
    let mut metal = Metal::new().map_err(|e| format!("host CPU: {e}"))?;
    let mut bounced = Bounced::new().map_err(|e| format!("bounce buffer: {e}"))?;
    let mut generator = Generator::new();
    let codes: Vec<Code> = Code::values()
        .filter(|&c| class(c) == Class::Compared)
        .filter(|&c| {
            o.code
                .as_ref()
                .is_none_or(|n| format!("{c:?}").contains(n.as_str()))
        })
        .collect();
    let (mut compared, mut bad, mut none, mut ud) = (0u64, 0u64, 0u64, 0u64);
    let mut seed = o.seed;
    loop {
        for &code in &codes {
            let mut shown = 0;
            for n in 0..o.cases {
                let Some(case) = generator.case(code, seed + n) else {
                    none += 1;
                    continue;
                };
                if !bounced.accepts(&case) {
                    continue;
                }
                let host = metal.run(&case);
                let ours = bounced.run(&case);
                compared += 1;
                ud += u64::from(host.fault == Some(x86::Exception::UD));
                let d = differences(&case, &host, &ours);
                if !d.is_empty() {
                    bad += 1;
                    shown += 1;
                    if shown <= 2 {
                        println!(
                            "{code:?} seed {} {} {:02x?}",
                            case.seed, case.insn, case.bytes
                        );
                        for line in d {
                            println!("    {line}");
                        }
                    }
                }
            }
        }
        println!(
            "seed {seed}: {compared} compared ({ud} #UD), {bad} differ, {none} without encoding"
        );
        seed += o.cases;
        if !o.forever {
            return Ok(bad == 0);
        }
    }
}
