//! Kernels made by hand from the documented offsets, whole and damaged.

use super::*;
use crate::config::MachineConfig;
use std::sync::Arc;

const RSDP: u64 = 0xe_0000;
/// Protected-mode part of the test kernel.
const KERNEL_LEN: usize = 4096;

fn layout(mib: u64) -> Layout {
    Layout::new(mib << 20, 39, &crate::boards::PC).unwrap()
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Protocol 2.15, relocatable, 64-bit, preferred address 16 MiB, 8 MiB to
/// unpack (boot.rst, "The Real-Mode Kernel Header").
fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 2 * 512 + KERNEL_LEN];
    put(&mut file, 0x1f1, &[1]);
    put(&mut file, 0x1f4, &(KERNEL_LEN as u32 / 16).to_le_bytes());
    put(&mut file, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x206, &0x020fu16.to_le_bytes());
    put(&mut file, 0x211, &[1]);
    put(&mut file, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut file, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut file, 0x234, &[1]);
    put(&mut file, 0x236, &1u16.to_le_bytes());
    put(&mut file, 0x238, &2047u32.to_le_bytes());
    put(&mut file, 0x258, &0x100_0000u64.to_le_bytes());
    put(&mut file, 0x260, &0x80_0000u32.to_le_bytes());
    file[1024..].fill(0x90);
    file
}

/// One segment at 16 MiB with its entry at its start; 32-bit or 64-bit.
fn pvh(is_64: bool) -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    put(&mut file, 0, b"\x7fELF");
    put(&mut file, 4, &[if is_64 { 2 } else { 1 }, 1, 1]);
    put(
        &mut file,
        18,
        &(if is_64 { 62u16 } else { 3 }).to_le_bytes(),
    );
    let rows = [(1u32, 0x200u64, 0x800u64), (4, 0x100, 20)];
    if is_64 {
        put(&mut file, 32, &64u64.to_le_bytes());
        put(&mut file, 54, &[56, 0, 2, 0]);
        for (i, (kind, offset, size)) in rows.into_iter().enumerate() {
            let at = 64 + i * 56;
            put(&mut file, at, &kind.to_le_bytes());
            let fields = [(8, offset), (24, 0x100_0000), (32, size), (40, size)];
            fields
                .iter()
                .for_each(|(f, v)| put(&mut file, at + f, &v.to_le_bytes()));
        }
    } else {
        put(&mut file, 28, &52u32.to_le_bytes());
        put(&mut file, 42, &[32, 0, 2, 0]);
        for (i, (kind, offset, size)) in rows.into_iter().enumerate() {
            let at = 52 + i * 32;
            put(&mut file, at, &kind.to_le_bytes());
            let fields = [(4, offset), (12, 0x100_0000), (16, size), (20, size)];
            fields
                .iter()
                .for_each(|(f, v)| put(&mut file, at + f, &(*v as u32).to_le_bytes()));
        }
    }
    // Note: name size 4, description size 4, type 18, "Xen", entry.
    for (i, word) in [4u32, 4, 18, 0x006e_6558, 0x100_0000]
        .into_iter()
        .enumerate()
    {
        put(&mut file, 0x100 + i * 4, &word.to_le_bytes());
    }
    put(&mut file, 0x200, &[0xf4; 0x800]);
    file
}

fn image(bytes: Vec<u8>) -> Option<Image> {
    Some(Image::Bytes {
        name: "test.img".into(),
        bytes: Arc::from(bytes),
    })
}

fn try_load(kernel: Vec<u8>, initrd: Option<Vec<u8>>, mib: u64) -> Result<(Start, GuestRam)> {
    let config = MachineConfig {
        kernel: image(kernel),
        initrd: initrd.and_then(image),
        cmdline: "console=ttyS0".into(),
        ..Default::default()
    };
    let layout = layout(mib);
    let ram = GuestRam::new(&layout)?;
    load(&config, &layout, &ram, RSDP).map(|start| (start, ram))
}

