//! The code cache: translations by guest-physical address and mode, links
//! between them, and their invalidation.

mod accesses;
mod area;
mod crossing;
mod faults;
mod jump;
mod page;
mod table;

pub use area::Area;
pub use faults::FaultTable;
pub use jump::{JumpCache, JumpCaches};
pub(crate) use jump::{MIX_SHIFT, OTHER_SHIFT, mixes};

use crate::arena::{Arena, HUGE};
use crate::block::{Block, Source};
use crate::layout::{Layout, Realm};
use crate::returns::Returns;
use crate::stubs::{self, Stubs};
use crate::translate::{Entrance, Entrances, Link, Mapping, Output, Site, Target, Translator};
use accesses::Accesses;
use crossing::Crossing;
use iced_x86::Instruction;
use page::PageCode;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Size of the arena in bytes that most guests are content with.
pub const ARENA_SIZE: usize = 96 << 20;
/// Space kept free so that any one block fits.
const SLACK: usize = 64 << 10;

/// Where cold code begins in an arena of `size` bytes: there is a third as much of it.
/// At a large page, if the arena has some.
fn cold_start(size: usize) -> usize {
    let hot = size - size / 4;
    if size < 4 * HUGE {
        hot
    } else {
        hot / HUGE * HUGE
    }
}

/// What identifies a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Guest-physical address of the first instruction.
    pub gpa: u64,
    /// Its linear address, baked into the code, or [`Key::ANYWHERE`].
    pub rip: u64,
    /// Everything else the code assumes (bank, register files, width).
    pub mode: u32,
    /// Guest-physical address of the next page if the first instruction runs
    /// on into it, else [`Key::ONE_PAGE`]. Such a block is that instruction.
    pub next: u64,
}

impl Key {
    /// The translation is made from one page.
    pub const ONE_PAGE: u64 = u64::MAX;
    /// The translation runs wherever its page is mapped. No code has this
    /// address, which is not canonical.
    pub const ANYWHERE: u64 = 1 << 63;

    fn page(&self) -> u64 {
        self.gpa & !0xfff
    }

    fn offset(&self) -> u16 {
        (self.gpa & 0xfff) as u16
    }

    fn anywhere(self) -> Self {
        let rip = Self::ANYWHERE;
        Self { rip, ..self }
    }
}

impl Link {
    /// The target's key if it lies in the link's own page, at `page` in guest
    /// memory, and is translated for the same mapping.
    fn within(&self, page: u64) -> Option<Key> {
        if self.crosses || self.narrow || self.mapping == Mapping::Fixed {
            return None;
        }
        Some(Key {
            gpa: page | self.target & 0xfff,
            rip: match self.mapping {
                Mapping::Anywhere => Key::ANYWHERE,
                _ => self.target,
            },
            mode: self.mode,
            next: Key::ONE_PAGE,
        })
    }
}

/// A translation that is no more, for those who remember its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    key: Key,
}

/// A multiplicative hash; keys are addresses and not chosen to collide within
/// what one guest can map.
#[derive(Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u64(&mut self, v: u64) {
        self.0 = (self.0.rotate_left(23) ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn write_u32(&mut self, v: u32) {
        self.write_u64(u64::from(v));
    }
}

pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<KeyHasher>>;

/// One translation.
struct Entry {
    key: Key,
    /// Arena offset of its code.
    at: u32,
    /// That of its cold code.
    cold: u32,
    /// Where links lead in it.
    entrances: Entrances,
    /// 64-byte granules of its page that it was made from.
    granules: u64,
    /// It was made from the first granule of the next page as well, see
    /// [`Key::next`]: no instruction is longer.
    over: bool,
    /// Links that lead here.
    incoming: Vec<u32>,
    alive: bool,
    /// Jumps through the jump cache lead here.
    target: bool,
}

impl Entry {
    /// Of `block`, whose code is at arena offsets `at`.
    fn new(key: Key, at: (usize, usize), entrances: Entrances, block: &Block) -> Self {
        let page_end = (block.start | 0xfff).wrapping_add(1);
        let over = block.end.wrapping_sub(page_end).cast_signed() > 0;
        let own = granules(block.start, if over { page_end } else { block.end });
        Self {
            key,
            at: at.0 as u32,
            cold: at.1 as u32,
            entrances,
            granules: own,
            over,
            incoming: Vec::new(),
            alive: true,
            target: false,
        }
    }

    /// Arena offset of one of its entrances.
    fn entrance(&self, which: Entrance) -> u32 {
        self.entrances.get(which) as u32
    }

