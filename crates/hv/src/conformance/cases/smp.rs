//! Several vCPUs on one memory: ordering litmus tests, locked operations,
//! code written by another processor, accessed and dirty bits, stale mappings
//! (SDM vol 3, 8.1 to 8.3 and 4.8, 4.10.5).
//!
//! Every program counts its rounds in R15 and meets the others at a barrier
//! where a round needs it. A litmus test that never sees the forbidden outcome
//! proves little; that the allowed ones are seen at all is not demanded.

use crate::conformance::guest::{Chips, Guest, Mode};
use crate::conformance::layout::*;
use crate::conformance::watchdog::Watchdog;
use crate::conformance::{Failure, expect};
use crate::{Hypervisor, Vcpu, VcpuExit};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use x86::paging::pte;

group! { "smp":
    store_buffering_with_fence "SDM 3 8.2.3.4, 8.2.5",
    store_buffering_with_lock "SDM 3 8.2.3.9",
    message_passing "SDM 3 8.2.3.2",
    load_buffering "SDM 3 8.2.3.3",
    independent_reads_of_locked_writes "SDM 3 8.2.3.8",
    locked_add_aligned "SDM 3 8.1.2.2",
    locked_add_across_cache_lines "SDM 3 8.1.2.2",
    locked_add_across_pages "SDM 3 8.1.2.2",
    locked_exchange_of_16_bytes "SDM 2 CMPXCHG16B",
    exchange_is_locked "SDM 2 XCHG",
    code_written_by_another_processor "SDM 3 8.1.3",
    code_written_while_it_is_first_executed "SDM 3 8.1.3",
    dirty_bit_and_locked_update_of_an_entry "SDM 3 4.8",
    mapping_changed_by_another_processor "SDM 3 4.10.5",
}

/// Initial stack pointers.
const STACKS: [u64; 4] = [STACK_TOP, SPARE + 0x5000, SPARE + 0x6000, SPARE + 0x7000];
/// Counters of the barrier: arrivals.
const BARRIER: u64 = DATA + 0xf00;
/// Where a program counts what must not happen.
const WRONG: u64 = DATA + 0xf40;
/// Rounds of a test whose processors meet at a barrier. Where KVM is itself
/// emulated on one CPU, each barrier costs time slices of the scheduler.
fn met_rounds(hv: &dyn Hypervisor) -> u32 {
    if hv.name() == "kvm" { 100 } else { 3000 }
}

/// A guest in long mode with processors that all start in its state.
struct Smp {
    others: Vec<Box<dyn Vcpu>>,
    guest: Guest,
}

/// Address of a processor's program.
fn program(cpu: usize) -> u64 {
    CODE + 0x1000 * cpu as u64
}

impl Smp {
    /// `n` processors; `emit` writes the program of each.
    fn new(
        hv: &dyn Hypervisor,
        n: usize,
        emit: impl Fn(&mut CodeAssembler, usize) -> Result<(), IcedError>,
    ) -> Result<Self, Failure> {
        let mut guest = Guest::with(hv, Mode::Long, Chips::None)?;
        for cpu in 0..n {
            let at = program(cpu);
            guest.code_at(at, at, 64, |a| emit(a, cpu))?;
        }
        let (sregs, mut regs) = (guest.cpu.sregs()?, guest.cpu.regs()?);
        let mut others = Vec::new();
        for (cpu, stack) in STACKS.iter().enumerate().take(n).skip(1) {
            let mut vcpu = guest.add_cpu(cpu as u32)?;
            vcpu.set_sregs(&sregs)?;
            regs.rip = program(cpu);
            regs.rsp = *stack;
            vcpu.set_regs(&regs)?;
            vcpu.set_mp_state(crate::abi::KVM_MP_STATE_RUNNABLE)?;
            others.push(vcpu);
        }
        Ok(Self { others, guest })
    }