fn read<const N: usize>(ram: &GuestRam, gpa: u64) -> [u8; N] {
    let mut bytes = [0; N];
    ram.read(gpa, &mut bytes).unwrap();
    bytes
}

/// The message, which must name the file, for a kernel that must be refused.
fn refusal(kernel: Vec<u8>) -> String {
    let error = try_load(kernel, None, 64)
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("test.img"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn bzimage_goes_to_its_preferred_address() {
    let (start, ram) = try_load(bzimage(), Some(vec![7; 5000]), 64).unwrap();
    assert_eq!(start.mode, EntryMode::Long);
    assert_eq!((start.rip, start.info), (0x100_0200, 0x7000));
    assert_eq!(read(&ram, 0x100_0000), [0x90; 16]);
    assert_eq!(&read::<13>(&ram, 0x2_0000), b"console=ttyS0");
    let zero_page = read::<4096>(&ram, start.info);
    let word = |at: usize| u32::from_le_bytes(zero_page[at..at + 4].try_into().unwrap());
    assert_eq!(word(0x202), u32::from_le_bytes(*b"HdrS"));
    assert_eq!((word(0x214), word(0x228)), (0x100_0000, 0x2_0000));
    // Page-aligned at the top of 64 MiB.
    assert_eq!((word(0x218), word(0x21c)), ((64 << 20) - 8192, 5000));
    assert_eq!(read(&ram, (64 << 20) - 8192), [7; 4]);
    assert_eq!(word(0x70), RSDP as u32);
    assert_eq!(usize::from(zero_page[0x1e8]), layout(64).map().len());
    assert_eq!((word(0x2d0), word(0x2d8), word(0x2e0)), (0, 0x9_fc00, 1));
}

#[test]
fn a_small_guest_gets_a_relocatable_kernel_lower() {
    let (start, _) = try_load(bzimage(), None, 16).unwrap();
    assert_eq!(start.rip, 0x20_0200);
    let mut fixed = bzimage();
    fixed[0x234] = 0;
    let error = try_load(fixed, None, 16).err().unwrap().to_string();
    assert!(error.contains("more memory"), "{error}");
    assert!(try_load(bzimage(), None, 8).is_err());
}

#[test]
fn kernels_without_the_64_bit_flag_start_in_protected_mode() {
    let mut file = bzimage();
    file[0x236] = 0;
    let (start, _) = try_load(file, None, 64).unwrap();
    assert_eq!((start.mode, start.rip), (EntryMode::Protected, 0x100_0000));
    // Protocol 2.04: neither relocatable nor a preferred address.
    let mut old = bzimage();
    put(&mut old, 0x206, &0x0204u16.to_le_bytes());
    let (start, _) = try_load(old, None, 64).unwrap();
    assert_eq!((start.mode, start.rip), (EntryMode::Protected, 0x10_0000));
}

#[test]
fn the_initrd_stays_below_the_kernels_limit() {
    let mut file = bzimage();
    put(&mut file, 0x22c, &0x1fff_ffffu32.to_le_bytes());
    let (start, ram) = try_load(file, Some(vec![1; 4096]), 1024).unwrap();
    let at = u32::from_le_bytes(read(&ram, start.info + 0x218));
    assert_eq!(at, 0x2000_0000 - 4096);
}

#[test]
fn pvh_kernels_of_both_widths() {
    for is_64 in [false, true] {
        let (start, ram) = try_load(pvh(is_64), Some(vec![9; 100]), 64).unwrap();
        assert_eq!((start.mode, start.rip), (EntryMode::Pvh, 0x100_0000));
        assert_eq!(read(&ram, 0x100_0000), [0xf4; 8]);
        let info = read::<56>(&ram, start.info);
        let quad = |at: usize| u64::from_le_bytes(info[at..at + 8].try_into().unwrap());
        // Offsets by start_info.h: magic, version, modules, then pointers.
        assert_eq!(quad(0), 1 << 32 | 0x336e_c578);
        assert_eq!(quad(8) >> 32, 1);
        assert_eq!((quad(24), quad(32)), (0x2_0000, RSDP));
        let module: [u8; 16] = read(&ram, quad(16));
        assert_eq!(module[..8], ((64u64 << 20) - 4096).to_le_bytes());
        assert_eq!(module[8..], 100u64.to_le_bytes());
        let rows = u32::from_le_bytes(info[48..52].try_into().unwrap());
        assert_eq!(rows as usize, layout(64).map().len());
        assert_eq!(
            read::<24>(&ram, quad(40))[8..20],
            [0, 0xfc, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0]
        );
    }
}

#[test]
fn what_is_not_a_kernel_is_refused_by_name() {
    assert!(refusal(Vec::new()).contains("empty"));
    assert!(refusal(b"#!/bin/sh\n".to_vec()).contains("not a kernel"));
    assert!(refusal(vec![0; 100_000]).contains("not a kernel"));
    let mut zimage = bzimage();
    zimage[0x211] = 0;
    assert!(refusal(zimage).contains("loads low"));
    let mut arm = pvh(true);
    arm[18] = 183;
    assert!(refusal(arm).contains("not for x86"));
    let mut no_note = pvh(true);
    no_note[0x108] = 0;
    assert!(refusal(no_note).contains("PVH"));
}

#[test]
fn missing_files_and_directories_are_refused_by_name() {
    for (path, why) in [("/nonexistent/vmlinuz", "no such file"), ("/", "directory")] {
        let config = MachineConfig {
            kernel: Some(Image::at(path)),
            ..Default::default()
        };
        let layout = layout(16);
        let ram = GuestRam::new(&layout).unwrap();
        let error = load(&config, &layout, &ram, RSDP).unwrap_err().to_string();
        assert!(error.contains(path) && error.contains(why), "{error}");
    }
}

#[test]
fn every_truncation_is_refused() {
    let whole = bzimage();
    for len in (0..2048).chain((2048..whole.len() - 16).step_by(97)) {
        refusal(whole[..len].to_vec());
    }
    let whole = pvh(true);
    for len in 0..0xa00 {
        refusal(whole[..len].to_vec());
    }
}

#[test]
fn an_initrd_that_does_not_fit_is_refused() {
    let error = try_load(bzimage(), Some(vec![0; 41 << 20]), 64)
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(matches!(error, Error::Initrd { .. }), "{text}");
    assert!(text.contains("more memory"), "{text}");
    let larger_than_ram = try_load(bzimage(), Some(vec![0; 65 << 20]), 64)
        .err()
        .unwrap();
    assert!(matches!(larger_than_ram, Error::Initrd { .. }));
    assert!(try_load(bzimage(), Some(Vec::new()), 64).is_ok());
}

#[test]
fn a_long_command_line_is_refused() {
    let load_with = |cmdline: String| {
        let config = MachineConfig {
            kernel: image(bzimage()),
            cmdline,
            ..Default::default()
        };
        let layout = layout(64);
        let ram = GuestRam::new(&layout).unwrap();
        load(&config, &layout, &ram, RSDP)
    };
    assert!(load_with("x".repeat(2047)).is_ok());
    let error = load_with("x".repeat(2048)).unwrap_err().to_string();
    assert!(error.contains("2048") && error.contains("2047"), "{error}");
    assert!(load_with("a\0b".into()).is_err());
}

/// Random damage: refused or loaded, never a panic, and never a start outside
/// RAM.
#[test]
fn damaged_kernels_do_no_harm() {
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for base in [bzimage(), pvh(true), pvh(false)] {
        for _ in 0..1500 {
            let mut file = base.clone();
            for _ in 0..random() % 6 + 1 {
                // Mostly the headers.
                let span = if random() % 4 == 0 {
                    file.len()
                } else {
                    0x300.min(file.len())
                };
                let at = random() as usize % span;
                file[at] = [0, 0xff, 0x7f, random() as u8][random() as usize % 4];
            }
            file.truncate(file.len() - random() as usize % 3 * 700);
            if let Ok((start, _)) = try_load(file, Some(vec![1; 10]), 32) {
                assert!(start.rip < 32 << 20, "{start:x?}");
            }
        }
    }
}
