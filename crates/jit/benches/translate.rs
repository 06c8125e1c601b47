//! How long translating takes and how long its code is: `cargo bench -p jit
//! --bench translate` translates the C library that it runs with, block after
//! block, for user and for kernel mode, and prints the fastest of several
//! rounds. Nothing of it is executed.

use iced_x86::Code;
use isa::table::{Class, class};
use jit::Layout;
use jit::block::{Block, MAX_INSTRUCTIONS, Source};
use jit::cache::{CacheStats, CodeCache, Key, Request};
use jit::classify::{Allowed, Copyable};
use std::os::unix::fs::FileExt;
use std::time::Duration;

const PAGE: usize = 4096;
const ROUNDS: usize = 20;
/// Each part of the code counts with its fastest round: others disturb single
/// ones.
const BLOCKS_OF_A_PART: usize = 500;
/// Room for all translations.
const CACHE: usize = 256 << 20;
/// Places in a vCPU's memory that nobody accesses; as far apart as in a vCPU.
fn layout() -> Layout {
    Layout {
        gpr: 0x400,
        rip: 0x480,
        rflags: 0x488,
        fs_base: 0x490,
        gs_base: 0x498,
        tlb: 0x600,
        array_size: 1 << 18,
        xsave: 0x1000,
        entry: [0, 8, 16],
        entry_shift: 5,
        other_shift: 23,
        entries: 1024,
        ..Layout::default()
    }
}

/// The code of the C library, whole pages of it.
fn code() -> Vec<u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let mapped = maps
        .lines()
        .find(|l| l.contains("r-xp") && l.contains("libc"));
    let words: Vec<&str> = mapped.expect("libc").split_whitespace().collect();
    let number = |text: &str| u64::from_str_radix(text, 16).expect("a number");
    let (start, end) = words[0].split_once('-').expect("a range");
    let mut bytes = vec![0; (number(end) - number(start)) as usize];
    let file = std::fs::File::open(words[5]).expect("the file");
    let at = number(words[2]);
    let len = bytes
        .len()
        .min((file.metadata().expect("size").len() - at) as usize);
    file.read_exact_at(&mut bytes[..len], at).expect("its code");
    bytes.truncate(len / PAGE * PAGE);
    bytes
}

/// CPU time of the process.
fn spent() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    #[allow(unsafe_code, reason = "asks the host")]
    // SAFETY: `time` is one.
    unsafe {
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time)
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What is translated, and in which mode.
struct Work<'a> {
    code: &'a [u8],
    copyable: &'a Copyable,
    user: bool,
}

impl Work<'_> {
    fn source(&self, at: usize) -> Source<'_> {
        let page = at / PAGE * PAGE;
        Source {
            page: &self.code[page..page + PAGE],
            base: page as u64,
            copyable: self.copyable,
            most: MAX_INSTRUCTIONS,
            alone: true,
            stops: &[],
            allowed: Allowed {
                wide: true,
                fs: true,
                gs: true,
                cpl0: !self.user,
                fsgsbase: true,
                tsc: true,
                x87: true,
                sse: true,
                avx: true,
                avx512: true,
                ..Allowed::default()
            },
        }
    }

    /// Where blocks start, each at the end of the one before.
    fn starts(&self) -> Vec<usize> {
        let (mut at, mut starts) = (0, Vec::new());
        while at < self.code.len() {
            let block = Block::decode(&self.source(at), at as u64);
            if block.steps.is_empty() {
                at = (at / PAGE + 1) * PAGE;
                continue;
            }
            starts.push(at);
            at = block.end as usize;
        }
        starts
    }

    fn translate(&self, cache: &mut CodeCache, starts: &[usize]) {
        for &at in starts {
            let key = Key {
                gpa: at as u64,
                rip: at as u64,
                mode: 0,
                next: Key::ONE_PAGE,
            };
            let made = cache.translate(&Request {
                key,
                source: self.source(at),
                bank: usize::from(!self.user),
                user: self.user,
                narrow: false,
                linked: false,
            });
            assert!(made.is_some(), "no translation at {at:#x}");
        }
    }
}

fn main() {
    let code = code();
    let copyable = Copyable::new(|c: Code| matches!(class(c), Class::Int(_) | Class::Native(_)));
    for (name, user) in [("user", true), ("kernel", false)] {
        let work = Work {
            code: &code,
            copyable: &copyable,
            user,
        };
        let starts = work.starts();
        let mut cache = CodeCache::new(layout(), CACHE).expect("a cache");
        let parts = || starts.chunks(BLOCKS_OF_A_PART);
        let mut fastest = vec![Duration::MAX; parts().len()];
        for _ in 0..ROUNDS {
            cache.flush();
            cache.stats = CacheStats::default();
            for (part, fastest) in parts().zip(&mut fastest) {
                let begin = spent();
                work.translate(&mut cache, part);
                *fastest = spent().saturating_sub(begin).min(*fastest);
            }
        }
        let nanos = fastest.iter().sum::<Duration>().as_nanos() as f64;
        let CacheStats {
            blocks,
            instructions,
            bytes,
            ..
        } = cache.stats;
        println!(
            "{name}: {blocks} blocks, {instructions} instructions; {:.0} ns a block, \
             {:.0} ns and {:.1} bytes an instruction",
            nanos / blocks as f64,
            nanos / instructions as f64,
            bytes as f64 / instructions as f64,
        );
    }
}
