//! A first guest. That VMs can be made does not say that they run: KVM's PVM
//! (`kvm_pvm`) offers the whole device on hosts without hardware virtualization, but
//! only runs kernels made for it and interprets a few instructions of others.

use crate::vm::KvmVm;
use hv::abi::kvm_segment;
use hv::{MemFlags, MemSlot, Result, Vcpu, VcpuExit, Vm};
use std::path::Path;

const PAGE: u64 = 4096;
/// Where the guest's only page is.
const GPA: u64 = 0x1000;
/// `movd xmm0, ecx; hlt`: nothing to hardware, too much for KVM's interpreter, and
/// any kernel does the like before it says its name.
const CODE: [u8; 5] = [0x66, 0x0f, 0x6e, 0xc1, 0xf4];

/// Protected mode with a coprocessor (SDM vol 3, 2.5).
const CR0: u64 = 0x31;
/// OSFXSR and OSXMMEXCPT.
const CR4: u64 = 0x600;

/// Memory that a slot can be made of.
#[repr(C, align(4096))]
struct Memory([u8; PAGE as usize]);

/// What is wrong with VMs of `kvm`, if anything.
pub(crate) fn fault(kvm: &kvm_ioctls::Kvm) -> Result<Option<String>> {
    let mut memory = Box::new(Memory([0xf4; PAGE as usize]));
    memory.0[..CODE.len()].copy_from_slice(&CODE);
    let vm = KvmVm::new(kvm, None)?;
    let exit = run(&vm, &raw mut memory.0)?;
    drop(vm);
    drop(memory);
    Ok(match exit {
        VcpuExit::Hlt => None,
        VcpuExit::InternalError { .. } if Path::new("/sys/module/kvm_pvm").exists() => Some(
            "it is that of PVM (kvm_pvm), which runs only kernels made for it, not ordinary guests"
                .into(),
        ),
        other => Some(format!("a first guest did not come to its end: {other:?}")),
    })
}

/// Runs [`CODE`] until it needs somebody.
#[allow(unsafe_code, reason = "the guest's memory is given to the VM")]
fn run(vm: &KvmVm, memory: *mut [u8; PAGE as usize]) -> Result<VcpuExit> {
    let slot = MemSlot {
        slot: 0,
        gpa: GPA,
        size: PAGE,
        hva: memory as u64,
        flags: MemFlags::default(),
    };
    // SAFETY: the caller keeps the memory until it has dropped the VM, and does not
    // touch it in between.
    unsafe { vm.set_memory(slot) }?;
    let mut vcpu = vm.create_vcpu(0)?;
    set_up(vcpu.as_mut())?;
    vcpu.run()
}

/// Flat protected mode at the code.
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
    (sregs.cr0, sregs.cr4) = (CR0, CR4);
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.regs()?;
    (regs.rip, regs.rflags) = (GPA, 2);
    vcpu.set_regs(&regs)
}
