//! The vCPUs and their registers.

use crate::command::*;
use crate::target::Target;
use hv::Vcpu;
use hv::abi::{kvm_regs, kvm_segment, kvm_sregs};
use serde_json::{Value, json};
use std::fmt::Write;

/// Where a processor is.
pub const PLACE: &[Member] = &[
    must("socket-id", Type::Int),
    must("core-id", Type::Int),
    must("thread-id", Type::Int),
];

const FAST: Type = Type::List(&Type::Object(&[
    must("cpu-index", Type::Int),
    must("qom-path", Type::Text),
    must("thread-id", Type::Int),
    must("props", Type::Object(PLACE)),
    must("target", Type::Choice(&["x86_64"])),
]));

pub static COMMANDS: &[Command] = &[
    both("query-cpus-fast", &["info cpus"], "the vCPUs", cpus)
        .returns(FAST)
        .shown(|answer| {
            let vcpus = answer.as_array().into_iter().flatten();
            vcpus
                .map(|vcpu| {
                    format!(
                        "  CPU #{}: thread_id={}\n",
                        vcpu["cpu-index"], vcpu["thread-id"]
                    )
                })
                .collect()
        }),
    people(
        &["cpu"],
        "look at this vCPU from now on",
        |context, arguments| {
            let vcpu = u32::try_from(need_number(arguments, "index")?)?;
            context.target.machine.on_vcpu(vcpu, |_| ())?;
            context.vcpu = vcpu;
            done()
        },
    )
    .takes(&[need("index", Kind::Number)]),
    people(
        &["info registers"],
        "the registers of the vCPU; -a of all",
        |context, arguments| {
            let machine = &context.target.machine;
            let vcpus = match text_of(arguments, "all") {
                None => vec![context.vcpu],
                Some("-a") => machine.vcpus(),
                Some(other) => return Err(format!("'{other}' is not -a").into()),
            };
            let mut text = String::new();
            for vcpu in vcpus {
                text += &machine.on_vcpu(vcpu, move |v| registers(vcpu, v))??;
            }
            Ok(text.into())
        },
    )
    .takes(&[need("all", Kind::Text).optional()]),
];

/// The thread's number is what `top -H` shows.
fn thread_id() -> i64 {
    std::fs::read_link("/proc/thread-self")
        .ok()
        .and_then(|path| path.file_name()?.to_str()?.parse().ok())
        .unwrap_or(0)
}

fn cpus(context: &mut Context<'_>, _: &Arguments) -> Answer {
    let machine = &context.target.machine;
    let Some(config) = machine.config() else {
        return Ok(json!([]));
    };
    let mut list = Vec::new();
    for index in machine.vcpus() {
        let thread = machine.on_vcpu(index, |_| thread_id())?;
        let place = config.topology.place(index);
        list.push(json!({
            "cpu-index": index,
            "qom-path": format!("/machine/unattached/device[{index}]"),
            "thread-id": thread,
            "props": {
                "socket-id": place.socket,
                "core-id": place.core,
                "thread-id": place.thread,
            },
            "target": "x86_64",
        }));
    }
    Ok(Value::Array(list))
}

/// The flags that QEMU shows: bit and letter.
const FLAGS: [(u32, char); 7] = [
    (10, 'D'),
    (11, 'O'),
    (7, 'S'),
    (6, 'Z'),
    (4, 'A'),
    (2, 'P'),
    (0, 'C'),
];

const HALTED: u32 = hv::abi::KVM_MP_STATE_HALTED;

fn registers(index: u32, vcpu: &mut dyn Vcpu) -> Result<String, hv::Error> {
    let (regs, sregs) = (vcpu.regs()?, vcpu.sregs()?);
    let halted = u8::from(vcpu.mp_state()? == HALTED);
    let debug = vcpu.debug_regs()?;
    let db = (0..).zip(debug.db);
    let db: Vec<_> = db.map(|(n, v)| format!("DR{n}={v:016x}")).collect();
    let mut text = format!("\nCPU#{index}\n{}", general_text(&regs));
    let flags: String = FLAGS
        .iter()
        .map(|&(bit, letter)| match regs.rflags >> bit & 1 {
            0 => '-',
            _ => letter,
        })
        .collect();
    let _ = writeln!(
        text,
        "RIP={:016x} RFL={:08x} [{flags}] CPL={} HLT={halted}",
        regs.rip, regs.rflags, sregs.ss.dpl
    );
    text += &special_text(&sregs);
    let _ = writeln!(
        text,
        "{}\nDR6={:016x} DR7={:016x}\nEFER={:016x}",
        db.join(" "),
        debug.dr6,
        debug.dr7,
        sregs.efer
    );
    Ok(text)
}

