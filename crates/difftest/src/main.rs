//! `difftest [--seed S] [--cases N] [--code NAME] [--native] [--forever] [--trace]`:
//! compares random instructions with the host CPU and prints what differs.
//! `--trace` names every case before it runs, for those that kill the process.

use std::process::ExitCode;

use difftest::bounced::Bounced;
use difftest::class;
use difftest::interp::Interpreter;
use difftest::run::Run;
use iced_x86::Code;

struct Options {
    seed: u64,
    cases: u64,
    code: Option<String>,
    native: bool,
    forever: bool,
    trace: bool,
}

fn options() -> Result<Options, String> {
    let mut o = Options {
        seed: 1,
        cases: 30,
        code: None,
        native: false,
        forever: false,
        trace: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        let mut value = || args.next().ok_or(format!("{a} needs a value"));
        match a.as_str() {
            "--seed" => o.seed = value()?.parse().map_err(|e| format!("--seed: {e}"))?,
            "--cases" => o.cases = value()?.parse().map_err(|e| format!("--cases: {e}"))?,
            "--code" => o.code = Some(value()?),
            "--native" => o.native = true,
            "--trace" => o.trace = true,
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
    let named = |c: &Code| o.code.as_ref().is_none_or(|n| format!("{c:?}").contains(n));
    let codes: Vec<Code> = Code::values()
        .filter(|&c| class::compared(c))
        .filter(named)
        .collect();
    let mut run = Run::new().map_err(|e| format!("host CPU: {e}"))?;
    run.trace = o.trace;
    let mut bounced = Bounced::new().map_err(|e| format!("bounce buffer: {e}"))?;
    let mut interpreter = Interpreter::new().map_err(|e| format!("interpreter: {e}"))?;
    let mut seed = o.seed;
    loop {
        let seeds = seed..seed + o.cases;
        let summary = if o.native {
            run.all(&codes, seeds, &mut bounced)
        } else {
            run.all(&codes, seeds, &mut interpreter)
        };
        println!("{summary}");
        if !o.forever {
            return Ok(summary.different == 0);
        }
        seed += o.cases;
    }
}
