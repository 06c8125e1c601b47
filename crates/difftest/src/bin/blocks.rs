//! `blocks [--seed S] [--count N] [--kernel] [--interpret] [--single] [--code NAME] [--show N]
//! [--kick] [--stress HOW] [--compat] [--trace]`:
//! random blocks on the software engine against the host CPU. `--single` runs
//! one instruction of each code with every kind of operand instead, with
//! `--compat` in 32-bit code.

use difftest::class::{Class, class};
use difftest::features::HostFeatures;
use difftest::vm::block::Item;
use difftest::vm::{Block, Guest, Privilege, check, random::Blocks};
use difftest::{Generator, Metal};
use iced_x86::{Code, FlowControl};
use isa::table;
use std::process::ExitCode;
use x86::flags;

struct Options {
    seed: u64,
    count: u64,
    kernel: bool,
    interpret: bool,
    single: bool,
    trace: bool,
    kick: bool,
    stress: String,
    compat: bool,
    code: String,
    show: u64,
}

fn options() -> Result<Options, String> {
    let mut o = Options {
        seed: 1,
        count: 1000,
        kernel: false,
        interpret: false,
        single: false,
        trace: false,
        kick: false,
        stress: String::new(),
        compat: false,
        code: String::new(),
        show: 10,
    };
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        let mut value = || args.next().ok_or(format!("{a} needs a value"));
        let mut number = || value()?.parse().map_err(|e| format!("{a}: {e}"));
        match a.as_str() {
            "--seed" => o.seed = number()?,
            "--count" => o.count = number()?,
            "--show" => o.show = number()?,
            "--kernel" => o.kernel = true,
            "--interpret" => o.interpret = true,
            "--single" => o.single = true,
            "--trace" => o.trace = true,
            "--stress" => o.stress = value()?,
            "--kick" => o.kick = true,
            "--compat" => o.compat = true,
            "--code" => o.code = value()?,
            _ => return Err(format!("unknown option {a}")),
        }
    }
    Ok(o)
}

struct Bench {
    metal: Metal,
    guest: Guest,
    trace: bool,
    run: u64,
    items: u64,
    different: u64,
    show: u64,
}

impl Bench {
    fn one(&mut self, block: Block) {
        self.guest.cold = block.seed.is_multiple_of(4);
        self.guest.twice = block.seed.is_multiple_of(2);
        if self.trace {
            eprintln!("seed {}:\n{}", block.seed, block.listing());
        }
        self.run += 1;
        self.items += block.items.len() as u64;
        if check::compare(&block, &mut self.metal, &mut self.guest).is_empty() {
            return;
        }
        self.different += 1;
        if self.different > self.show {
            return;
        }
        let small = check::shrink(block, &mut self.metal, &mut self.guest);
        // A difference that comes and goes shows in the whole block only.
        let found = check::compare(&small, &mut self.metal, &mut self.guest);
        let gpr: Vec<String> = small.gpr.iter().map(|v| format!("{v:x}")).collect();
        println!(
            "seed {}, flags {:#x}, registers {}:",
            small.seed,
            small.rflags,
            gpr.join(" ")
        );
        print!("{}", small.listing());
        for line in found {
            println!("  {line}");
        }
    }
}

fn singles(o: &Options, features: &HostFeatures, bench: &mut Bench) {
    let mut generator = Generator::new();
    for code in Code::values().filter(|&c| class(c) == Class::Compared) {
        if !features.offered(code) || !format!("{code:?}").contains(&o.code) {
            continue;
        }
        // In kernel mode they do what the host refuses.
        if o.kernel && matches!(table::class(code), table::Class::System) {
            continue;
        }
        let shown = bench.different;
        for seed in o.seed..o.seed + o.count {
            let Some(c) = generator.case(code, seed) else {
                continue;
            };
            if (c.bits == 32) != o.compat || c.insn.flow_control() != FlowControl::Next {
                continue;
            }
            bench.show = (shown + 2).min(o.show.max(bench.different));
            bench.one(Block {
                seed,
                bits: c.bits,
                items: vec![Item::Plain(c.insn)],
                rip: c.rip,
                gpr: c.gpr,
                // Alignment is checked in user mode only.
                rflags: if o.kernel {
                    c.rflags & !flags::AC
                } else {
                    c.rflags
                },
                xsave: c.xsave,
                mem: c.mem,
            });
        }
    }
}

fn run(o: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    let features = HostFeatures::read()?;
    let mut blocks = Blocks::new(|c| features.offered(c) && format!("{c:?}").contains(&o.code));
    let options = engine::Options {
        translate: !o.interpret,
        ..engine::Options::default().strained(&o.stress)?
    };
    let mut guest = Guest::new(&engine::Soft::with_options(options))?;
    if o.kernel {
        guest.privilege = Privilege::Kernel;
    }
    if o.kick {
        let kicker = guest.kicker();
        std::thread::spawn(move || {
            loop {
                kicker.kick();
                std::thread::sleep(std::time::Duration::from_micros(20));
            }
        });
    }
    let metal = Metal::new()?;
    let mut bench = Bench {
        metal,
        guest,
        trace: o.trace,
        run: 0,
        items: 0,
        different: 0,
        show: o.show,
    };
    if o.single {
        singles(o, &features, &mut bench);
    } else {
        for seed in o.seed..o.seed + o.count {
            bench.one(blocks.make(seed));
        }
    }
    println!(
        "{} blocks ({} instructions, {} page faults; {} instructions interpreted), {} differ",
        bench.run,
        bench.items,
        bench.guest.counter("pf_guest"),
        bench.guest.counter("insn_emulation"),
        bench.different
    );
    Ok(bench.different == 0)
}

fn main() -> ExitCode {
    let outcome = options().map_err(Into::into).and_then(|o| run(&o));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("blocks: {e}");
            ExitCode::from(2)
        }
    }
}