    /// Granules of the guest-physical page at `gpa` that it was made from.
    fn granules_of(&self, gpa: u64) -> u64 {
        let own = if self.key.page() == gpa {
            self.granules
        } else {
            0
        };
        own | u64::from(self.over && self.key.next == gpa)
    }
}

/// What generated code is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Hot code of a translation.
    Hot,
    /// What is rarely needed of it.
    Cold,
    /// Stubs.
    Stubs,
}

/// Counts for the engine's counters and profiles.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheStats {
    /// Blocks translated.
    pub blocks: u64,
    /// Guest instructions translated.
    pub instructions: u64,
    /// Bytes of code they became.
    pub bytes: u64,
    /// Accesses that another's check covers.
    pub covered: u64,
    /// Blocks dropped because their bytes were written.
    pub invalidated: u64,
    /// Links made.
    pub links: u64,
    /// Times everything was dropped.
    pub flushes: u64,
}

impl CacheStats {
    /// A new translation.
    fn count(&mut self, block: &Block, out: &Output) {
        self.blocks += 1;
        self.instructions += block.steps.len() as u64;
        self.bytes += (out.hot.len() + out.cold.len()) as u64;
        self.covered += block.steps.iter().filter(|s| s.is_covered()).count() as u64;
    }
}

/// The cache.
pub struct CodeCache {
    arena: Arena,
    stubs: Stubs,
    translator: Translator,
    stubs_end: usize,
    hot: usize,
    cold: usize,
    cold_start: usize,
    /// See [`Self::take_wanted`].
    wanted: Option<Range<u64>>,
    map: Map<Key, u32>,
    entries: Vec<Entry>,
    links: Vec<Link>,
    crossing: Crossing,
    /// Instructions that exits name.
    exits: Vec<Instruction>,
    accesses: Accesses,
    faults: Box<FaultTable>,
    pages: Map<u64, PageCode>,
    /// Buffers of an earlier block.
    spare: Block,
    bmi2: bool,
    generation: u64,
    /// Links are made as soon as both ends are there, not when they are first
    /// followed.
    pub link_early: bool,
    /// What [`Source::alone`] is to be. Who changes it flushes.
    pub alone: bool,
    /// What [`Source::stops`] are to be, likewise.
    pub stops: Arc<[u16]>,
    /// Counts.
    pub stats: CacheStats,
}

/// Assumptions of a translation beyond its key.
pub struct Request<'a> {
    /// Its key.
    pub key: Key,
    /// The bytes of its page, or of both its pages, and what may be copied.
    pub source: Source<'a>,
    /// TLB array of its data accesses.
    pub bank: usize,
    /// User code: other address spaces may map its page elsewhere.
    pub user: bool,
    /// Every access is checked on its own; the key's mode says so, too.
    pub narrow: bool,
    /// A link led to it, not a jump through the jump cache.
    pub linked: bool,
}

impl Request<'_> {
    /// What is to be translated, relative to its page where that can be: the
    /// x87 remembers linear addresses.
    fn decode(&self, block: &mut Block) -> Mapping {
        let rip = self.key.rip;
        if self.user {
            let source = Source {
                base: 0,
                ..self.source
            };
            block.decode_again(&source, rip & 0xfff);
            if !block.x87 {
                return Mapping::Anywhere;
            }
        }
        block.decode_again(&self.source, rip);
        match self.user {
            true => Mapping::Fixed,
            false => Mapping::Kernel,
        }
    }
}

impl CodeCache {
    /// A cache whose code uses `layout`.
    pub fn new(layout: Layout, size: usize) -> io::Result<Self> {
        let mut arena = Arena::new(size)?;
        let (code, stubs) = stubs::emit(&layout);
        arena.write(0, &code).ok_or(io::ErrorKind::OutOfMemory)?;
        let stubs_end = code.len().next_multiple_of(64);
        let cold_start = cold_start(size);
        let faults = FaultTable::new(&arena, stubs.exits[crate::ExitKind::Access as usize])?;
        Ok(Self {
            arena,
            stubs,
            translator: Translator::new(layout, stubs),
            stubs_end,
            hot: stubs_end,
            cold: cold_start,
            cold_start,
            wanted: None,
            map: Map::default(),
            // Room for about as many as there will be: memory that is not used
            // costs nothing, tables that grow do.
            entries: Vec::with_capacity(size / 400),
            links: Vec::with_capacity(size / 130),
            crossing: Crossing::default(),
            exits: Vec::with_capacity(size / 1500),
            accesses: Accesses::new(cold_start, size / 180),
            faults,
            pages: Map::default(),
            spare: Block::default(),
            bmi2: std::arch::is_x86_feature_detected!("bmi2"),
            generation: 0,
            link_early: false,
            alone: true,
            stops: [].into(),
            stats: CacheStats::default(),
        })
    }

