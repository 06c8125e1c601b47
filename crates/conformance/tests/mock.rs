//! Every case of the suite fails on some broken backend, and every defect is
//! noticed by some case. Runs on the software backend: no `/dev/kvm` needed.

use conformance::mock::{Broken, DEFECTS, Defect};
use hv::Hypervisor;
use hv::conformance::{Case, Failure, cases};

/// For every defect, cases made to notice exactly that.
#[rustfmt::skip]
const NOTICED: &[(Defect, &[&str])] = &[
    (Defect::PortNumber, &["pio::out_immediate_port", "pio::rep_outs_every_width"]),
    (Defect::PortValue, &["pio::out_dx", "pio::rep_outs_backwards", "pio::user_io_by_bitmap"]),
    (Defect::ReadData, &["pio::in_immediate_port", "pio::rep_ins_across_pages", "mmio::load_every_width", "mmio::sse_moves_are_two_exits"]),
    (Defect::MmioAddress, &["mmio::store_every_width", "mmio::compare_only_reads", "slots::deleted_slot_becomes_mmio"]),
    (Defect::MmioValue, &["mmio::store_every_width", "mmio::read_modify_write", "mmio::cmpxchg_writes_either_way", "slots::read_only_slot_exits_on_write"]),
    (Defect::HaltIsShutdown, &["delivery::halt_leaves_rip_behind_it", "interrupt::interrupt_wakes_hlt"]),
    (Defect::ShutdownIsHalt, &["delivery::triple_fault_shuts_down", "delivery::real_mode_triple_fault"]),
    (Defect::Vector, &["delivery::invalid_opcode", "delivery::bound_range", "fault::smep", "debug::trap_flag_steps", "fpstate::misaligned_movaps"]),
    (Defect::ErrorCode, &["fault::not_present", "fault::no_execute", "fault::smap_and_ac", "delivery::bad_selector_error_code", "delivery::missing_gate_error_code"]),
    (Defect::ReturnAddress, &["fault::fetch_across_pages", "delivery::breakpoint_is_a_trap", "delivery::divide_error", "debug::code_breakpoint_is_a_fault", "syscall::syscall_needs_sce"]),
    (Defect::AccessedDirty, &["fault::read_sets_accessed", "fault::write_sets_dirty", "fault::large_page_1g", "fault::failed_cmpxchg_sets_dirty"]),
    (Defect::Registers, &["tlb::invlpg_drops_the_page", "tlb::pcid_kept_with_bit_63", "code::deep_recursion", "task::jump_to_task", "irqchip::pic_priority_and_mask"]),
    (Defect::InstructionPointer, &["control::kick_before_run_is_not_lost", "debug::host_single_step", "code::jump_into_the_middle_of_an_instruction"]),
    (Defect::SystemRegisters, &["fault::cr2_survives_other_faults", "segment::sgdt_lgdt_round_trip", "syscall::swapgs_exchanges_bases", "regs::segments_round_trip"]),
    (Defect::Vectors, &["regs::fpu_round_trip", "regs::xsave_round_trip", "delivery::simd_error"]),
    (Defect::Xcr0, &["regs::xcr0_round_trip", "syscall::xgetbv_and_xsetbv"]),
    (Defect::DebugRegisters, &["regs::debug_registers_round_trip", "debug::general_detect", "debug::guest_writes_debug_registers"]),
    (Defect::Msrs, &["regs::msr_round_trip", "regs::msr_list_can_be_saved_and_restored", "regs::guest_changes_are_visible"]),
    (Defect::Events, &["regs::events_round_trip", "interrupt::nmi_blocks_nmi_until_iret"]),
    (Defect::MpState, &["regs::mp_state_round_trip"]),
    (Defect::Lapic, &["irqchip::lapic_state_round_trip"]),
    (Defect::AcceptsAll, &["refusals::overlapping_slots", "refusals::slots_off_their_pages", "refusals::vcpu_ids", "refusals::pits", "regs::impossible_control_registers_are_refused", "regs::unknown_msr_is_refused"]),
    (Defect::DirtyLogEmpty, &["slots::dirty_log_names_written_pages", "slots::dirty_log_sees_page_table_walks"]),
    (Defect::DirtyLogFull, &["slots::dirty_log_clears_when_read", "slots::dirty_log_switched_on_later"]),
    (Defect::SlotFlags, &["slots::read_only_slot_exits_on_write"]),
    (Defect::SlotsStay, &["slots::deleted_slot_becomes_mmio", "slots::moved_slot"]),
    (Defect::Translate, &["slots::translate_walks_the_tables"]),
    (Defect::Clock, &["control::clock_advances", "control::clock_can_be_set"]),
    (Defect::TscFrequency, &["control::tsc_frequency_is_known", "control::tsc_advances_at_its_frequency"]),
    (Defect::Counters, &["control::counters_count_exits"]),
    (Defect::Pit, &["irqchip::pit_state_round_trip"]),
    (Defect::Cpuid, &["control::capabilities_are_sane"]),
    (Defect::CpuidOffersAll, &["offered::offered_instructions_run"]),
    (Defect::CpuidIgnored, &["regs::cpuid_table_is_what_the_guest_sees"]),
    (Defect::DebugExit, &["debug::host_software_breakpoint", "debug::host_code_breakpoint", "debug::host_data_breakpoint"]),
    (Defect::NeverReady, &["interrupt::not_ready_while_if_is_clear", "interrupt::window_opens_after_sti"]),
    (Defect::NoWindow, &["interrupt::window_opens_after_sti", "interrupt::popf_opens_the_window_at_once"]),
    (Defect::InterruptedIsHalt, &["control::kick_before_run_is_not_lost", "control::immediate_exit_runs_nothing", "interrupt::poll_loop_is_interrupted"]),
    (Defect::Memory, &["fpstate::fxsave_contents", "interrupt::injected_interrupt_is_delivered"]),
    (Defect::Capabilities, &["control::capabilities_are_sane"]),
];

