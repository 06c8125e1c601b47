//! MSRs with behaviour: time, APIC, kvmclock, speculation controls.

use crate::world::World;
use isa::Stop;
use x86::{CpuState, Exception, msr};

/// MSRs worth saving (`KVM_GET_MSR_INDEX_LIST`).
pub const LIST: &[u32] = &[
    msr::TSC,
    msr::APIC_BASE,
    msr::TSC_ADJUST,
    msr::SPEC_CTRL,
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
    msr::MCG_STATUS,
    msr::MISC_ENABLE,
    msr::DEBUGCTL,
    msr::PAT,
    msr::MTRR_DEF_TYPE,
    msr::TSC_DEADLINE,
    msr::EFER,
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::FS_BASE,
    msr::GS_BASE,
    msr::KERNEL_GS_BASE,
    msr::TSC_AUX,
    msr::KVM_WALL_CLOCK,
    msr::KVM_SYSTEM_TIME,
    msr::KVM_WALL_CLOCK_NEW,
    msr::KVM_SYSTEM_TIME_NEW,
];

/// RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, MDS_NO, PSCHANGE_MC_NO, TAA_NO,
/// SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO
/// (SDM vol 4, IA32_ARCH_CAPABILITIES): what the threat model says about them
/// is in the design; the guest need not defend against what translation and
/// the host already decide.
const ARCH_CAPABILITIES: u64 = 1
    | 1 << 1
    | 1 << 3
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27
    | 1 << 62;
/// IBRS, STIBP, SSBD, BHI_DIS_S (SDM vol 4, IA32_SPEC_CTRL).
const SPEC_CTRL: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 10;
/// 8 variable ranges, fixed ranges, write-combining (SDM vol 3, 11.11.1).
const MTRR_CAP: u64 = 0x508;
/// How an AMD processor is set up, firmware's affair, and what it reads as. Kernels
/// for these read and write them without asking whether they are there; what is
/// written changes nothing.
const AMD_SETUP: [(u32, u64); 13] = [
    (msr::AMD_SYSCFG, 0),
    (msr::AMD_HWCR, 0),
    (msr::AMD_NB_CFG, 0),
    (msr::AMD_INT_PENDING, 0),
    (msr::AMD_MMIO_CONF_BASE, 0),
    (msr::AMD_TSEG_ADDR, 0),
    (msr::AMD_TSEG_MASK, 0),
    (msr::AMD_LS_CFG, 0),
    (msr::AMD_DC_CFG, 0),
    (msr::AMD_TW_CFG, 0),
    // LFENCE is serializing (APM vol 2, 3.1.7), as translated code has it.
    (msr::AMD_DE_CFG, 1 << 1),
    (msr::AMD_BU_CFG2, 0),
    (msr::AMD_EX_CFG, 0),
];
/// A microcode revision, so that guests do not ask for an update.
const MICROCODE: u64 = 0x1_0000_0000;

const GP0: Stop = Stop::Fault(Exception::GP0);

/// kvmclock's MSRs as written, and the TSC.
#[derive(Debug, Default)]
pub struct ClockMsrs {
    /// Guest TSC minus host TSC.
    pub tsc_offset: u64,
    /// KVM_SYSTEM_TIME(_NEW).
    pub system_time: u64,
    /// KVM_WALL_CLOCK(_NEW).
    pub wall_clock: u64,
}

