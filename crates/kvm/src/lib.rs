//! The `/dev/kvm` backend: the contract of [`hv`] over the kernel's ioctls.
//!
//! This crate translates and nothing more: registers pass through unchanged,
//! exits become [`hv::VcpuExit`] values, and every refusal names the ioctl that
//! refused. Semantics are the kernel's (Linux `Documentation/virt/kvm/api.rst`).

mod host;
mod kick;
mod open;
mod probe;
mod run_page;
mod stats;
mod vcpu;
mod vm;

pub use host::Host;

use hv::abi::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use hv::{Capabilities, Error, Hypervisor, Result};
use kvm_ioctls::Cap;
use std::path::Path;
use std::sync::Arc;

/// The kernel's hypervisor, as a backend.
pub struct Kvm {
    fd: kvm_ioctls::Kvm,
    tsc_khz: Option<u32>,
}

/// Where the kernel has it.
const DEVICE: &str = "/dev/kvm";

impl Kvm {
    /// Opens `/dev/kvm`. Where the device is missing, closed to this user, too old or
    /// in use by another hypervisor, the error says so and what would help.
    pub fn new() -> Result<Self> {
        let fd = open::open(Path::new(DEVICE))?;
        kick::install_handler()?;
        if let Some(why) = probe::fault(&fd)? {
            return Err(Error::Unavailable(format!("{DEVICE}: {why}")));
        }
        let tsc_khz = probe_tsc_khz(&fd);
        Ok(Self { fd, tsc_khz })
    }
}

/// The guest TSC frequency is a vCPU's property; a throwaway one tells it.
fn probe_tsc_khz(fd: &kvm_ioctls::Kvm) -> Option<u32> {
    let vm = fd.create_vm().ok()?;
    let vcpu = vm.create_vcpu(0).ok()?;
    vcpu.get_tsc_khz().ok()
}

impl Hypervisor for Kvm {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn capabilities(&self) -> Capabilities {
        let phys_bits = self
            .supported_cpuid()
            .ok()
            .and_then(|t| t.into_iter().find(|e| e.function == 0x8000_0008))
            .map_or(36, |e| e.eax as u8);
        Capabilities {
            max_vcpus: self.fd.get_max_vcpus() as u32,
            max_slots: self.fd.get_nr_memslots() as u32,
            phys_bits,
            readonly_mem: self.fd.check_extension(Cap::ReadonlyMem),
            guest_debug: self.fd.check_extension(Cap::SetGuestDebug),
        }
    }

    fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        let table: CpuId = self
            .fd
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(os("KVM_GET_SUPPORTED_CPUID"))?;
        Ok(table.as_slice().to_vec())
    }

    fn msr_index_list(&self) -> Result<Vec<u32>> {
        let list = self
            .fd
            .get_msr_index_list()
            .map_err(os("KVM_GET_MSR_INDEX_LIST"))?;
        Ok(list.as_slice().to_vec())
    }

    fn create_vm(&self) -> Result<Arc<dyn hv::Vm>> {
        Ok(Arc::new(vm::KvmVm::new(&self.fd, self.tsc_khz)?))
    }
}

/// Labels a host error with the ioctl that returned it.
fn os(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |e| Error::Os {
        what,
        source: std::io::Error::from_raw_os_error(e.errno()),
    }
}
