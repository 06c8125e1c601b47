//! What it costs to leave the guest for the process around it and to come back:
//! accesses to ports and memory that a device of the process's serves, against a
//! system call of this host, in turns.

use anyhow::{Context, Result, bail};
use hv::abi::kvm_segment;
use hv::{Hypervisor, MemFlags, MemSlot, Vcpu, VcpuExit};
use std::time::Instant;

/// Exits or calls of one measurement.
const COUNT: u32 = 20_000;
/// Measurements of each.
const ROUNDS: usize = 31;
const PAGE: u64 = 4096;
/// Where the guest's only page is, and where there is nothing.
const GPA: u64 = 0x1000;

/// A loop of one access.
struct Row {
    name: &'static str,
    code: &'static [u8],
}

const ROWS: [Row; 4] = [
    Row {
        name: "port write",
        // out dx, al; jmp $-1
        code: &[0xee, 0xeb, 0xfd],
    },
    Row {
        name: "port read",
        // in al, dx; jmp $-1
        code: &[0xec, 0xeb, 0xfd],
    },
    Row {
        name: "memory write",
        // mov [ebx], eax; jmp $-2
        code: &[0x89, 0x03, 0xeb, 0xfc],
    },
    Row {
        name: "memory read",
        // mov eax, [ebx]; jmp $-2
        code: &[0x8b, 0x03, 0xeb, 0xfc],
    },
];

/// Memory that a slot can be made of.
#[repr(C, align(4096))]
struct Memory([u8; PAGE as usize]);

fn main() -> Result<()> {
    let backend = std::env::args().nth(1).unwrap_or_else(|| "soft".into());
    let hv: Box<dyn Hypervisor> = match &*backend {
        "soft" => Box::new(engine::Soft::with_options(engine::Options::default())),
        "kvm" => Box::new(kvm::Kvm::new()?),
        _ => bail!("no backend '{backend}', there are: soft, kvm"),
    };
    println!(
        "{:<14}{:>12}{:>14}{:>8}",
        backend, "exit", "system call", "ratio"
    );
    for row in &ROWS {
        let (exit, call) = measure(hv.as_ref(), row).context(row.name)?;
        let ratio = exit / call;
        println!("{:<14}{exit:>9.0} ns{call:>11.0} ns{ratio:>8.2}", row.name);
    }
    Ok(())
}

/// Medians in ns, of an exit and of a call.
#[allow(unsafe_code, reason = "the guest's memory is given to the VM")]
fn measure(hv: &dyn Hypervisor, row: &Row) -> Result<(f64, f64)> {
    let mut memory = Box::new(Memory([0; PAGE as usize]));
    memory.0[..row.code.len()].copy_from_slice(row.code);
    let vm = hv.create_vm()?;
    let slot = MemSlot {
        slot: 0,
        gpa: GPA,
        size: PAGE,
        hva: (&raw mut memory.0) as u64,
        flags: MemFlags::default(),
    };
    // SAFETY: the memory is dropped after the VM, and nobody touches it until then.
    unsafe { vm.set_memory(slot) }?;
    let mut vcpu = vm.create_vcpu(0)?;
    set_up(vcpu.as_mut())?;
    let (mut exits, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        exits.push(time(|| run(vcpu.as_mut()))?);
        calls.push(time(|| {
            std::hint::black_box(rustix::process::getppid());
            Ok(())
        })?);
    }
    drop(vcpu);
    drop(vm);
    Ok((median(exits), median(calls)))
}

/// ns of one of many.
fn time(mut what: impl FnMut() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    for _ in 0..COUNT {
        what()?;
    }
    Ok(begin.elapsed().as_secs_f64() * 1e9 / f64::from(COUNT))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// To the next access and its answer.
fn run(vcpu: &mut dyn Vcpu) -> Result<()> {
    match vcpu.run()? {
        VcpuExit::IoOut { .. } | VcpuExit::MmioWrite { .. } => {}
        VcpuExit::IoIn { .. } | VcpuExit::MmioRead { .. } => vcpu.complete_read(0x5a),
        other => bail!("{other:?}"),
    }
    Ok(())
}

/// Flat protected mode at the code; EBX where no memory is.
fn set_up(vcpu: &mut dyn Vcpu) -> Result<()> {
    let code = kvm_segment {
        limit: u32::MAX,
        selector: 8,
        type_: 0xb,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment {
        selector: 16,
        type_: 3,
        ..code
    };
    let mut sregs = vcpu.sregs()?;
    (sregs.cs, sregs.ds, sregs.es, sregs.ss) = (code, data, data, data);
    sregs.cr0 = 0x31;
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.regs()?;
    (regs.rip, regs.rflags) = (GPA, 2);
    (regs.rbx, regs.rdx) = (0xd000_0000, 0xe9);
    vcpu.set_regs(&regs)?;
    Ok(())
}
