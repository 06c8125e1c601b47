//! System instructions and the conformance cases that execute them.

use iced_x86::Code as C;

/// Codes, and the cases that between them execute every one of these.
type Row = (&'static [C], &'static [&'static str]);

/// One row a topic; the tests run the cases and compare.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    // Processor state.
    (&[C::Hlt], &["delivery::halt_leaves_rip_behind_it", "interrupt::interrupt_wakes_hlt"]),
    (&[
        C::Cli, C::Sti,
    ], &[
        "interrupt::cli_closes_the_window",
        "interrupt::sti_shadow_lasts_one_instruction",
    ]),
    (&[C::Clac, C::Stac], &["fault::smap_and_ac"]),
    (&[
        C::Pushfw, C::Pushfd, C::Pushfq,
    ], &[
        "task::vm86_sensitive_instructions", "syscall::sysenter_and_sysexit_32",
        "fpstate::alignment_flag_across_an_interrupt",
    ]),
    (&[
        C::Popfw, C::Popfd, C::Popfq,
    ], &[
        "interrupt::popf_opens_the_window_at_once", "task::vm86_sensitive_instructions",
    ]),
    (&[
        C::Cpuid,
    ], &[
        "regs::cpuid_table_is_what_the_guest_sees", "offered::osxsave_bit_follows_cr4",
    ]),
    (&[C::Rdtsc], &["syscall::tsd_stops_user_rdtsc", "control::tsc_can_be_set"]),
    (&[C::Rdtscp], &["syscall::rdtscp_gives_tsc_aux"]),
    (&[C::Rdpid_r32, C::Rdpid_r64], &["processor::rdpid_reads_tsc_aux"]),
    (&[C::Serialize], &["processor::serialize_changes_nothing"]),
    (&[
        C::Rdrand_r16, C::Rdrand_r32, C::Rdrand_r64, C::Rdseed_r16, C::Rdseed_r32,
        C::Rdseed_r64,
    ], &[
        "processor::random_numbers",
    ]),
    (&[C::Rdpmc], &["processor::rdpmc_of_a_missing_counter"]),
    (&[
        C::Rdmsr, C::Wrmsr,
    ], &[
        "regs::guest_changes_are_visible", "regs::unknown_msr_is_refused",
        "irqchip::tsc_deadline_timer",
    ]),
    (&[C::Xgetbv, C::Xsetbv], &["syscall::xgetbv_and_xsetbv"]),
    (&[
        C::Invd, C::Wbinvd, C::Wbnoinvd,
    ], &[
        "processor::cache_instructions", "delivery::wbinvd_in_user_mode",
    ]),
    (&[
        C::Monitorw, C::Monitord, C::Monitorq, C::Mwait,
    ], &[
        "processor::monitor_and_mwait_as_offered",
    ]),
    (&[C::Vmcall, C::Vmmcall], &["processor::unknown_hypercall"]),
    (&[
        C::Ud0_r16_rm16, C::Ud0_r32_rm32, C::Ud0_r64_rm64, C::Ud1_r16_rm16,
        C::Ud1_r32_rm32, C::Ud1_r64_rm64, C::Ud2,
    ], &[
        "processor::undefined_instructions",
    ]),
    // Ports.
    (&[
        C::In_AL_imm8, C::In_AX_imm8, C::In_EAX_imm8,
    ], &[
        "pio::in_immediate_port", "processor::sixteen_bit_port_read",
    ]),
    (&[C::In_AL_DX, C::In_AX_DX, C::In_EAX_DX], &["pio::in_dx_keeps_or_clears_upper_bits"]),
    (&[
        C::Out_imm8_AL, C::Out_imm8_AX, C::Out_imm8_EAX,
    ], &[
        "pio::out_immediate_port", "pio::user_io_bitmap_spans_bytes",
    ]),
    (&[C::Out_DX_AL, C::Out_DX_AX, C::Out_DX_EAX], &["pio::out_dx"]),
    (&[C::Insb_m8_DX, C::Insw_m16_DX, C::Insd_m32_DX], &["pio::rep_ins_every_width"]),
    (&[C::Outsb_DX_m8, C::Outsw_DX_m16, C::Outsd_DX_m32], &["pio::rep_outs_every_width"]),
    // Control and debug registers, address translation.
    (&[
        C::Mov_r32_cr, C::Mov_cr_r32, C::Mov_r64_cr, C::Mov_cr_r64,
    ], &[
        "tlb::cr3_write_drops_everything", "regs::guest_changes_are_visible",
    ]),
    (&[C::Mov_r32_dr, C::Mov_dr_r32], &["processor::debug_registers_in_32_bit_code"]),
    (&[C::Mov_r64_dr, C::Mov_dr_r64], &["debug::debug_register_access", "debug::general_detect"]),
    (&[C::Clts], &["fpstate::clts_ends_device_not_available"]),
    (&[C::Lmsw_rm16, C::Lmsw_r32m16, C::Lmsw_r64m16], &["tables::lmsw_sets_low_bits"]),
    (&[
        C::Smsw_rm16, C::Smsw_r32m16, C::Smsw_r64m16,
    ], &[
        "tables::smsw_widths", "syscall::umip_stops_user_sgdt",
    ]),
    (&[C::Invlpg_m], &["tlb::invlpg_drops_the_page", "tlb::invlpg_drops_global_page"]),
    (&[C::Invpcid_r32_m128], &["processor::invpcid_in_protected_mode"]),
    (&[
        C::Invpcid_r64_m128,
    ], &[
        "tlb::invpcid_one_address", "tlb::invpcid_one_tag", "tlb::invpcid_all",
    ]),
    // Segments and descriptor tables.
    (&[
        C::Mov_Sreg_rm16, C::Mov_Sreg_r32m16, C::Mov_Sreg_r64m16,
    ], &[
        "far::mov_segment_register_widths", "segment::load_sets_accessed_bit",
    ]),
    (&[
        C::Popw_ES, C::Popd_ES, C::Popw_SS, C::Popd_SS, C::Popw_DS, C::Popd_DS,
        C::Popw_FS, C::Popd_FS, C::Popq_FS, C::Popw_GS, C::Popd_GS, C::Popq_GS,
    ], &[
        "far::pop_segment_register",
    ]),
    (&[
        C::Les_r16_m1616, C::Les_r32_m1632, C::Lds_r16_m1616, C::Lds_r32_m1632,
        C::Lss_r16_m1616, C::Lss_r32_m1632, C::Lfs_r16_m1616, C::Lfs_r32_m1632,
        C::Lgs_r16_m1616, C::Lgs_r32_m1632,
    ], &[
        "far::load_far_pointer",
    ]),
    (&[
        C::Lss_r64_m1664, C::Lfs_r64_m1664, C::Lgs_r64_m1664,
    ], &[
        "far::load_far_pointer_with_64_bit_offset",
    ]),
    (&[
        C::Lgdt_m1632_16, C::Lidt_m1632_16, C::Sgdt_m1632_16, C::Sidt_m1632_16,
    ], &[
        "tables::sixteen_bit_operands_load_24_bits",
    ]),
    (&[
        C::Lgdt_m1632, C::Lgdt_m1664, C::Sgdt_m1632, C::Sgdt_m1664,
    ], &[
        "segment::sgdt_lgdt_round_trip",
    ]),
    (&[
        C::Lidt_m1632, C::Lidt_m1664, C::Sidt_m1632, C::Sidt_m1664,
    ], &[
        "tables::lidt_moves_the_table",
    ]),
    (&[
        C::Lldt_rm16, C::Lldt_r32m16, C::Lldt_r64m16, C::Ltr_rm16, C::Ltr_r32m16,
        C::Ltr_r64m16,
    ], &[
        "tables::load_selector_widths", "segment::ltr_and_str", "segment::ldt_segment",
    ]),
    (&[
        C::Sldt_rm16, C::Sldt_r32m16, C::Sldt_r64m16, C::Str_rm16, C::Str_r32m16,
        C::Str_r64m16,
    ], &[
        "tables::store_selector_widths",
    ]),
    (&[
        C::Lar_r16_rm16, C::Lar_r32_r32m16, C::Lar_r64_r64m16, C::Lsl_r16_rm16,
        C::Lsl_r32_r32m16, C::Lsl_r64_r64m16, C::Verr_rm16, C::Verr_r32m16,
        C::Verr_r64m16, C::Verw_rm16, C::Verw_r32m16, C::Verw_r64m16,
    ], &[
        "tables::inspect_with_every_width", "segment::lar_lsl_verr_verw",
    ]),
    (&[C::Arpl_rm16_r16, C::Arpl_r32m16_r32], &["tables::arpl_raises_the_rpl"]),
    (&[C::Swapgs], &["syscall::swapgs_exchanges_bases", "syscall::swapgs_needs_ring_0"]),
    (&[
        C::Rdfsbase_r32, C::Rdgsbase_r32, C::Wrfsbase_r32, C::Wrgsbase_r64,
    ], &[
        "processor::base_instructions_with_32_bits",
    ]),
    (&[
        C::Rdfsbase_r64, C::Rdgsbase_r64, C::Wrfsbase_r64, C::Wrgsbase_r32,
    ], &[
        "syscall::wrfsbase_and_friends",
    ]),
    // Far transfers, interrupts, system calls.
    (&[
        C::Call_ptr1616, C::Call_m1616, C::Retfw, C::Retfw_imm16,
    ], &[
        "far::real_mode_call_and_return", "far::sixteen_bit_operands",
    ]),
    (&[
        C::Call_ptr1632, C::Retfd, C::Retfd_imm16,
    ], &[
        "task::call_gate_copies_parameters", "task::far_return_to_outer_ring",
    ]),
    (&[
        C::Call_m1632, C::Call_m1664, C::Retfq,
    ], &[
        "far::call_through_memory", "task::call_gate_in_long_mode",
        "branch::far_branches_to_a_non_canonical_address",
    ]),
    (&[C::Retfq_imm16], &["far::return_releases_bytes_in_64_bit_mode"]),
    (&[
        C::Jmp_ptr1616, C::Jmp_ptr1632,
    ], &[
        "segment::protected_mode_entry_and_exit", "segment::far_jump_privilege",
    ]),
    (&[C::Jmp_m1616], &["far::real_mode_jump_through_memory", "far::sixteen_bit_operands"]),
    (&[C::Jmp_m1632, C::Jmp_m1664], &[
        "far::jump_through_memory", "branch::far_branches_to_a_non_canonical_address",
    ]),
    (&[C::Int_imm8], &["delivery::software_interrupt", "delivery::gate_privilege"]),
    (&[C::Int1], &["processor::int1_is_a_trap"]),
    (&[C::Int3], &["delivery::breakpoint_is_a_trap"]),
    (&[C::Into], &["delivery::overflow_trap"]),
    (&[
        C::Iretw, C::Iretd, C::Iretq,
    ], &[
        "delivery::iret_restores_flags", "delivery::real_mode_interrupt_and_iret",
        "delivery::iret_returns_to_user",
    ]),
    (&[C::Syscall, C::Sysretq], &["syscall::syscall_and_sysret", "syscall::syscall_needs_sce"]),
    (&[C::Sysretd], &["syscall::sysret_to_compatibility_mode"]),
    (&[C::Sysenter, C::Sysexitd], &["syscall::sysenter_and_sysexit_32"]),
    (&[C::Sysexitq], &["processor::sysexit_to_64_bit_mode"]),
    // Images of x87 and vector state.
    (&[
        C::Fnstenv_m14byte, C::Fnstenv_m28byte, C::Fldenv_m14byte, C::Fldenv_m28byte,
    ], &[
        "images::environment_layouts", "fpstate::fnstenv_pointers_are_the_guests",
    ]),
    (&[
        C::Fnsave_m94byte, C::Fnsave_m108byte, C::Frstor_m94byte, C::Frstor_m108byte,
    ], &[
        "images::fnsave_and_frstor_layouts",
    ]),
    (&[C::Fxsave_m512byte], &["fpstate::fxsave_contents", "fpstate::fxsave_alignment"]),
    (&[C::Fxrstor_m512byte], &["fpstate::fxrstor_reserved_mxcsr"]),
    (&[
        C::Fxsave64_m512byte, C::Fxrstor64_m512byte,
    ], &[
        "images::fxrstor64_restores", "fpstate::fxsave_pointers_are_the_guests",
    ]),
    (&[C::Xsave_mem, C::Xrstor_mem], &["images::xsave_without_rex_w"]),
    (&[
        C::Xsave64_mem, C::Xrstor64_mem,
    ], &[
        "fpstate::xsave_and_xrstor", "fpstate::xrstor_reserved_header",
    ]),
    (&[C::Xsaveopt_mem, C::Xsaveopt64_mem], &["images::xsaveopt_saves_changed_state"]),
    (&[C::Xsavec_mem, C::Xsavec64_mem], &["images::xsavec_compacts"]),
    (&[
        C::Xsaves_mem, C::Xsaves64_mem, C::Xrstors_mem, C::Xrstors64_mem,
    ], &[
        "images::xsaves_as_offered",
    ]),
];

/// The cases that test `code`.
pub(super) fn cases(code: C) -> &'static [&'static str] {
    let row = ROWS.iter().find(|(codes, _)| codes.contains(&code));
    row.map_or(&[], |(_, cases)| cases)
}