    /// Address of `extern "sysv64" fn(_: u64, code: u64)`, see [`Stubs`].
    pub fn enter_address(&self) -> u64 {
        self.arena.rx() as u64 + self.stubs.enter as u64
    }

    /// Addresses that generated code may have.
    pub fn range(&self) -> Range<u64> {
        let at = self.arena.rx_range();
        at.start as u64..at.end as u64
    }

    /// What is at an arena offset, and the translation that it belongs to.
    pub fn locate(&self, at: usize) -> Option<(Part, Option<&Key>)> {
        if at < self.stubs_end {
            return Some((Part::Stubs, None));
        }
        let cold = at >= self.cold_start;
        let starts = |e: &Entry| if cold { e.cold } else { e.at } as usize;
        let behind = self.entries.partition_point(|e| starts(e) <= at);
        let entry = &self.entries[behind.checked_sub(1)?];
        let part = if cold { Part::Cold } else { Part::Hot };
        Some((part, Some(&entry.key)))
    }

    /// What [`crate::JitCtx::returns`] is when nothing is known.
    pub fn no_returns(&self) -> [Returns; Realm::ALL.len()] {
        let start = self.arena.rx() as u64;
        self.stubs.probe.map(|at| Returns::new(start + at as u64))
    }

    /// The table for [`crate::JitCtx::faults`].
    pub fn fault_table(&self) -> *const FaultTable {
        &raw const *self.faults
    }

    /// Changes when everything was dropped: code addresses and link numbers
    /// of older generations are void.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The translation of `key` or, for user code, one that runs there too.
    pub fn find(&self, key: &Key, user: bool) -> Option<u32> {
        let anywhere = || self.map.get(&key.anywhere());
        let found = if user { anywhere() } else { None };
        found.or_else(|| self.map.get(key)).copied()
    }

    /// Code address of a translation.
    pub fn address(&self, block: u32) -> u64 {
        self.arena.rx() as u64 + u64::from(self.entries[block as usize].entrance(Entrance::Address))
    }

    /// Notes that a jump through the jump cache led to a translation.
    pub fn note_target(&mut self, block: u32) {
        let entry = &mut self.entries[block as usize];
        if std::mem::replace(&mut entry.target, true) {
            return;
        }
        if let Some(page) = self.pages.get_mut(&entry.key.page()) {
            page.add_target(&entry.key, entry.entrance(Entrance::Address), block);
        }
    }

    /// Offers `jumps`, a cache for the page and mode of `key`, where jumps
    /// through others led in that page since it was offered them last.
    /// Instructions in two pages are not among them.
    pub fn offer_targets(&self, key: &Key, jumps: &mut JumpCache) {
        if let Some(page) = self.pages.get(&key.page()) {
            page.offer(key, self.arena.rx() as u64, jumps);
        }
    }

    /// Translates. `None` if the first instruction does not end in the bytes
    /// given. May drop everything first to make room.
    pub fn translate(&mut self, request: &Request<'_>) -> Option<u32> {
        if self.is_full() {
            self.flush();
        }
        let mut block = std::mem::take(&mut self.spare);
        let mapping = request.decode(&mut block);
        let made = match block.steps.is_empty() {
            true => None,
            false => self.translate_block(request, &mut block, mapping),
        };
        self.spare = block;
        made
    }