    /// Runs all to their HLT.
    fn run(&mut self) -> Result<(), Failure> {
        let guest = &mut self.guest;
        let others = &mut self.others;
        let (mine, theirs) = std::thread::scope(|scope| {
            let threads: Vec<_> = others
                .iter_mut()
                .map(|cpu| scope.spawn(|| run_to_halt(&mut **cpu)))
                .collect();
            let mine = guest.run_to_end();
            let join = |t: std::thread::ScopedJoinHandle<'_, Result<(), Failure>>| {
                let died = Failure::Wrong("a processor's thread died".to_owned());
                t.join().unwrap_or(Err(died))
            };
            let theirs: Vec<_> = threads.into_iter().map(join).collect();
            (mine, theirs)
        });
        theirs.into_iter().collect::<Result<(), _>>()?;
        mine
    }

    /// Runs; the programs counted nothing forbidden.
    fn run_clean(&mut self) -> Result<(), Failure> {
        self.run()?;
        expect("forbidden outcomes", self.guest.read_u64(WRONG), 0)
    }
}

fn run_to_halt(cpu: &mut dyn Vcpu) -> Result<(), Failure> {
    let watchdog = Watchdog::arm(cpu.kicker());
    loop {
        match cpu.run()? {
            VcpuExit::Hlt => return Ok(()),
            VcpuExit::Interrupted if !watchdog.fired() => {}
            other => {
                let rip = cpu.regs().map_or(0, |r| r.rip);
                return Err(Failure::Wrong(format!("{other:x?} at RIP {rip:#x}")));
            }
        }
    }
}

/// All `n` processors arrive before any goes on; R14 counts arrivals.
fn barrier(a: &mut CodeAssembler, n: u32) -> Result<(), IcedError> {
    let mut wait = a.create_label();
    a.add(r14, n as i32)?;
    a.lock().inc(qword_ptr(BARRIER))?;
    a.set_label(&mut wait)?;
    a.pause()?;
    a.cmp(qword_ptr(BARRIER), r14)?;
    a.jb(wait)
}

/// `rounds` times `body`, then HLT; R14 and R15 belong to the loop.
fn rounds(
    a: &mut CodeAssembler,
    rounds: u32,
    body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.xor(r14d, r14d)?;
    a.mov(r15d, rounds)?;
    a.set_label(&mut top)?;
    body(a)?;
    a.dec(r15d)?;
    a.jne(top)?;
    a.hlt()
}

/// Counts the round as wrong if `a` and `b` hold these values.
fn forbid(
    a: &mut CodeAssembler,
    first: (AsmRegister64, i32),
    second: (AsmRegister64, i32),
) -> Result<(), IcedError> {
    let mut fine = a.create_label();
    a.cmp(first.0, first.1)?;
    a.jne(fine)?;
    a.cmp(second.0, second.1)?;
    a.jne(fine)?;
    a.lock().inc(qword_ptr(WRONG))?;
    a.set_label(&mut fine)?;
    a.nop()
}

/// Two variables in lines of their own, and where results are left.
const X: u64 = DATA;
const Y: u64 = DATA + 0x80;
const SEEN: u64 = DATA + 0x100;

/// In each round both processors execute `body(own variable, the other's)`,
/// which leaves what it read in RAX; both reading `forbidden` is forbidden.
fn two_variables(
    hv: &dyn Hypervisor,
    forbidden: i32,
    body: impl Fn(&mut CodeAssembler, u64, u64) -> Result<(), IcedError>,
) -> Result<(), Failure> {
    let n = met_rounds(hv);
    let mut smp = Smp::new(hv, 2, |a, cpu| {
        let (mine, other) = if cpu == 0 { (X, Y) } else { (Y, X) };
        rounds(a, n, |a| {
            a.mov(qword_ptr(mine), 0)?;
            barrier(a, 2)?;
            body(a, mine, other)?;
            a.mov(qword_ptr(SEEN + 8 * cpu as u64), rax)?;
            barrier(a, 2)?;
            if cpu == 0 {
                a.mov(rbx, qword_ptr(SEEN))?;
                a.mov(rcx, qword_ptr(SEEN + 8))?;
                forbid(a, (rbx, forbidden), (rcx, forbidden))?;
            }
            Ok(())
        })
    })?;
    smp.run_clean()
}

