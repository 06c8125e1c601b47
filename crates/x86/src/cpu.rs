//! The architectural state of one vCPU as plain data.
//!
//! The layout is `repr(C)` because translated code addresses fields by offset.
//! Everything a guest can observe lives here, so that a state can be saved,
//! restored and compared; caches (TLBs, translations) live elsewhere.

use crate::bits::{cr0, dr, efer, flags};
use crate::exception::{Exception, vector};
use crate::msr;
use crate::segment::{DescTable, Seg, Segment, attr};
use crate::xstate;

/// Bytes reserved for the XSAVE image, standard (non-compacted) format up to
/// and including PKRU (SDM vol 1, 13.4: 2,696 bytes, rounded up).
pub const XSAVE_SIZE: usize = 2752;

/// The XSAVE image in the standard format: legacy FXSAVE region, header, then
/// the extended components where [`CpuState::xlayout`] says.
#[repr(C, align(64))]
#[derive(Clone, PartialEq, Eq)]
pub struct XsaveArea(pub [u8; XSAVE_SIZE]);

impl Default for XsaveArea {
    fn default() -> Self {
        let mut a = [0; XSAVE_SIZE];
        a[0..2].copy_from_slice(&0x037fu16.to_le_bytes());
        a[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        a[28..32].copy_from_slice(&0xffffu32.to_le_bytes());
        a[512] = 3; // XSTATE_BV: x87 and SSE present in the image
        Self(a)
    }
}

impl XsaveArea {
    /// An unmasked x87 exception waits for the next waiting instruction
    /// (SDM vol 1, 8.1.3.3).
    pub fn x87_error_pending(&self) -> bool {
        const X87: u8 = 1; // in XSTATE_BV
        const ES: u8 = 0x80; // in the status word
        self.0[512] & X87 != 0 && self.0[2] & ES != 0
    }

    /// Some x87 exception is unmasked: a store that raises it does not access
    /// its operand at all (SDM vol 1, 8.5, as processors do it).
    pub fn x87_unmasked(&self) -> bool {
        const X87: u8 = 1; // in XSTATE_BV
        const MASKS: u8 = 0x3f; // in the control word
        self.0[512] & X87 != 0 && self.0[0] & MASKS != MASKS
    }
}

impl std::fmt::Debug for XsaveArea {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("XsaveArea")
    }
}

/// MSRs that are plain storage; those with behaviour (TSC, APIC, clocks) are
/// resolved by the backend.
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_aux: u64,
    pub pat: u64,
    pub misc_enable: u64,
    pub spec_ctrl: u64,
    pub tsc_adjust: u64,
    pub debugctl: u64,
    pub apic_base: u64,
    pub mtrr_def_type: u64,
    pub mtrr_var: [u64; 16],
    pub mtrr_fixed: [u64; 11],
    pub mcg_status: u64,
    pub xss: u64,
}

/// Interrupt shadow (SDM vol 3, 6.8.3): what the previous instruction blocks
/// for one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Shadow {
    /// Nothing blocked.
    #[default]
    None = 0,
    /// Set by STI: maskable interrupts wait one instruction.
    Sti = 1,
    /// Set by MOV SS / POP SS: interrupts, NMI and #DB wait one instruction.
    MovSs = 2,
}

/// Multiprocessor state, as KVM_GET_MP_STATE names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum MpState {
    /// Running.
    #[default]
    Runnable = 0,
    /// An application processor before INIT.
    Uninitialized = 1,
    /// INIT received, waiting for SIPI.
    InitReceived = 2,
    /// In HLT.
    Halted = 3,
}

/// An event to be delivered before the next instruction, whose delivery was
/// requested from outside or interrupted by an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// A hardware exception.
    Exception(Exception),
    /// An external interrupt that has been acknowledged (vector taken).
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
}

/// Event state (the contents of `kvm_vcpu_events` that we model).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Injected, not yet delivered.
    pub pending: Option<Pending>,
    /// NMIs latched (0..=2).
    pub nmi_pending: u8,
    /// NMIs blocked until IRET.
    pub nmi_blocked: bool,
    /// One-instruction blocking.
    pub shadow: Shadow,
}

impl Events {
    /// What is to be delivered before the next instruction. Traps of MOV SS
    /// and POP SS are pending but wait for that instruction (SDM vol 3,
    /// 6.8.3).
    pub fn due(&self) -> Option<Pending> {
        self.pending.filter(|_| self.held().is_none())
    }

    /// DR6 bits of a #DB that waits for the instruction after MOV SS.
    pub fn held(&self) -> Option<u64> {
        match self.pending {
            Some(Pending::Exception(e))
                if e.vector == vector::DB && self.shadow == Shadow::MovSs =>
            {
                Some(e.payload)
            }
            _ => None,
        }
    }
}

