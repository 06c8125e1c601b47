//! Guest code to the translator.

use crate::input::Input;
use iced_x86::Code;
use isa::table::{Class, class};
use jit::block::{MAX_INSTRUCTIONS, Source};
use jit::cache::{Area, CodeCache, Key, Request};
use jit::classify::{Allowed, Copyable};
use jit::{GateLayout, Layout};
use parking_lot::Mutex;
use std::sync::LazyLock;

const PAGE: usize = 4096;
const ARENA: usize = 4 << 20;
/// Guest-physical address of the page.
const GPA: u64 = 0x1000;

/// Offsets of a vCPU that does not exist: no code is run.
const LAYOUT: Layout = Layout {
    jit: 0,
    gpr: 0x200,
    rip: 0x280,
    rflags: 0x288,
    fs_base: 0x2c0,
    gs_base: 0x2e0,
    kernel_gs_base: 0x3e0,
    tsc_aux: 0x3e8,
    control: [0x3c0, 0x3c8, 0x3d0, 0x3d8],
    selectors: 0x300,
    seg_stride: 32,
    gates: GateLayout {
        efer: 0x268,
        lstar: 0x3a8,
        sfmask: 0x3b0,
        gdt_base: 0x270,
        gdt_limit: 0x278,
        cs: 0x320,
        ss: 0x340,
        nmi_blocked: 0x3f0,
    },
    xsave: 0x400,
    tlb: 0x2a0,
    array_size: 1 << 18,
    entry: [0, 8, 16],
    entry_shift: 5,
    other_shift: 23,
    entries: 1024,
};

struct World {
    cache: CodeCache,
    copyable: Copyable,
    /// The first link not made yet.
    next_link: u32,
}

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| {
    let cache = CodeCache::new(LAYOUT, ARENA).expect("an arena");
    let copyable = Copyable::new(|code| {
        matches!(class(code), Class::Int(_) | Class::Native(_))
            || matches!(code, Code::Rdtsc | Code::Rdtscp)
    });
    Mutex::new(World {
        cache,
        copyable,
        next_link: 0,
    })
});

/// A page of code, and how it is to be translated.
struct Plan {
    page: [u8; PAGE],
    base: u64,
    /// Offsets at which blocks start.
    starts: [u64; 3],
    mode: u32,
    allowed: Allowed,
    bank: usize,
    user: bool,
    narrow: bool,
}

impl Plan {
    fn new(data: &[u8]) -> Self {
        let mut input = Input::new(data);
        let files = input.u8();
        let has = |bit: u8| files & 1 << bit != 0;
        let allowed = Allowed {
            wide: has(0),
            fs: has(1),
            gs: has(2),
            cpl0: has(3),
            smap: has(4),
            reaches_user: has(5),
            fsgsbase: has(6),
            tsc: has(7),
            x87: has(4),
            sse: has(5),
            avx: has(6),
            avx512: has(7),
        };
        let bank = input.below(3);
        let user = input.flag();
        let base = match (allowed.wide, input.below(4)) {
            (true, 0) => 0xffff_ffff_8000_0000,
            (true, 1) => 0x7fff_ffff_f000,
            (true, 2) => 0xffff_ffff_ffff_f000,
            (false, 0) => 0xffff_f000,
            _ => 0x40_0000,
        };
        let starts = [input.u16(), input.u16()];
        let narrow = starts[0] & 0x8000 != 0;
        let starts = starts.map(|at| u64::from(at) % PAGE as u64);
        // Code at the start, its beginning again at the end of the page.
        let code = input.rest();
        let (n, tail) = (code.len().min(PAGE), code.len().min(64));
        let mut page = [0; PAGE];
        page[..n].copy_from_slice(&code[..n]);
        page[PAGE - tail..].copy_from_slice(&code[..tail]);
        Self {
            page,
            base,
            starts: [starts[0], starts[1], PAGE as u64 - tail.max(1) as u64],
            mode: files.into(),
            allowed,
            bank,
            user,
            narrow,
        }
    }

    fn request<'a>(&'a self, start: u64, copyable: &'a Copyable) -> Request<'a> {
        Request {
            key: Key {
                gpa: GPA + start,
                rip: self.base + start,
                mode: self.mode,
                next: Key::ONE_PAGE,
            },
            source: Source {
                page: &self.page,
                base: self.base,
                copyable,
                allowed: self.allowed,
                most: MAX_INSTRUCTIONS,
                alone: true,
                stops: &[],
            },
            bank: self.bank,
            user: self.user,
            narrow: self.narrow,
            linked: self.narrow,
        }
    }
}

/// Three blocks of one page in one mode, linked to one of them, then
/// overwritten.
pub(super) fn run(data: &[u8]) {
    let World {
        cache,
        copyable,
        next_link,
    } = &mut *WORLD.lock();
    let plan = Plan::new(data);
    let arena = cache.enter_address()..cache.enter_address() + ARENA as u64;
    let mut blocks = Vec::new();
    let generation = cache.generation();
    for start in plan.starts {
        let request = plan.request(start, copyable);
        if let Some(block) = cache.translate(&request) {
            assert_eq!(cache.find(&request.key, request.user), Some(block));
            assert!(arena.contains(&cache.address(block)));
            blocks.push(block);
        }
    }
    if cache.generation() != generation {
        // It was full: what was made before that is gone.
        *next_link = 0;
        cache.flush();
        return;
    }
    while cache.link_named(*next_link).is_some() {
        if let Some(&block) = blocks.first() {
            cache.link(*next_link, block);
        }
        *next_link += 1;
    }
    cache.invalidate(GPA, 64);
    cache.unlink_changed(Area::ALL, |_, _| false);
    cache.invalidate(GPA, PAGE as u64);
    assert!(!cache.has_page(GPA));
}