/// Store to the own variable, then load the other.
fn store_buffering(
    hv: &dyn Hypervisor,
    between: fn(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), Failure> {
    two_variables(hv, 0, |a, mine, other| {
        a.mov(qword_ptr(mine), 1)?;
        between(a)?;
        a.mov(rax, qword_ptr(other))
    })
}

fn store_buffering_with_fence(hv: &dyn Hypervisor) -> Result<(), Failure> {
    store_buffering(hv, |a| a.mfence())
}

fn store_buffering_with_lock(hv: &dyn Hypervisor) -> Result<(), Failure> {
    store_buffering(hv, |a| a.lock().add(dword_ptr(rsp - 64), 0))
}

fn load_buffering(hv: &dyn Hypervisor) -> Result<(), Failure> {
    two_variables(hv, 1, |a, mine, other| {
        a.mov(rax, qword_ptr(other))?;
        a.mov(qword_ptr(mine), 1)
    })
}

fn message_passing(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let mut smp = Smp::new(hv, 2, |a, cpu| {
        rounds(a, 3000, |a| {
            if cpu == 0 {
                a.mov(qword_ptr(X), r15)?;
                a.mov(qword_ptr(Y), r15)
            } else {
                // Rounds count down: a newer flag with older data is wrong.
                let mut fine = a.create_label();
                a.mov(rbx, qword_ptr(Y))?;
                a.mov(rcx, qword_ptr(X))?;
                a.test(rbx, rbx)?;
                a.je(fine)?;
                a.cmp(rcx, rbx)?;
                a.jbe(fine)?;
                a.lock().inc(qword_ptr(WRONG))?;
                a.set_label(&mut fine)?;
                a.nop()
            }
        })
    })?;
    smp.run_clean()
}

fn independent_reads_of_locked_writes(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let n = met_rounds(hv);
    let mut smp = Smp::new(hv, 4, |a, cpu| {
        rounds(a, n / 4, |a| {
            if cpu < 2 {
                a.mov(qword_ptr(X + 0x80 * cpu as u64), 0)?;
            }
            barrier(a, 4)?;
            if cpu < 2 {
                a.mov(eax, 1)?;
                a.xchg(qword_ptr(X + 0x80 * cpu as u64), rax)?;
            } else {
                // Reader 2 sees X, then Y; reader 3 the other way round.
                let (first, second) = if cpu == 2 { (X, Y) } else { (Y, X) };
                a.mov(rbx, qword_ptr(first))?;
                a.mov(rcx, qword_ptr(second))?;
                a.sub(rbx, rcx)?; // 1: first but not second
                a.mov(qword_ptr(SEEN + 8 * cpu as u64), rbx)?;
            }
            barrier(a, 4)?;
            if cpu == 0 {
                a.mov(rbx, qword_ptr(SEEN + 16))?;
                a.mov(rcx, qword_ptr(SEEN + 24))?;
                forbid(a, (rbx, 1), (rcx, 1))?;
            }
            Ok(())
        })
    })?;
    smp.run_clean()
}

/// Three processors add to one word with LOCK.
fn locked_add_at(hv: &dyn Hypervisor, at: u64, n: u32) -> Result<(), Failure> {
    let mut smp = Smp::new(hv, 3, |a, cpu| {
        rounds(a, n, |a| {
            if cpu == 0 {
                a.lock().inc(qword_ptr(at))
            } else {
                a.mov(eax, 1)?;
                a.lock().xadd(qword_ptr(at), rax)
            }
        })
    })?;
    smp.run()?;
    expect("sum", smp.guest.read_u64(at), u64::from(3 * n))
}

fn locked_add_aligned(hv: &dyn Hypervisor) -> Result<(), Failure> {
    locked_add_at(hv, X, 20_000)
}

fn locked_add_across_cache_lines(hv: &dyn Hypervisor) -> Result<(), Failure> {
    locked_add_at(hv, X + 0x3d, 1000)
}

fn locked_add_across_pages(hv: &dyn Hypervisor) -> Result<(), Failure> {
    locked_add_at(hv, DATA + 0x1ffd, 1000)
}

fn locked_exchange_of_16_bytes(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Low half counts up, high half down: a torn value shows in their sum.
    let mut smp = Smp::new(hv, 2, |a, _| {
        rounds(a, 5000, |a| {
            let mut again = a.create_label();
            a.mov(rax, qword_ptr(X))?;
            a.mov(rdx, qword_ptr(X + 8))?;
            a.set_label(&mut again)?;
            a.lea(rbx, rax + 1)?;
            a.lea(rcx, rdx - 1)?;
            a.lock().cmpxchg16b(xmmword_ptr(X))?;
            a.jne(again)
        })
    })?;
    smp.run()?;
    let (low, high) = (smp.guest.read_u64(X), smp.guest.read_u64(X + 8));
    expect("count", low, 10_000)?;
    expect("halves", low.wrapping_add(high), 0)
}

fn exchange_is_locked(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // A spin lock of XCHG around a plain counter.
    let mut smp = Smp::new(hv, 2, |a, _| {
        rounds(a, 3000, |a| {
            let (mut spin, mut got) = (a.create_label(), a.create_label());
            a.nop()?;
            a.set_label(&mut spin)?;
            a.mov(eax, 1)?;
            a.xchg(dword_ptr(X), eax)?;
            a.test(eax, eax)?;
            a.je(got)?;
            a.pause()?;
            a.jmp(spin)?;
            a.set_label(&mut got)?;
            a.inc(qword_ptr(Y))?;
            a.mov(dword_ptr(X), 0)
        })
    })?;
    smp.run()?;
    expect("count", smp.guest.read_u64(Y), 6000)
}

/// `mov eax, imm32; ret`
const FUNCTION: [u8; 6] = [0xb8, 0, 0, 0, 0, 0xc3];

fn code_written_by_another_processor(hv: &dyn Hypervisor) -> Result<(), Failure> {
    let n = met_rounds(hv);
    let mut smp = Smp::new(hv, 2, |a, cpu| {
        rounds(a, n, |a| {
            if cpu == 0 {
                a.mov(dword_ptr(SPARE + 1), r15d)?;
            }
            barrier(a, 2)?;
            if cpu == 1 {
                let mut fine = a.create_label();
                a.xor(eax, eax)?;
                a.cpuid()?; // serializes, as cross-modified code demands
                a.mov(esi, SPARE as u32)?;
                a.call(rsi)?;
                a.cmp(eax, r15d)?;
                a.je(fine)?;
                a.lock().inc(qword_ptr(WRONG))?;
                a.set_label(&mut fine)?;
                a.nop()?;
            }
            barrier(a, 2)
        })
    })?;
    smp.guest.write(SPARE, &FUNCTION);
    smp.run_clean()
}

/// Pages whose first execution races with writes.
const FRESH: u64 = 0x10_0000;
const FRESH_PAGES: u32 = 200;

fn code_written_while_it_is_first_executed(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Processor 0 counts a function's immediate up without a pause. Processor
    // 1 reads it, serializes, calls the function: it must return that or a
    // later value, also when the page has never been executed before.
    let mut smp = Smp::new(hv, 2, |a, cpu| {
        a.mov(ebp, FRESH as u32)?;
        rounds(a, FRESH_PAGES, |a| {
            barrier(a, 2)?;
            let mut top = a.create_label();
            if cpu == 0 {
                a.mov(ecx, 2000)?;
                a.set_label(&mut top)?;
                a.inc(dword_ptr(rbp + 1))?;
                a.dec(ecx)?;
                a.jne(top)?;
            } else {
                let mut fine = a.create_label();
                a.mov(edi, 30)?;
                a.set_label(&mut top)?;
                a.mov(esi, dword_ptr(rbp + 1))?;
                a.xor(eax, eax)?;
                a.cpuid()?;
                a.call(rbp)?;
                a.cmp(eax, esi)?;
                a.jae(fine)?;
                a.lock().inc(qword_ptr(WRONG))?;
                a.set_label(&mut fine)?;
                a.dec(edi)?;
                a.jne(top)?;
            }
            barrier(a, 2)?;
            a.add(ebp, 0x1000)
        })
    })?;
    for page in 0..u64::from(FRESH_PAGES) {
        smp.guest.write(FRESH + 0x1000 * page, &FUNCTION);
    }
    smp.run_clean()?;
    let last = FRESH + 0x1000 * u64::from(FRESH_PAGES - 1);
    expect("last immediate", smp.guest.read_uint(last + 1, 4), 2000)
}

/// Where the entry for `la` is in a new guest.
fn entry_of(hv: &dyn Hypervisor, la: u64) -> Result<u64, Failure> {
    Ok(Guest::new(hv, Mode::Long)?.pte_at(la))
}

fn dirty_bit_and_locked_update_of_an_entry(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Processor 0 writes through an entry whose dirty bit it clears with LOCK
    // each round; processor 1 toggles an ignored bit of the same entry. Neither
    // update may be lost.
    let la = 0x4000_0000;
    let entry = entry_of(hv, la)?;
    let mut smp = Smp::new(hv, 2, |a, cpu| {
        a.mov(rbp, la)?;
        rounds(a, 2001, |a| {
            if cpu == 1 {
                return a.lock().xor(dword_ptr(entry), 1 << 9);
            }
            let mut fine = a.create_label();
            a.lock().btr(qword_ptr(entry), 6)?;
            a.invlpg(byte_ptr(rbp))?;
            a.mov(dword_ptr(rbp), r15d)?;
            a.bt(qword_ptr(entry), 6)?;
            a.jc(fine)?;
            a.inc(qword_ptr(WRONG))?;
            a.set_label(&mut fine)?;
            a.nop()
        })
    })?;
    smp.guest.map(la, SPARE, pte::P | pte::RW);
    expect("the entry's address", smp.guest.pte_at(la), entry)?;
    smp.run_clean()?;
    let bit = smp.guest.read_u64(entry) >> 9 & 1;
    expect("toggled an odd number of times", bit, 1)
}

fn mapping_changed_by_another_processor(hv: &dyn Hypervisor) -> Result<(), Failure> {
    // Processor 0 points an entry at another page and tells processor 1, which
    // invalidates and must then see that page.
    let la = 0x4000_0000;
    let entry = entry_of(hv, la)?;
    let n = met_rounds(hv);
    let mut smp = Smp::new(hv, 2, |a, cpu| {
        a.mov(rbp, la)?;
        rounds(a, n, |a| {
            if cpu == 0 {
                a.xor(dword_ptr(entry), 0x1000)?;
            }
            barrier(a, 2)?;
            if cpu == 1 {
                let mut fine = a.create_label();
                a.invlpg(byte_ptr(rbp))?;
                a.mov(eax, dword_ptr(rbp))?;
                a.mov(ecx, dword_ptr(entry))?;
                a.and(ecx, 0x1000)?;
                a.cmp(eax, ecx)?;
                a.je(fine)?;
                a.inc(qword_ptr(WRONG))?;
                a.set_label(&mut fine)?;
                a.nop()?;
            }
            barrier(a, 2)
        })
    })?;
    // SPARE's page number is even: the page with bit 12 set holds that bit.
    smp.guest.write_uint(SPARE + 0x8000, 4, 0);
    smp.guest.write_uint(SPARE + 0x9000, 4, 0x1000);
    smp.guest.map(la, SPARE + 0x8000, pte::P | pte::RW);
    expect("the entry's address", smp.guest.pte_at(la), entry)?;
    smp.run_clean()
}
