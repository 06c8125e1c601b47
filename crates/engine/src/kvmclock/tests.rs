//! The pages as a guest sees them.
#![allow(unsafe_code, reason = "guest memory of the tests")]

use super::discipline::Turn;
use super::{KvmClock, SIZE, TSC_STABLE};
use crate::clock::{Reading, host_tsc, host_tsc_ordered};
use softmmu::{GuestMemory, NewSlot, SlotMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

const GPA: u64 = 0x5000;
/// The second vCPU's page; it straddles two pages of memory.
const OTHER: u64 = 0x5ff0;
const ROM: u64 = 0x8000;

/// 16 KiB of RAM from 0x4000 on and a read-only page behind it.
fn memory() -> Arc<SlotMap> {
    let host: &'static mut [u64] = vec![0; 0x6000 / 8].leak();
    let hva = (host.as_mut_ptr() as u64).next_multiple_of(0x1000);
    let memory = GuestMemory::new();
    // SAFETY: the memory is leaked, so it stays mapped; it is long enough for
    // five pages after rounding up.
    let add = |id, gpa, size, hva, readonly| unsafe {
        let slot = NewSlot {
            id,
            gpa,
            size,
            hva,
            readonly,
            ..NewSlot::default()
        };
        memory.set_slot(slot).unwrap();
    };
    add(0, 0x4000, 0x4000, hva, false);
    add(1, ROM, 0x1000, hva + 0x4000, true);
    memory.map()
}

fn clock() -> KvmClock {
    let now = Reading {
        tsc: host_tsc(),
        ns: 1_000_000,
        error: 10,
    };
    let mut clock = KvmClock::new(now);
    clock.host_is_stable = true;
    clock
}

fn bytes(map: &SlotMap, gpa: u64) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    assert!(map.read(gpa, &mut bytes));
    bytes
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Time as the documented protocol computes it.
fn guest_time(map: &SlotMap, gpa: u64) -> u64 {
    loop {
        let mut version = [0; 4];
        assert!(map.read(gpa, &mut version));
        fence(Ordering::SeqCst);
        let tsc = host_tsc_ordered();
        let page = bytes(map, gpa);
        fence(Ordering::SeqCst);
        let mut again = [0; 4];
        assert!(map.read(gpa, &mut again));
        if version != again || version[0] & 1 != 0 {
            continue;
        }
        let ticks = u128::from(tsc.wrapping_sub(word(&page, 8)));
        let shift = page[28].cast_signed();
        let ticks = if shift < 0 {
            ticks >> -shift
        } else {
            ticks << shift
        };
        return word(&page, 16) + ((ticks * u128::from(half(&page, 24))) >> 32) as u64;
    }
}

#[test]
fn a_page_shows_the_clock_and_its_version_is_even() {
    let (mut clock, map) = (clock(), memory());
    clock.set_page(0, Some(GPA), 0, &map);
    let page = bytes(&map, GPA);
    assert_eq!((half(&page, 0), page[29]), (2, TSC_STABLE));
    let (before, shown, after) = (
        clock.at(host_tsc_ordered()),
        guest_time(&map, GPA),
        clock.at(host_tsc_ordered()),
    );
    assert!(
        before <= shown && shown <= after,
        "{before} {shown} {after}"
    );
    assert_eq!(clock.take_written(), [(GPA, SIZE as u64)]);
    assert_eq!(clock.take_written(), []);
    clock.set(5_000_000_000, &map);
    assert!(guest_time(&map, GPA) >= 5_000_000_000);
    assert_eq!(half(&bytes(&map, GPA), 0), 4);
    clock.set_page(0, None, 0, &map);
    clock.set(0, &map);
    assert_eq!(
        half(&bytes(&map, GPA), 0),
        4,
        "written after it was given up"
    );
}

#[test]
fn the_clock_is_stable_while_all_tscs_agree() {
    let (mut clock, map) = (clock(), memory());
    let flags = |map| (bytes(map, GPA)[29], bytes(map, OTHER)[29]);
    clock.set_page(0, Some(GPA), 7, &map);
    clock.set_page(1, Some(OTHER), 7, &map);
    assert_eq!(flags(&map), (1, 1));
    clock.set_page(1, Some(OTHER), 8, &map);
    assert_eq!(flags(&map), (0, 0));
    // The other page still shows the same time for its own TSC.
    let tsc = |gpa| word(&bytes(&map, gpa), 8);
    assert_eq!(tsc(OTHER), tsc(GPA) + 1);
    clock.set_page(1, Some(OTHER), 7, &map);
    assert_eq!(flags(&map), (1, 1));
    clock.host_is_stable = false;
    clock.set(0, &map);
    assert_eq!(flags(&map), (0, 0));
}

#[test]
fn a_page_that_is_no_ram_is_not_written() {
    let (mut clock, map) = (clock(), memory());
    for gpa in [ROM, ROM - 8, 0x10_0000, u64::MAX - 1] {
        clock.set_page(0, Some(gpa), 0, &map);
    }
    assert_eq!(bytes(&map, ROM), [0; SIZE]);
}

#[test]
fn no_vcpu_sees_time_run_backwards_while_the_line_turns() {
    let (mut clock, map) = (clock(), memory());
    clock.set_page(0, Some(GPA), 0, &map);
    clock.set_page(1, Some(OTHER), 0, &map);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut last, mut count) = (0, 0u64);
            while !stop.load(Ordering::Relaxed) || count < 1000 {
                for gpa in [GPA, OTHER] {
                    let now = guest_time(&map, gpa);
                    assert!(now >= last, "{last} then {now}");
                    last = now;
                    count += 1;
                }
            }
        });
        for i in 0..50_000 {
            let rate = if i % 2 == 0 { 0.6 } else { 0.4 };
            clock.publish(Some(Turn { rate, step_ns: 0 }), &map);
            for _ in 0..i % 64 {
                std::hint::spin_loop();
            }
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}