    fn translate_block(
        &mut self,
        request: &Request<'_>,
        block: &mut Block,
        mapping: Mapping,
    ) -> Option<u32> {
        let key = request.key;
        let key = match mapping {
            Mapping::Anywhere => key.anywhere(),
            _ => key,
        };
        let target = Target {
            hot: self.hot,
            cold: self.cold,
            first_link: self.links.len() as u32,
            first_exit: self.exits.len() as u32,
            bank: request.bank,
            mapping,
            bmi2: self.bmi2,
            wide: request.source.allowed.wide,
            windows: request.source.allowed.wide && !request.narrow,
            alone: request.source.alone && request.user,
            linked: request.linked,
        };
        let out = self
            .translator
            .translate(block, request.source.page, target);
        self.stats.count(block, &out);
        self.arena.write(self.hot, &out.hot)?;
        self.arena.write(self.cold, &out.cold)?;
        let id = self.entries.len() as u32;
        let entry = Entry::new(key, (self.hot, self.cold), out.entrances, block);
        let (hot, cold) = (self.hot, self.cold);
        self.hot = (hot + out.hot.len()).next_multiple_of(16);
        self.cold += out.cold.len();
        self.grow(hot, self.hot);
        self.grow(cold, self.cold);
        let links = self.links.len() as u32..(self.links.len() + out.links.len()) as u32;
        self.links.extend_from_slice(&out.links);
        let own = &mut self.links[links.start as usize..];
        own.iter_mut().for_each(|link| link.mode = key.mode);
        self.exits.extend_from_slice(&out.exits);
        self.accesses.extend(&out.accesses);
        self.faults.extend(&out.faults);
        self.translator.recycle(out);
        self.remember(id, entry);
        if self.link_early && !request.narrow {
            self.link_within_page(id, links);
        }
        Some(id)
    }

    /// A stream of code went on from one offset to another.
    fn grow(&mut self, from: usize, to: usize) {
        if self.arena.is_large() {
            // Half of a large page takes longer to fill than the next one to make.
            let half = HUGE / 2;
            if from / half != to / half && to % HUGE >= half {
                self.wanted = self.arena.large_page(to + HUGE);
            }
        } else if from / HUGE != to / HUGE {
            // The first 2 MiB, with which small guests make do, become a large page
            // when they are full, what comes then when it is begun.
            if from < HUGE {
                self.arena.collapse(from);
            }
            self.arena.collapse(to);
        }
    }

    /// Host addresses that code will be written to soon, once.
    pub fn take_wanted(&mut self) -> Option<Range<u64>> {
        self.wanted.take()
    }

    /// No room for another block: [`Self::flush`] it first.
    pub fn is_full(&self) -> bool {
        self.hot + SLACK > self.cold_start
            || self.cold + SLACK > self.arena.len()
            || self.faults.is_full()
    }

    fn remember(&mut self, id: u32, entry: Entry) {
        let key = entry.key;
        self.map.insert(key, id);
        self.made_from(key.page(), entry.granules, id);
        if entry.over {
            self.made_from(key.next, 1, id);
        }
        self.entries.push(entry);
    }

    /// Makes the links between a new block and others of its page that need no
    /// look at page tables: an exit for each costs more than the block.
    fn link_within_page(&mut self, block: u32, links: Range<u32>) {
        let key = self.entries[block as usize].key;
        if key.next != Key::ONE_PAGE {
            return;
        }
        for id in links {
            let Some(target) = self.links[id as usize].within(key.page()) else {
                continue;
            };
            match self.map.get(&target).copied() {
                Some(there) => self.link(id, there),
                None => self.wait_for(&target, id),
            }
        }
        while let Some(id) = self.take_waiting(&key) {
            self.link(id, block);
        }
    }

    fn wait_for(&mut self, target: &Key, link: u32) {
        if let Some(page) = self.pages.get_mut(&target.page()) {
            page.wait_for(target, link);
        }
    }

    fn take_waiting(&mut self, block: &Key) -> Option<u32> {
        let links = &self.links;
        let page = self.pages.get_mut(&block.page())?;
        page.take_waiting(block, |id| {
            links[id as usize].within(block.page()) == Some(*block)
        })
    }

    fn made_from(&mut self, gpa: u64, granules: u64, id: u32) {
        let page = self.pages.entry(gpa).or_default();
        page.granules |= granules;
        page.blocks.push(id);
    }

    /// The instruction that an exit's `exit_site` names: the one to be
    /// interpreted, or the branch that led to where the guest stands.
    pub fn named(&self, id: u32) -> Option<&Instruction> {
        self.exits.get(id as usize)
    }

    /// A link.
    pub fn link_named(&self, id: u32) -> Option<&Link> {
        self.links.get(id as usize)
    }

    /// The access whose slow-path call returns to `pc`.
    pub fn access_at(&self, pc: u64) -> Option<Site> {
        let at = u32::try_from(pc.checked_sub(self.arena.rx() as u64)?).ok()?;
        self.accesses.find(at)
    }

    /// The x87 instruction whose copy is at `pc`.
    pub fn copied_from(&self, pc: u64) -> Option<Site> {
        self.faults.find(pc)
    }

