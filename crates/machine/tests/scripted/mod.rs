//! A backend without a processor: every vCPU plays a list of exits, then
//! waits to be kicked. Enough to test what the machine makes of exits.

use hv::abi::*;
use hv::{Capabilities, Error, Hypervisor, Kicker, MemSlot, Result, Vcpu, VcpuExit, Vm};
use std::sync::{Arc, Condvar, Mutex};

/// One step of a script.
#[derive(Clone, Debug)]
pub enum Step {
    /// Leave with this exit.
    Exit(VcpuExit),
    /// Leave with an error.
    Fail,
    /// Send a text to COM1, byte by byte.
    Print(&'static str),
    /// Read COM1's data register until it delivered these bytes.
    Expect(&'static [u8]),
    /// Wait to be kicked, then go on with the script.
    Wait,
    /// Panic, as a bug of ours would.
    Bug,
}

/// What a VM was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    CreateVm,
    Slot(u64, u64),
    Vcpu(u32),
    Irq(u32, bool),
    DropVm,
}

pub type Log = Arc<Mutex<Vec<Call>>>;

/// Life `n` of vCPU 0 plays `lives[n]`; the others only wait.
pub struct Scripted {
    pub lives: Mutex<std::vec::IntoIter<Vec<Step>>>,
    pub log: Log,
}

impl Scripted {
    pub fn new(lives: Vec<Vec<Step>>) -> Arc<Self> {
        Arc::new(Self {
            lives: Mutex::new(lives.into_iter()),
            log: Log::default(),
        })
    }
}

impl Hypervisor for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_vcpus: 8,
            max_slots: 32,
            phys_bits: 39,
            readonly_mem: true,
            guest_debug: false,
        }
    }
    fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        Ok(vec![kvm_cpuid_entry2::default()])
    }
    fn msr_index_list(&self) -> Result<Vec<u32>> {
        Ok(Vec::new())
    }
    fn create_vm(&self) -> Result<Arc<dyn Vm>> {
        self.log.lock().unwrap().push(Call::CreateVm);
        let script = self.lives.lock().unwrap().next();
        Ok(Arc::new(ScriptedVm {
            script: Mutex::new(script.unwrap_or_default()),
            log: self.log.clone(),
        }))
    }
}

struct ScriptedVm {
    script: Mutex<Vec<Step>>,
    log: Log,
}

impl Drop for ScriptedVm {
    fn drop(&mut self) {
        self.log.lock().unwrap().push(Call::DropVm);
    }
}

const NO: Error = Error::Unsupported("a scripted backend");

impl Vm for ScriptedVm {
    #[allow(unsafe_code, reason = "the contract's signature; nothing is accessed")]
    unsafe fn set_memory(&self, slot: MemSlot) -> Result<()> {
        self.log
            .lock()
            .unwrap()
            .push(Call::Slot(slot.gpa, slot.size));
        Ok(())
    }
    fn dirty_log(&self, _slot: u32) -> Result<Vec<u64>> {
        Err(NO)
    }
    fn memory_written(&self, _gpa: u64, _len: u64) {}
    fn create_irqchip(&self) -> Result<()> {
        Ok(())
    }
    fn create_pit(&self) -> Result<()> {
        Ok(())
    }
    fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()> {
        self.log.lock().unwrap().push(Call::Irq(gsi, level));
        Ok(())
    }
    fn signal_msi(&self, _address: u64, _data: u32) -> Result<bool> {
        Err(NO)
    }
    fn set_gsi_routing(&self, _routes: &[kvm_irq_routing_entry]) -> Result<()> {
        Ok(())
    }
    fn irqchip(&self, _chip: u32) -> Result<kvm_irqchip> {
        Err(NO)
    }
    fn set_irqchip(&self, _chip: &kvm_irqchip) -> Result<()> {
        Err(NO)
    }
    fn pit(&self) -> Result<kvm_pit_state2> {
        Err(NO)
    }
    fn set_pit(&self, _pit: &kvm_pit_state2) -> Result<()> {
        Err(NO)
    }
    fn clock_ns(&self) -> Result<u64> {
        Err(NO)
    }
    fn set_clock_ns(&self, _ns: u64) -> Result<()> {
        Err(NO)
    }
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>> {
        self.log.lock().unwrap().push(Call::Vcpu(id));
        let steps = match id {
            0 => std::mem::take(&mut *self.script.lock().unwrap()),
            _ => Vec::new(),
        };
        Ok(Box::new(ScriptedVcpu {
            steps: steps.into_iter(),
            pending: Vec::new(),
            expect: None,
            kick: Arc::default(),
        }))
    }
    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![("exits", 1)]
    }
}

