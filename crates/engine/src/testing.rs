//! Small guests for the engine's own tests.
#![allow(unsafe_code, reason = "lends guest memory to the engine")]

use crate::{Options, Soft};
use hv::abi::*;
use hv::{Hypervisor, MemFlags, MemSlot, Result, Vcpu, VcpuExit, Vm};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;
use x86::cr0;

const RAM: usize = 64 * 4096;
/// Where its code is.
pub(crate) const CODE: u64 = 0x1000;
/// RAM for data.
pub(crate) const DATA: u32 = 0x2_0000;
const STACK: u64 = 0x8000;

/// A flat 32-bit guest without paging.
pub(crate) struct Guest {
    pub(crate) vcpu: Box<dyn Vcpu>,
    pub(crate) vm: Arc<dyn Vm>,
    /// Guest-physical memory.
    pub(crate) ram: *mut u8,
}

impl Guest {
    /// That runs what `build` assembles.
    pub(crate) fn new(
        options: Options,
        build: impl FnOnce(&mut CodeAssembler) -> std::result::Result<(), IcedError>,
    ) -> Self {
        let soft = Soft::with_options(options);
        let vm = soft.create_vm().unwrap();
        // SAFETY: the layout is not of size 0.
        let ram = unsafe { alloc_zeroed(Self::layout()) };
        let mut a = CodeAssembler::new(32).unwrap();
        build(&mut a).unwrap();
        let code = a.assemble(CODE).unwrap();
        // SAFETY: inside the fresh allocation.
        unsafe { ram.add(CODE as usize).copy_from(code.as_ptr(), code.len()) };
        let slot = MemSlot {
            slot: 0,
            gpa: 0,
            size: RAM as u64,
            hva: ram as u64,
            flags: MemFlags::NONE,
        };
        // SAFETY: freed in `drop`, after the VM.
        unsafe { vm.set_memory(slot) }.unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        vcpu.set_cpuid(&soft.supported_cpuid().unwrap()).unwrap();
        let mut guest = Self { vcpu, vm, ram };
        guest.set_up();
        guest
    }

    fn layout() -> Layout {
        Layout::from_size_align(RAM, 4096).unwrap()
    }

    fn set_up(&mut self) {
        let mut s = self.vcpu.sregs().unwrap();
        let flat = |type_| kvm_segment {
            limit: u32::MAX,
            selector: 8,
            type_,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };
        s.cs = flat(11);
        (s.ds, s.es, s.ss, s.fs, s.gs) = (flat(3), flat(3), flat(3), flat(3), flat(3));
        s.cr0 = cr0::PE | cr0::NE | cr0::ET;
        s.cr4 = x86::cr4::OSFXSR | x86::cr4::OSXMMEXCPT;
        self.vcpu.set_sregs(&s).unwrap();
        let regs = kvm_regs {
            rip: CODE,
            rsp: STACK,
            rflags: 2,
            ..Default::default()
        };
        self.vcpu.set_regs(&regs).unwrap();
    }

    pub(crate) fn run(&mut self) -> Result<VcpuExit> {
        self.vcpu.run()
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        let all = self.vm.counters();
        all.iter().find(|(n, _)| *n == name).map_or(0, |(_, v)| *v)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // SAFETY: the vCPU does not run, and nothing reads guest memory when it
        // and the VM are dropped.
        unsafe { dealloc(self.ram, Self::layout()) };
    }
}
