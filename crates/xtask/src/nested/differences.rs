//! What the suite does differently on KVM inside QEMU's emulation of a
//! processor with SVM, who is to blame and why.
//!
//! `cargo xtask nested --trace CASE` shows KVM's exits and injections: an
//! exception that KVM did not inject is the emulated processor's own.

use std::fmt;

/// What becomes of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It fails.
    Differs,
    /// It ends the emulator, so it is not run.
    Crashes,
    /// It cannot observe anything as long as this holds in the kernel that
    /// runs KVM: a word of the `FACTS` line that is there, or is not.
    Unobservable(Fact),
}

/// A word among the facts: CPU flags, the vendor, KVM's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    Has(&'static str),
    Lacks(&'static str),
}

impl Fact {
    /// True if the line of facts says so.
    pub(super) fn holds(self, facts: &str) -> bool {
        let word = |w: &str| facts.split_whitespace().any(|f| f == w);
        match self {
            Self::Has(w) => word(w),
            Self::Lacks(w) => !word(w),
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Has(word) => write!(f, "there is {word}"),
            Self::Lacks(word) => write!(f, "there is no {word}"),
        }
    }
}

/// Who behaves so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// QEMU's emulation, against the manual.
    Tcg,
    /// KVM, by its own documentation.
    Kvm,
    /// Processors of this kind, as their manual says.
    Amd,
}

impl Owner {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tcg => "QEMU TCG",
            Self::Kvm => "KVM",
            Self::Amd => "AMD",
        }
    }
}

/// One case and its reason.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) kind: Kind,
    /// `group::name`.
    pub(super) case: &'static str,
    pub(super) owner: Owner,
    /// Section of the manual that the owner contradicts, or follows.
    pub(super) manual: &'static str,
    /// What happens instead.
    pub(super) why: &'static str,
}

const fn tcg(case: &'static str, manual: &'static str, why: &'static str) -> Known {
    row(Kind::Differs, case, Owner::Tcg, manual, why)
}

/// Not emulated with SVM.
const fn missing(case: &'static str, flag: &'static str) -> Known {
    let why = "the emulated processor does not have it";
    let kind = Kind::Unobservable(Fact::Lacks(flag));
    row(kind, case, Owner::Tcg, "APM 3 appendix E", why)
}

/// Not to be seen because the owner has it so.
const fn unseen(
    case: &'static str,
    (owner, manual, why): (Owner, &'static str, &'static str),
    fact: Fact,
) -> Known {
    row(Kind::Unobservable(fact), case, owner, manual, why)
}

const fn row(
    kind: Kind,
    case: &'static str,
    owner: Owner,
    manual: &'static str,
    why: &'static str,
) -> Known {
    Known {
        kind,
        case,
        owner,
        manual,
        why,
    }
}

const RSVD: &str = "a reserved-bit fault comes without the P bit in its error code";
const LIMITS: &str = "limits and types of segments are not checked";
const MXCSR: &str = "reserved bits of MXCSR are accepted";
const CANONICAL: &str = "a non-canonical base is accepted";
const PDPTE: &str = "a walk sets bit 5 of PDPTEs, which KVM then finds reserved";
const TARGET: &str = "the target of a branch is not checked: the fault comes there";
const XM: &str = "unmasked SIMD exceptions are not raised";