impl World<'_> {
    /// Guest TSC now.
    pub fn guest_tsc(&self) -> u64 {
        crate::clock::host_tsc().wrapping_add(self.local.clock.tsc_offset)
    }

    /// RDMSR of what is not plain storage.
    pub fn read_msr(&mut self, cpu: &CpuState, index: u32) -> Result<u64, Stop> {
        let now = self.vm.clock.now_ns();
        Ok(match index {
            msr::TSC => self.guest_tsc(),
            msr::APIC_BASE => self.apic_base(cpu),
            msr::TSC_DEADLINE => self.vm.chipset.lock().tsc_deadline(self.index),
            msr::X2APIC_FIRST..=msr::X2APIC_LAST if self.vm.has_irqchip() => self
                .vm
                .chipset
                .lock()
                .x2apic_read(self.index, index, now)
                .map_err(|_| GP0)?,
            _ => {
                let stored = stored(cpu, &self.local.clock, index);
                stored.or_else(|| self.amd_setup(cpu, index)).ok_or(GP0)?
            }
        })
    }

    /// What a register of [`AMD_SETUP`] reads as, if the guest's processor has it.
    fn amd_setup(&mut self, cpu: &CpuState, index: u32) -> Option<u64> {
        let (_, value) = AMD_SETUP.iter().find(|(i, _)| *i == index)?;
        isa::is_amd(cpu, self).then_some(*value)
    }

    fn apic_base(&self, cpu: &CpuState) -> u64 {
        if self.vm.has_irqchip() {
            self.vm.chipset.lock().apic_base(self.index)
        } else {
            cpu.msr.apic_base
        }
    }

    /// WRMSR of what is not plain storage; `host` skips the checks that only
    /// concern guests.
    pub fn write_msr(
        &mut self,
        cpu: &mut CpuState,
        index: u32,
        value: u64,
        host: bool,
    ) -> Result<(), Stop> {
        match index {
            msr::TSC => self.set_tsc(cpu, value, host),
            msr::TSC_ADJUST => {
                if !host {
                    let delta = value.wrapping_sub(cpu.msr.tsc_adjust);
                    self.move_tsc(delta);
                }
                cpu.msr.tsc_adjust = value;
            }
            msr::APIC_BASE => self.set_apic_base(cpu, value, host)?,
            msr::TSC_DEADLINE => {
                let clock = self.vm.clock_now(self.local.clock.tsc_offset);
                let index = self.index;
                self.vm
                    .with_chipset_on(index, |c| c.set_tsc_deadline(index, value, &clock));
            }
            msr::X2APIC_FIRST..=msr::X2APIC_LAST if self.vm.has_irqchip() => {
                let (cpu, now) = (self.index, self.vm.clock.now_ns());
                self.vm
                    .with_chipset_on(cpu, |c| c.x2apic_write(cpu, index, value, now))
                    .map_err(|_| GP0)?;
            }
            // Nothing to do: the host decides.
            msr::SPEC_CTRL if value & !SPEC_CTRL == 0 => cpu.msr.spec_ctrl = value,
            msr::PRED_CMD | msr::FLUSH_CMD if value & !1 == 0 => {}
            msr::MISC_ENABLE => cpu.msr.misc_enable = value,
            msr::DEBUGCTL if value & !3 == 0 => cpu.msr.debugctl = value,
            msr::MCG_STATUS if value == 0 || host => cpu.msr.mcg_status = value,
            msr::BIOS_SIGN_ID => {}
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_NEW => {
                self.local.clock.system_time = value;
                self.update_kvmclock();
            }
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_NEW => {
                self.local.clock.wall_clock = value;
                if !host {
                    self.write_wall_clock(value);
                }
            }
            _ => {
                self.amd_setup(cpu, index).ok_or(GP0)?;
            }
        }
        Ok(())
    }

    fn set_tsc(&mut self, cpu: &mut CpuState, value: u64, host: bool) {
        let delta = value.wrapping_sub(self.guest_tsc());
        if !host {
            cpu.msr.tsc_adjust = cpu.msr.tsc_adjust.wrapping_add(delta);
        }
        self.move_tsc(delta);
    }

    fn move_tsc(&mut self, delta: u64) {
        let clock = &mut self.local.clock;
        clock.tsc_offset = clock.tsc_offset.wrapping_add(delta);
        let (index, now) = (self.index, self.vm.clock_now(clock.tsc_offset));
        self.vm
            .with_chipset_on(index, |c| c.tsc_changed(index, &now));
        self.update_kvmclock();
    }

    fn set_apic_base(&mut self, cpu: &mut CpuState, value: u64, host: bool) -> Result<(), Stop> {
        if self.vm.has_irqchip() {
            let index = self.index;
            self.vm
                .with_chipset_on(index, |c| {
                    if host {
                        c.set_apic_base(index, value)
                    } else {
                        c.write_apic_base(index, value)
                    }
                })
                .map_err(|_| GP0)?;
        }
        cpu.msr.apic_base = value;
        Ok(())
    }

    /// Tells the VM's clock where this vCPU's page is and what its TSC shows.
    fn update_kvmclock(&mut self) {
        let clock = &self.local.clock;
        let page = (clock.system_time & 1 != 0).then_some(clock.system_time & !1);
        self.vm
            .set_kvmclock_page(self.index, page, clock.tsc_offset);
    }

    /// Writes `pvclock_wall_clock`: the time of day when kvmclock was 0.
    fn write_wall_clock(&mut self, gpa: u64) {
        let wall = crate::clock::wall_reading();
        let shown = self.vm.kvmclock.lock().at(wall.tsc);
        let boot = std::time::Duration::from_nanos(wall.ns.saturating_sub(shown));
        let mut b = [0u8; 12];
        b[0..4].copy_from_slice(&2u32.to_le_bytes());
        b[4..8].copy_from_slice(&(boot.as_secs() as u32).to_le_bytes());
        b[8..12].copy_from_slice(&boot.subsec_nanos().to_le_bytes());
        if !self.map.write(gpa, &b) {
            return;
        }
        for (at, len) in softmmu::pages_of(gpa, b.len() as u64) {
            self.code_written(at, len);
        }
    }
}

/// Value of an MSR that is storage of the vCPU outside [`x86::Msrs`]' plain
/// ones.
pub fn stored(cpu: &CpuState, clock: &ClockMsrs, index: u32) -> Option<u64> {
    Some(match index {
        msr::TSC_ADJUST => cpu.msr.tsc_adjust,
        msr::APIC_BASE => cpu.msr.apic_base,
        msr::SPEC_CTRL => cpu.msr.spec_ctrl,
        msr::MISC_ENABLE => cpu.msr.misc_enable,
        msr::DEBUGCTL => cpu.msr.debugctl,
        msr::MCG_STATUS => cpu.msr.mcg_status,
        msr::ARCH_CAPABILITIES => ARCH_CAPABILITIES,
        msr::MTRR_CAP => MTRR_CAP,
        msr::BIOS_SIGN_ID => MICROCODE,
        msr::FEATURE_CONTROL => 1, // locked, VMX off
        msr::PLATFORM_ID | msr::MCG_CAP | msr::SMI_COUNT => 0,
        msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_NEW => clock.system_time,
        msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_NEW => clock.wall_clock,
        _ => return None,
    })
}