fn general_text(r: &kvm_regs) -> String {
    let rows = [
        [
            ("RAX", r.rax),
            ("RBX", r.rbx),
            ("RCX", r.rcx),
            ("RDX", r.rdx),
        ],
        [
            ("RSI", r.rsi),
            ("RDI", r.rdi),
            ("RBP", r.rbp),
            ("RSP", r.rsp),
        ],
        [("R8 ", r.r8), ("R9 ", r.r9), ("R10", r.r10), ("R11", r.r11)],
        [
            ("R12", r.r12),
            ("R13", r.r13),
            ("R14", r.r14),
            ("R15", r.r15),
        ],
    ];
    let row = |row: [(&str, u64); 4]| {
        let row = row.map(|(name, value)| format!("{name}={value:016x}"));
        row.join(" ") + "\n"
    };
    rows.map(row).concat()
}

fn special_text(s: &kvm_sregs) -> String {
    let segments = [
        ("ES ", &s.es),
        ("CS ", &s.cs),
        ("SS ", &s.ss),
        ("DS ", &s.ds),
        ("FS ", &s.fs),
        ("GS ", &s.gs),
        ("LDT", &s.ldt),
        ("TR ", &s.tr),
    ];
    let mut text = segments.map(|(name, s)| segment(name, s)).concat();
    for (name, table) in [("GDT", &s.gdt), ("IDT", &s.idt)] {
        let _ = writeln!(text, "{name}=     {:016x} {:08x}", table.base, table.limit);
    }
    let _ = writeln!(
        text,
        "CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x}",
        s.cr0, s.cr2, s.cr3, s.cr4
    );
    text
}

/// Selector, base, limit, and the second half of the descriptor without what is
/// shown already.
fn segment(name: &str, s: &kvm_segment) -> String {
    let attributes = u32::from(s.type_) << 8
        | u32::from(s.s) << 12
        | u32::from(s.dpl) << 13
        | u32::from(s.present) << 15
        | u32::from(s.avl) << 20
        | u32::from(s.l) << 21
        | u32::from(s.db) << 22
        | u32::from(s.g) << 23;
    format!(
        "{name}={:04x} {:016x} {:08x} {attributes:08x}\n",
        s.selector, s.base, s.limit
    )
}

/// The value of a register that an expression names.
///
/// # Errors
/// There is none of this name, or the machine does not run.
pub fn register(target: &Target, vcpu: u32, name: &str) -> Result<u64, Failure> {
    let read = |vcpu: &mut dyn Vcpu| Ok::<_, hv::Error>((vcpu.regs()?, vcpu.sregs()?));
    let (regs, sregs) = target.machine.on_vcpu(vcpu, read)??;
    let value = general(&regs, name).or_else(|| special(&sregs, name));
    value.ok_or_else(|| format!("there is no register '${name}'").into())
}

fn general(r: &kvm_regs, name: &str) -> Option<u64> {
    Some(match name {
        "rax" | "eax" => r.rax,
        "rbx" | "ebx" => r.rbx,
        "rcx" | "ecx" => r.rcx,
        "rdx" | "edx" => r.rdx,
        "rsi" | "esi" => r.rsi,
        "rdi" | "edi" => r.rdi,
        "rbp" | "ebp" => r.rbp,
        "rsp" | "esp" => r.rsp,
        "r8" => r.r8,
        "r9" => r.r9,
        "r10" => r.r10,
        "r11" => r.r11,
        "r12" => r.r12,
        "r13" => r.r13,
        "r14" => r.r14,
        "r15" => r.r15,
        "rip" | "eip" | "pc" => r.rip,
        "rflags" | "eflags" => r.rflags,
        _ => return None,
    })
}

fn special(s: &kvm_sregs, name: &str) -> Option<u64> {
    Some(match name {
        "cr0" => s.cr0,
        "cr2" => s.cr2,
        "cr3" => s.cr3,
        "cr4" => s.cr4,
        "cr8" => s.cr8,
        "efer" => s.efer,
        "cs" => s.cs.selector.into(),
        "ds" => s.ds.selector.into(),
        "es" => s.es.selector.into(),
        "fs" => s.fs.selector.into(),
        "gs" => s.gs.selector.into(),
        "ss" => s.ss.selector.into(),
        "fs_base" => s.fs.base,
        "gs_base" => s.gs.base,
        _ => return None,
    })
}