/// Found with QEMU 10.0 (`-accel tcg -cpu max,+svm`), Linux 6.1 `kvm-amd`.
#[rustfmt::skip]
pub(super) const KNOWN: &[Known] = &[
    tcg("fault::reserved_bits", "SDM 3 4.7", RSVD),
    tcg("fault::nx_bit_is_reserved_without_nxe", "SDM 3 4.7", RSVD),
    tcg("fault::large_page_4m", "SDM 3 4.7", RSVD),
    tcg("fault::large_page_2m", "SDM 3 4.7", RSVD),
    tcg("fault::large_page_1g", "SDM 3 4.7", RSVD),
    tcg("fault::non_canonical_stack", "SDM 3 6.15 #SS", "a non-canonical stack address is #GP"),
    tcg("delivery::wbinvd_in_user_mode", "APM 2 15.9", "the WBINVD intercept comes before the privilege check"),
    tcg("images::xsaves_as_offered", "SDM 2 XSAVES", "an XSAVES that is not offered is accepted"),
    tcg("processor::cache_instructions", "APM 2 15.9", "the WBINVD intercept comes before the privilege check"),
    tcg("delivery::alignment_check_in_user_mode", "SDM 3 6.15 #AC", "alignment is not checked"),
    tcg("delivery::simd_error", "SDM 1 11.5", XM),
    tcg("fpstate::unmasked_simd_error_after_a_tlb_miss", "SDM 1 11.5", XM),
    tcg("fpstate::pending_x87_error_before_a_page_fault", "SDM 3 table 6-2", "a pending x87 error comes after a fault of the operand"),
    tcg("fpstate::store_that_an_x87_error_keeps", "SDM 1 8.5.1.1", "a store that raises an unmasked x87 error accesses its operand"),
    tcg("fpstate::mmx_marks_the_x87_tags", "SDM 1 9.5", "an MMX write leaves the exponent alone"),
    tcg("fpstate::fxrstor_reserved_mxcsr", "SDM 2 FXRSTOR", MXCSR),
    tcg("fpstate::ldmxcsr_reserved_bits", "SDM 2 LDMXCSR", MXCSR),
    tcg("syscall::syscall_masks_flags", "SDM 2 SYSCALL", "the arithmetic flags are lost"),
    tcg("syscall::wrfsbase_and_friends", "SDM 2 WRFSBASE", CANONICAL),
    tcg("syscall::wrmsr_non_canonical", "SDM 2 WRMSR", CANONICAL),
    tcg("tlb::global_page_dropped_by_cr4_pge_in_pae", "SDM 3 4.4.1", PDPTE),
    tcg("remap::global_code_and_cr4_pge_in_pae", "SDM 3 4.4.1", PDPTE),
    tcg("remap::code_in_a_split_large_page", "SDM 3 4.10.4.1", "INVLPG leaves jumps to other parts of the large page as they were"),
    tcg("tlb::pae_pdptes_with_reserved_bits_by_cr4", "SDM 3 4.4.1", PDPTE),
    tcg("tlb::pae_pdptes_with_reserved_bits_by_cr0", "SDM 3 4.4.1", PDPTE),
    row(Kind::Differs, "tlb::pae_pdptes_with_reserved_bits_by_cr3", Owner::Amd, "APM 2 15.25.10", "under nested paging a MOV CR3 does not look at the PDPTEs"),
    tcg("debug::trap_flag_steps_rep_iterations", "SDM 3 17.3.1.4", "the trap behind the last iteration still points at the instruction"),
    tcg("debug::host_software_breakpoint", "APM 2 15.12.4", "the #BP intercept ignores INT3"),
    tcg("debug::mov_ss_holds_data_breakpoints_back", "SDM 3 6.8.3", "a data breakpoint of MOV SS is not held back"),
    row(Kind::Crashes, "debug::pop_ss_holds_data_breakpoints_back", Owner::Tcg, "SDM 3 6.8.3", "a data breakpoint of POP SS ends QEMU with a segmentation fault"),
    tcg("debug::a_held_breakpoint_follows_a_software_interrupt", "SDM 3 6.8.3", "a data breakpoint of MOV SS is not held back"),
    tcg("code::store_into_next_instruction", "SDM 3 8.1.3", "a store that also fills the TLB does not end the block it changes"),
    tcg("branch::near_return_to_a_non_canonical_address", "SDM 2 RET", TARGET),
    tcg("branch::near_return_with_parameters", "SDM 2 RET", TARGET),
    tcg("branch::near_jump_to_a_non_canonical_address", "SDM 2 JMP", TARGET),
    tcg("branch::near_call_of_a_non_canonical_address", "SDM 2 CALL", TARGET),
    tcg("branch::pointers_in_memory", "SDM 2 JMP", TARGET),
    tcg("branch::far_return_to_a_non_canonical_address", "SDM 2 RET", TARGET),
    tcg("branch::iret_to_a_non_canonical_address", "SDM 2 IRET", TARGET),
    tcg("branch::direct_branches_over_the_canonical_edge", "SDM 2 JMP", TARGET),
    tcg("code::user_branch_over_the_canonical_edge", "SDM 2 CALL", TARGET),
    tcg("branch::a_good_return_follows_a_bad_one", "SDM 2 RET", TARGET),
    tcg("privilege::iret_checks_every_selector", "SDM 2 IRET", "an absent stack segment is #NP"),
    tcg("privilege::iret_sets_the_accessed_bit", "SDM 3 3.4.5.1", "IRET does not set the accessed bit of CS"),
    tcg("privilege::iret_refuses_an_address_each_time", "SDM 2 IRET", TARGET),
    tcg("privilege::iret_loads_all_flags", "SDM 2 IRET", "VIF is not loaded"),
    tcg("privilege::iret_to_checked_alignment", "SDM 3 6.15 #AC", "alignment is not checked"),
    tcg("privilege::iret_sets_rf_for_one_instruction", "SDM 3 17.3.1.1", "RF lasts to the end of the block"),
    tcg("privilege::iret_to_a_null_stack_segment", "SDM 2 IRET", "a null SS may have another RPL than CS"),
    tcg("privilege::sysret_loads_all_flags", "SDM 2 SYSRET", "VIF is not loaded"),
    tcg("privilege::sysret_to_checked_alignment", "SDM 3 6.15 #AC", "alignment is not checked"),
    tcg("privilege::syscall_wraps_selectors", "SDM 2 SYSRET", "the sum of selectors is not cut off at 16 bits"),
    tcg("segment::real_mode_limit", "SDM 3 20.1.1", LIMITS),
    tcg("segment::real_mode_word_at_the_limit", "SDM 3 20.1.1", LIMITS),
    tcg("segment::limit_violation", "SDM 3 5.3", LIMITS),
    tcg("segment::byte_granular_limit_across", "SDM 3 5.3", LIMITS),
    tcg("segment::expand_down_segment", "SDM 3 5.3", LIMITS),
    tcg("segment::stack_limit_violation", "SDM 3 5.3", LIMITS),
    tcg("segment::read_only_data_segment", "SDM 3 5.5", LIMITS),
    tcg("segment::execute_only_code_segment", "SDM 3 5.5", LIMITS),
    tcg("segment::null_segment_is_unusable", "SDM 3 3.4.2", LIMITS),
    tcg("segment::code_limit", "SDM 3 5.3", LIMITS),
    tcg(
        "branch::far_branches_to_a_non_canonical_address",
        "APM 3 JMP (Far)",
        "64-bit far pointers exist on AMD's processors, too",
    ),
    tcg(
        "processor::sysexit_to_64_bit_mode",
        "APM 3 SYSEXIT",
        "SYSEXIT exists in long mode on AMD's processors, too",
    ),
    missing("tlb::pcid_entry_changed_while_inactive", "pcid"),
    missing("tlb::pcid_kept_with_bit_63", "pcid"),
    missing("tlb::pcid_reused_with_other_tables", "pcid"),
    missing("tlb::pcid_tags_do_not_mix", "pcid"),
    missing("tlb::pcid_needs_long_mode_and_zero_pcid", "pcid"),
    missing("tlb::invpcid_one_address", "pcid"),
    missing("tlb::invpcid_one_tag", "pcid"),
    missing("tlb::invpcid_all", "pcid"),
    missing("processor::invpcid_in_protected_mode", "invpcid"),
    missing("images::xsavec_compacts", "xsavec"),
    missing("processor::serialize_changes_nothing", "serialize"),
    missing("masks::hidden_elements_do_not_fault", "avx512bw"),
    missing("masks::an_empty_mask_leaves_the_dirty_bit", "avx512bw"),
    missing("masks::hidden_elements_are_not_stored", "avx512bw"),
    unseen("offered::hidden_instructions_are_undefined", INTERCEPTS, Fact::Has("svm")),
    unseen("offered::vmx_and_svm_are_hidden", NESTED, Fact::Has("nested=1")),
    unseen("processor::monitor_and_mwait_as_offered", MONITOR, Fact::Has("nested=1")),
];

const INTERCEPTS: (Owner, &str, &str) = (
    Owner::Amd,
    "APM 2 15.9",
    "what has no intercept runs whatever CPUID says",
);
const NESTED: (Owner, &str, &str) = (Owner::Kvm, "KVM API 4.46", "nested SVM is offered");
const MONITOR: (Owner, &str, &str) = (
    Owner::Kvm,
    "KVM API 7.30",
    "MONITOR and MWAIT do nothing where they are not offered",
);