/// All architectural state of one vCPU.
#[repr(C, align(64))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct CpuState {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// Indexed by [`Seg`].
    pub seg: [Segment; 8],
    pub gdtr: DescTable,
    pub idtr: DescTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    /// CR8 as last written when no local APIC owns the TPR.
    pub cr8: u64,
    pub efer: u64,
    pub xcr0: u64,
    /// DR0..=3 in 0..=3, DR6 in 6, DR7 in 7; 4 and 5 unused.
    pub dr: [u64; 8],
    pub msr: Msrs,
    pub events: Events,
    pub mp_state: MpState,
    pub xsave: XsaveArea,
    /// Places in [`Self::xsave`]: not the guest's to see, but the host's, whose
    /// instructions fill it.
    pub xlayout: xstate::Layout,
}

impl Default for CpuState {
    fn default() -> Self {
        Self::reset(0)
    }
}

impl CpuState {
    /// Power-up state (SDM vol 3, table 9-1); `apic_id` 0 is the bootstrap
    /// processor.
    pub fn reset(apic_id: u32) -> Self {
        let mut seg = [Segment::real(0); 8];
        seg[Seg::Cs as usize] = Segment {
            base: 0xffff_0000,
            limit: 0xffff,
            selector: 0xf000,
            attr: attr::P | attr::S | attr::X | attr::RW | attr::A,
        };
        seg[Seg::Ldtr as usize] = Segment {
            base: 0,
            limit: 0xffff,
            selector: 0,
            attr: attr::P | 2,
        };
        seg[Seg::Tr as usize] = Segment {
            base: 0,
            limit: 0xffff,
            selector: 0,
            attr: attr::P | 0xb,
        };
        let mut gpr = [0; 16];
        gpr[crate::gpr::RDX] = 0x600;
        let table = DescTable {
            base: 0,
            limit: 0xffff,
        };
        let mut drs = [0; 8];
        drs[6] = dr::DR6_FIXED1;
        drs[7] = dr::DR7_FIXED1;
        Self {
            gpr,
            rip: 0xfff0,
            rflags: flags::FIXED1,
            seg,
            gdtr: table,
            idtr: table,
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            efer: 0,
            xcr0: 1,
            dr: drs,
            msr: Msrs::reset(apic_id),
            events: Events::default(),
            mp_state: if apic_id == 0 {
                MpState::Runnable
            } else {
                MpState::Uninitialized
            },
            xsave: XsaveArea::default(),
            xlayout: xstate::Layout::INTEL,
        }
    }
    /// A segment register.
    pub fn seg(&self, s: Seg) -> &Segment {
        &self.seg[s as usize]
    }
    /// A segment register, for writing.
    pub fn seg_mut(&mut self, s: Seg) -> &mut Segment {
        &mut self.seg[s as usize]
    }
    /// Current privilege level: 0 in real mode, 3 in virtual-8086 mode, else
    /// the DPL cached in SS (as VMX defines it).
    pub fn cpl(&self) -> u8 {
        if self.cr0 & cr0::PE == 0 {
            0
        } else if self.rflags & flags::VM != 0 {
            3
        } else {
            self.seg[Seg::Ss as usize].dpl()
        }
    }
    /// IA-32e mode active (EFER.LMA).
    pub fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }
    /// Executing 64-bit code (LMA and CS.L).
    pub fn code64(&self) -> bool {
        self.long_mode() && self.seg[Seg::Cs as usize].long()
    }
    /// Linear address of the instruction at CS:RIP.
    pub fn linear_rip(&self) -> u64 {
        if self.code64() {
            self.rip
        } else {
            self.seg[Seg::Cs as usize].base.wrapping_add(self.rip) & 0xffff_ffff
        }
    }
    /// Default code bitness: 64, 32 or 16.
    pub fn bitness(&self) -> u32 {
        if self.code64() {
            64
        } else if self.seg[Seg::Cs as usize].db() && self.rflags & flags::VM == 0 {
            32 // in real mode, too, with a D bit cached from protected mode
        } else {
            16
        }
    }
    /// Protected mode and not virtual-8086.
    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0 && self.rflags & flags::VM == 0
    }
    /// Paging enabled.
    pub fn paging(&self) -> bool {
        self.cr0 & cr0::PG != 0
    }
}

impl Msrs {
    /// Reset values.
    pub fn reset(apic_id: u32) -> Self {
        let bsp = if apic_id == 0 { 1 << 8 } else { 0 };
        Self {
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_aux: 0,
            pat: msr::PAT_RESET,
            misc_enable: 1, // fast strings
            spec_ctrl: 0,
            tsc_adjust: 0,
            debugctl: 0,
            apic_base: 0xfee0_0000 | (1 << 11) | bsp,
            mtrr_def_type: 0,
            mtrr_var: [0; 16],
            mtrr_fixed: [0; 11],
            mcg_status: 0,
            xss: 0,
        }
    }
}
