//! A VM file descriptor.

use crate::{os, stats, vcpu::KvmVcpu};
use hv::abi::{
    KVM_PIT_SPEAKER_DUMMY, KvmIrqRouting, kvm_clock_data, kvm_irq_routing_entry, kvm_irqchip,
    kvm_msi, kvm_pit_config, kvm_pit_state2, kvm_userspace_memory_region,
};
use hv::{Error, MemSlot, Result};
use kvm_ioctls::VmFd;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Intel hosts without unrestricted guest need three pages for a TSS and one
/// for an identity map; like every VMM we put them below the BIOS at 4 GiB
/// (`KVM_SET_TSS_ADDR`, `KVM_SET_IDENTITY_MAP_ADDR`).
const TSS_ADDRESS: usize = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

const NO_LOG: &str = "does not exist or has no dirty log";

pub(crate) struct KvmVm {
    fd: VmFd,
    tsc_khz: Option<u32>,
    /// Size in bytes of every slot: `KVM_GET_DIRTY_LOG` fills a bitmap whose
    /// size only the caller knows.
    slots: Mutex<BTreeMap<u32, u64>>,
    /// Statistics descriptors of the vCPUs created so far.
    vcpu_stats: Mutex<Vec<stats::StatsFd>>,
}

impl KvmVm {
    pub(crate) fn new(kvm: &kvm_ioctls::Kvm, tsc_khz: Option<u32>) -> Result<Self> {
        let fd = kvm.create_vm().map_err(os("KVM_CREATE_VM"))?;
        fd.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(os("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(TSS_ADDRESS)
            .map_err(os("KVM_SET_TSS_ADDR"))?;
        Ok(Self {
            fd,
            tsc_khz,
            slots: Mutex::default(),
            vcpu_stats: Mutex::default(),
        })
    }
}

impl hv::Vm for KvmVm {
    #[allow(unsafe_code, reason = "the contract's one unsafe method")]
    unsafe fn set_memory(&self, slot: MemSlot) -> Result<()> {
        let region = kvm_userspace_memory_region {
            slot: slot.slot,
            flags: slot.flags.0 & hv::MemFlags::KVM.0,
            guest_phys_addr: slot.gpa,
            memory_size: slot.size,
            userspace_addr: slot.hva,
        };
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller keeps `hva..hva + size` mapped while the slot
        // exists, and accesses it through raw pointers only: the contract of
        // `Vm::set_memory`, passed on unchanged.
        unsafe { self.fd.set_user_memory_region(region) }.map_err(|e| {
            let why = match e.errno() {
                libc::EEXIST => "overlaps another slot",
                libc::EINVAL => {
                    "its number is too large, address or size is not a multiple of 4 KiB or \
                     wraps, the size is another one than before, or there is none to delete"
                }
                _ => return os("KVM_SET_USER_MEMORY_REGION")(e),
            };
            let slot = slot.slot;
            Error::BadSlot { slot, why }
        })?;
        if slot.size == 0 {
            slots.remove(&slot.slot);
        } else {
            slots.insert(slot.slot, slot.size);
        }
        Ok(())
    }

    fn dirty_log(&self, slot: u32) -> Result<Vec<u64>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let size = *slots
            .get(&slot)
            .ok_or(Error::BadSlot { slot, why: NO_LOG })?;
        let log = self.fd.get_dirty_log(slot, size as usize);
        log.map_err(|e| match e.errno() {
            libc::ENOENT => Error::BadSlot { slot, why: NO_LOG },
            _ => os("KVM_GET_DIRTY_LOG")(e),
        })
    }

    fn memory_written(&self, _gpa: u64, _len: u64) {}

    fn create_irqchip(&self) -> Result<()> {
        self.fd.create_irq_chip().map_err(|e| match e.errno() {
            libc::EEXIST => Error::Exists("the irqchip"),
            libc::EINVAL => Error::Missing("create_irqchip", "a VM without vCPUs"),
            _ => os("KVM_CREATE_IRQCHIP")(e),
        })
    }

    fn create_pit(&self) -> Result<()> {
        // Kernels differ: some make a PIT that nobody hears.
        if self.irqchip(0).is_err() {
            return Err(Error::Missing("create_pit", "an irqchip"));
        }
        let config = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        self.fd.create_pit2(config).map_err(|e| match e.errno() {
            libc::EEXIST => Error::Exists("the PIT"),
            _ => os("KVM_CREATE_PIT2")(e),
        })
    }

    fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()> {
        self.fd.set_irq_line(gsi, level).map_err(os("KVM_IRQ_LINE"))
    }

    fn signal_msi(&self, address: u64, data: u32) -> Result<bool> {
        let msi = kvm_msi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            ..Default::default()
        };
        let accepted = self.fd.signal_msi(msi).map_err(os("KVM_SIGNAL_MSI"))?;
        Ok(accepted > 0)
    }

    fn set_gsi_routing(&self, routes: &[kvm_irq_routing_entry]) -> Result<()> {
        let table = KvmIrqRouting::from_entries(routes).map_err(|_| Error::InvalidState {
            group: "GSI routing",
            why: "more entries than KVM_MAX_IRQ_ROUTES",
        })?;
        self.fd
            .set_gsi_routing(&table)
            .map_err(os("KVM_SET_GSI_ROUTING"))
    }

    fn irqchip(&self, chip: u32) -> Result<kvm_irqchip> {
        let mut state = kvm_irqchip {
            chip_id: chip,
            ..Default::default()
        };
        self.fd
            .get_irqchip(&mut state)
            .map_err(os("KVM_GET_IRQCHIP"))?;
        Ok(state)
    }

    fn set_irqchip(&self, chip: &kvm_irqchip) -> Result<()> {
        self.fd.set_irqchip(chip).map_err(os("KVM_SET_IRQCHIP"))
    }

    fn pit(&self) -> Result<kvm_pit_state2> {
        self.fd.get_pit2().map_err(os("KVM_GET_PIT2"))
    }

    fn set_pit(&self, pit: &kvm_pit_state2) -> Result<()> {
        self.fd.set_pit2(pit).map_err(os("KVM_SET_PIT2"))
    }

    fn clock_ns(&self) -> Result<u64> {
        let data = self.fd.get_clock().map_err(os("KVM_GET_CLOCK"))?;
        Ok(data.clock)
    }

    fn set_clock_ns(&self, ns: u64) -> Result<()> {
        let data = kvm_clock_data {
            clock: ns,
            ..Default::default()
        };
        self.fd.set_clock(&data).map_err(os("KVM_SET_CLOCK"))
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn hv::Vcpu>> {
        let fd = self.fd.create_vcpu(u64::from(id)).map_err(|e| {
            let why = match e.errno() {
                libc::EEXIST => "exists already",
                libc::EINVAL => "this host's KVM has fewer vCPUs, or smaller ids",
                _ => return os("KVM_CREATE_VCPU")(e),
            };
            Error::BadVcpu { id, why }
        })?;
        if let Some(stats) = stats::StatsFd::open(&fd) {
            self.vcpu_stats
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(stats);
        }
        Ok(Box::new(KvmVcpu::new(
            fd,
            self.fd.run_size(),
            self.tsc_khz,
        )?))
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut sums = BTreeMap::new();
        if let Some(vm) = stats::StatsFd::open(&self.fd) {
            vm.add_to(&mut sums);
        }
        let vcpus = self
            .vcpu_stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for vcpu in vcpus.iter() {
            vcpu.add_to(&mut sums);
        }
        sums.into_iter().collect()
    }
}
