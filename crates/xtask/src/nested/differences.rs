//! Where QEMU's emulation of a processor with SVM differs from the manuals.

/// One case that fails there, and why that is QEMU's doing.
pub(super) struct Difference {
    /// `group::name`.
    pub(super) case: &'static str,
    /// Section of the manual that the emulation contradicts.
    pub(super) manual: &'static str,
    /// What it does instead.
    pub(super) why: &'static str,
}

const fn difference(case: &'static str, manual: &'static str, why: &'static str) -> Difference {
    Difference { case, manual, why }
}

const RSVD: &str = "a reserved-bit fault comes without the P bit in its error code";
const LIMITS: &str = "limits and types of segments are not checked";
const INT: &str = "a fault of INT n pushes the address behind the instruction";
const MXCSR: &str = "reserved bits of MXCSR are accepted";
const CANONICAL: &str = "a non-canonical base is accepted";
const PDPTE: &str = "a walk sets bit 5 of PDPTEs, which KVM then finds reserved";
const TARGET: &str = "the target of a branch is not checked: the fault comes there";
const XM: &str = "unmasked SIMD exceptions are not raised";

/// Found with QEMU 10.0 (`-accel tcg -cpu max,+svm`), Linux 6.1 `kvm-amd`.
#[rustfmt::skip]
pub(super) const DIFFERENCES: &[Difference] = &[
    difference("fault::reserved_bits", "SDM 3 4.7", RSVD),
    difference("fault::nx_bit_is_reserved_without_nxe", "SDM 3 4.7", RSVD),
    difference("fault::large_page_4m", "SDM 3 4.7", RSVD),
    difference("fault::large_page_2m", "SDM 3 4.7", RSVD),
    difference("fault::large_page_1g", "SDM 3 4.7", RSVD),
    difference("fault::non_canonical_stack", "SDM 3 6.15 #SS", "a non-canonical stack address is #GP"),
    difference("delivery::wbinvd_in_user_mode", "APM 2 15.9", "the WBINVD intercept comes before the privilege check"),
    difference("delivery::gate_privilege", "SDM 3 6.12.1.1", INT),
    difference("delivery::missing_gate_error_code", "SDM 3 6.13", INT),
    difference("delivery::page_fault_in_gate_lookup_is_double_fault", "SDM 3 table 6-5", "#PF then #NP is not seen as a double fault"),
    difference("delivery::alignment_check_in_user_mode", "SDM 3 6.15 #AC", "alignment is not checked"),
    difference("delivery::simd_error", "SDM 1 11.5", XM),
    difference("fpstate::unmasked_simd_error_after_a_tlb_miss", "SDM 1 11.5", XM),
    difference("fpstate::mmx_marks_the_x87_tags", "SDM 1 9.5", "an MMX write leaves the exponent alone"),
    difference("fpstate::fxrstor_reserved_mxcsr", "SDM 2 FXRSTOR", MXCSR),
    difference("fpstate::ldmxcsr_reserved_bits", "SDM 2 LDMXCSR", MXCSR),
    difference("syscall::syscall_masks_flags", "SDM 2 SYSCALL", "the arithmetic flags are lost"),
    difference("syscall::wrfsbase_and_friends", "SDM 2 WRFSBASE", CANONICAL),
    difference("syscall::wrmsr_non_canonical", "SDM 2 WRMSR", CANONICAL),
    difference("tlb::global_page_dropped_by_cr4_pge_in_pae", "SDM 3 4.4.1", PDPTE),
    difference("tlb::pae_pdptes_with_reserved_bits_by_cr4", "SDM 3 4.4.1", PDPTE),
    difference("tlb::pae_pdptes_with_reserved_bits_by_cr0", "SDM 3 4.4.1", PDPTE),
    difference("tlb::pae_pdptes_with_reserved_bits_by_cr3", "APM 2 15.25.10", "under nested paging a MOV CR3 does not look at the PDPTEs"),
    difference("debug::trap_flag_steps_rep_iterations", "SDM 3 17.3.1.4", "the trap behind the last iteration still points at the instruction"),
    difference("debug::host_software_breakpoint", "APM 2 15.12", "the #BP intercept ignores INT3"),
    difference("code::store_into_next_instruction", "SDM 3 8.1.3", "a store that also fills the TLB does not end the block it changes"),
    difference("branch::near_return_to_a_non_canonical_address", "SDM 2 RET", TARGET),
    difference("branch::near_return_with_parameters", "SDM 2 RET", TARGET),
    difference("branch::near_jump_to_a_non_canonical_address", "SDM 2 JMP", TARGET),
    difference("branch::near_call_of_a_non_canonical_address", "SDM 2 CALL", TARGET),
    difference("branch::pointers_in_memory", "SDM 2 JMP", TARGET),
    difference("branch::far_return_to_a_non_canonical_address", "SDM 2 RET", TARGET),
    difference("branch::iret_to_a_non_canonical_address", "SDM 2 IRET", TARGET),
    difference("branch::direct_branches_over_the_canonical_edge", "SDM 2 JMP", TARGET),
    difference("branch::a_good_return_follows_a_bad_one", "SDM 2 RET", TARGET),
    difference("task::task_gate_in_the_idt", "APM 2 15.7.2", "the task-switch intercept does not name the exception, so KVM delivers it twice"),
    difference("segment::real_mode_limit", "SDM 3 20.1.1", LIMITS),
    difference("segment::real_mode_word_at_the_limit", "SDM 3 20.1.1", LIMITS),
    difference("segment::limit_violation", "SDM 3 5.3", LIMITS),
    difference("segment::byte_granular_limit_across", "SDM 3 5.3", LIMITS),
    difference("segment::expand_down_segment", "SDM 3 5.3", LIMITS),
    difference("segment::stack_limit_violation", "SDM 3 5.3", LIMITS),
    difference("segment::read_only_data_segment", "SDM 3 5.5", LIMITS),
    difference("segment::execute_only_code_segment", "SDM 3 5.5", LIMITS),
    difference("segment::null_segment_is_unusable", "SDM 3 3.4.2", LIMITS),
    difference("segment::code_limit", "SDM 3 5.3", LIMITS),
];