    /// Points a link at a translation.
    pub fn link(&mut self, id: u32, block: u32) {
        let Some(link) = self.links.get(id as usize).copied() else {
            return;
        };
        let entry = &mut self.entries[block as usize];
        let anywhere = entry.key.rip == Key::ANYWHERE;
        if anywhere == (link.mapping == Mapping::Anywhere) {
            entry.incoming.push(id);
            let to = entry.entrances.for_link(link.entrance, link.vector) as u32;
            self.patch(link.at, to);
        } else if link.narrow {
            // Through the jump cache it would come back.
        } else if let Some(detour) = self.detour(&link) {
            self.patch(link.at, detour);
        }
        if link.crosses {
            let gpa = self.entries[block as usize].key.page();
            let void = self.crossing.add(link.target, gpa, id);
            self.unlink(&void);
        }
        self.stats.links += 1;
    }

    /// Emits a way between translations of different [`Mapping`]s, which holds
    /// whatever becomes of the target's.
    fn detour(&mut self, link: &Link) -> Option<u32> {
        let at = self.cold;
        if at + SLACK > self.arena.len() {
            return None;
        }
        let code = self.translator.detour(link, at);
        self.arena.write(at, &code)?;
        self.cold += code.len();
        Some(at as u32)
    }

    fn patch(&mut self, at: u32, target: u32) {
        let rel = (i64::from(target) - i64::from(at) - 4) as i32;
        self.arena.patch(at as usize, rel.cast_unsigned());
    }

    /// Mappings in `area` may have changed: undoes the links between pages into
    /// those of which `same` (linear, guest-physical address of the page) says
    /// that they have.
    pub fn unlink_changed(&mut self, area: Area, same: impl FnMut(u64, u64) -> bool) {
        let void = self.crossing.take_changed(area, same);
        self.unlink(&void);
    }

    fn unlink(&mut self, links: &[u32]) {
        for id in links {
            let link = self.links[*id as usize];
            self.patch(link.at, link.stub);
        }
    }

    /// True if there are translations made from the page of `gpa`.
    pub fn has_page(&self, gpa: u64) -> bool {
        self.pages.contains_key(&(gpa & !0xfff))
    }

    /// Drops the translations made from the range (inside one page), and
    /// returns them.
    pub fn invalidate(&mut self, gpa: u64, len: u64) -> Vec<Dropped> {
        let at = gpa & !0xfff;
        let Some(mut page) = self.pages.remove(&at) else {
            return Vec::new();
        };
        let written = granules(gpa, gpa + len);
        let mut dropped = Vec::new();
        if page.granules & written != 0 {
            page.granules = 0;
            page.blocks.retain(|&id| {
                let entry = &self.entries[id as usize];
                // Dropped already because of its other page.
                if !entry.alive {
                    return false;
                }
                let made_from = entry.granules_of(at);
                let keep = made_from & written == 0;
                if keep {
                    page.granules |= made_from;
                } else {
                    dropped.push(Dropped { key: entry.key });
                    self.drop_block(id);
                }
                keep
            });
            let entries = &self.entries;
            page.retain_targets(|id| entries[id as usize].alive);
        }
        if !page.blocks.is_empty() {
            self.pages.insert(at, page);
        }
        dropped
    }

    fn drop_block(&mut self, id: u32) {
        let entry = &mut self.entries[id as usize];
        entry.alive = false;
        let incoming = std::mem::take(&mut entry.incoming);
        let key = entry.key;
        if self.map.get(&key) == Some(&id) {
            self.map.remove(&key);
        }
        self.unlink(&incoming);
        self.stats.invalidated += 1;
    }

    /// Drops everything.
    pub fn flush(&mut self) {
        self.hot = self.stubs_end;
        self.cold = self.cold_start;
        self.map.clear();
        self.entries.clear();
        self.links.clear();
        self.translator.flush();
        self.crossing.clear();
        self.exits.clear();
        self.accesses.clear();
        self.faults.clear();
        self.pages.clear();
        self.generation += 1;
        self.stats.flushes += 1;
    }
}

/// The 64-byte granules of a page that `start..end` touches; `end` may be the
/// next page's start.
fn granules(start: u64, end: u64) -> u64 {
    let first = (start & 0xfff) / 64;
    let last = (end.wrapping_sub(1).max(start) & 0xfff) / 64;
    let upto = if last == 63 {
        !0
    } else {
        (1u64 << (last + 1)) - 1
    };
    upto & !((1 << first) - 1)
}