fn passes(hv: &dyn Hypervisor, case: &Case) -> bool {
    (case.run)(hv).is_ok()
}

fn notices(hv: &dyn Hypervisor, case: &Case, defect: Defect) -> bool {
    matches!((case.run)(&Broken::new(hv, defect)), Err(Failure::Wrong(_)))
}

/// The defect that fails the case, trying the likely ones first.
fn killer(hv: &dyn Hypervisor, case: &Case, order: &mut Vec<Defect>) -> Option<Defect> {
    let at = order.iter().position(|d| notices(hv, case, *d))?;
    // Cases of one group tend to fall to the same defect.
    let defect = order.remove(at);
    order.insert(0, defect);
    Some(defect)
}

#[test]
fn every_case_fails_on_some_broken_backend() {
    let hv = engine::Soft::new();
    let mut order = DEFECTS.to_vec();
    let mut survivors = Vec::new();
    for case in cases().filter(|case| passes(&hv, case)) {
        let name = format!("{}::{}", case.group, case.name);
        if killer(&hv, case, &mut order).is_none() {
            survivors.push(name);
        }
    }
    assert!(
        survivors.is_empty(),
        "cases that never fail: {survivors:#?}"
    );
}

#[test]
fn every_defect_is_noticed_by_the_cases_made_for_it() {
    let hv = engine::Soft::new();
    let mut blind = Vec::new();
    for (defect, names) in NOTICED {
        for name in *names {
            let found = cases().find(|c| format!("{}::{}", c.group, c.name) == *name);
            let Some(case) = found else {
                blind.push(format!("{defect:?}: no case {name}"));
                continue;
            };
            if !notices(&hv, case, *defect) {
                blind.push(format!("{defect:?}: {name}"));
            }
        }
    }
    assert!(blind.is_empty(), "not noticed: {blind:#?}");
}

#[test]
fn the_table_names_every_defect() {
    for defect in DEFECTS {
        let named = NOTICED
            .iter()
            .any(|(known, names)| known == defect && !names.is_empty());
        assert!(named, "{defect:?}");
    }
}