struct ScriptedVcpu {
    steps: std::vec::IntoIter<Step>,
    /// Exits still to come from the present step, last first.
    pending: Vec<VcpuExit>,
    /// What COM1 must still deliver, and whether a read is in flight.
    expect: Option<(&'static [u8], bool)>,
    kick: Arc<Kick>,
}

#[derive(Default)]
struct Kick {
    kicked: Mutex<bool>,
    changed: Condvar,
}

impl Kicker for Kick {
    fn kick(&self) {
        *self.kicked.lock().unwrap() = true;
        self.changed.notify_all();
    }
    fn set_immediate_exit(&self, _on: bool) {}
}

impl ScriptedVcpu {
    fn wait(&self) -> VcpuExit {
        let mut kicked = self.kick.kicked.lock().unwrap();
        while !*kicked {
            kicked = self.kick.changed.wait(kicked).unwrap();
        }
        *kicked = false;
        VcpuExit::Interrupted
    }
}

pub fn out(port: u16, value: u32) -> VcpuExit {
    VcpuExit::IoOut {
        port,
        size: 1,
        value,
    }
}

pub fn out16(port: u16, value: u32) -> VcpuExit {
    VcpuExit::IoOut {
        port,
        size: 2,
        value,
    }
}

impl Vcpu for ScriptedVcpu {
    fn run(&mut self) -> Result<VcpuExit> {
        loop {
            if let Some(exit) = self.pending.pop() {
                return Ok(exit);
            }
            if let Some((rest, _)) = self.expect {
                if rest.is_empty() {
                    self.expect = None;
                    continue;
                }
                // Data ready? Then the byte.
                let port = 0x3fd;
                return Ok(VcpuExit::IoIn { port, size: 1 });
            }
            match self.steps.next() {
                None | Some(Step::Wait) => return Ok(self.wait()),
                Some(Step::Exit(exit)) => return Ok(exit),
                Some(Step::Fail) => return Err(NO),
                Some(Step::Bug) => panic!("scripted bug"),
                Some(Step::Print(text)) => {
                    let bytes = text.bytes().rev();
                    self.pending = bytes.map(|b| out(0x3f8, b.into())).collect();
                }
                Some(Step::Expect(bytes)) => self.expect = Some((bytes, false)),
            }
        }
    }
    fn complete_read(&mut self, value: u64) {
        match &mut self.expect {
            Some((rest, true)) => {
                assert_eq!(value as u8, rest[0]);
                self.expect = Some((&rest[1..], false));
            }
            // Line status with data ready: fetch the byte next.
            Some((_, reading)) if value & 1 != 0 => {
                *reading = true;
                let port = 0x3f8;
                self.pending.push(VcpuExit::IoIn { port, size: 1 });
            }
            _ => {}
        }
    }
    fn kicker(&self) -> Arc<dyn Kicker> {
        self.kick.clone()
    }
    fn request_irq_window(&mut self, _on: bool) {}
    fn ready_for_irq(&self) -> bool {
        false
    }
    fn inject_irq(&mut self, _vector: u8) -> Result<()> {
        Err(NO)
    }
    fn inject_nmi(&mut self) -> Result<()> {
        Err(NO)
    }
    fn regs(&self) -> Result<kvm_regs> {
        Ok(kvm_regs::default())
    }
    fn set_regs(&mut self, _regs: &kvm_regs) -> Result<()> {
        Ok(())
    }
    fn sregs(&self) -> Result<kvm_sregs> {
        Ok(kvm_sregs::default())
    }
    fn set_sregs(&mut self, _sregs: &kvm_sregs) -> Result<()> {
        Ok(())
    }
    fn fpu(&self) -> Result<kvm_fpu> {
        Err(NO)
    }
    fn set_fpu(&mut self, _fpu: &kvm_fpu) -> Result<()> {
        Err(NO)
    }
    fn xsave(&self) -> Result<kvm_xsave> {
        Err(NO)
    }
    fn set_xsave(&mut self, _xsave: &kvm_xsave) -> Result<()> {
        Err(NO)
    }
    fn xcr0(&self) -> Result<u64> {
        Err(NO)
    }
    fn set_xcr0(&mut self, _value: u64) -> Result<()> {
        Err(NO)
    }
    fn debug_regs(&self) -> Result<kvm_debugregs> {
        Err(NO)
    }
    fn set_debug_regs(&mut self, _regs: &kvm_debugregs) -> Result<()> {
        Err(NO)
    }
    fn msr(&self, index: u32) -> Result<u64> {
        Err(Error::NoSuchMsr(index))
    }
    fn set_msr(&mut self, index: u32, _value: u64) -> Result<()> {
        Err(Error::NoSuchMsr(index))
    }
    fn cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        Err(NO)
    }
    fn set_cpuid(&mut self, _entries: &[kvm_cpuid_entry2]) -> Result<()> {
        Ok(())
    }
    fn events(&self) -> Result<kvm_vcpu_events> {
        Err(NO)
    }
    fn set_events(&mut self, _events: &kvm_vcpu_events) -> Result<()> {
        Err(NO)
    }
    fn mp_state(&self) -> Result<u32> {
        Err(NO)
    }
    fn set_mp_state(&mut self, _state: u32) -> Result<()> {
        Err(NO)
    }
    fn lapic(&self) -> Result<kvm_lapic_state> {
        Ok(kvm_lapic_state::default())
    }
    fn set_lapic(&mut self, _lapic: &kvm_lapic_state) -> Result<()> {
        Ok(())
    }
    fn set_guest_debug(&mut self, _debug: &kvm_guest_debug) -> Result<()> {
        Err(NO)
    }
    fn translate(&self, _gva: u64) -> Result<Option<u64>> {
        Err(NO)
    }
    fn tsc_khz(&self) -> Result<u32> {
        Err(NO)
    }
}
