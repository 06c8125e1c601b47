//! Finding and making translations.
#![allow(unsafe_code, reason = "reads guest memory")]

use crate::jumps::Now;
use crate::translated::{Found, NARROW, OpenLink, mode_of};
use crate::vcpu::SoftVcpu;
use isa::Stop;
use jit::block::{MAX_INSTRUCTIONS, Source, runs_over};
use jit::cache::{CodeCache, Key, Request};
use jit::classify::Allowed;
use softmmu::tlb::Bank;
use softmmu::walk::Need;
use x86::paging::{PAGE_MASK, PAGE_SIZE};
use x86::{Exception, LONGEST_INSTRUCTION, canonical48};

const PAGE: usize = PAGE_SIZE as usize;
/// Most bytes of a page that a translation is made from.
const LONGEST_BLOCK: usize = MAX_INSTRUCTIONS * LONGEST_INSTRUCTION;
/// What translations are read into: their page, at times the next one as well.
pub(crate) type CodeBytes = [u8; 2 * PAGE];

/// RAM that code is read from.
#[derive(Clone, Copy)]
pub(crate) struct CodePage {
    pub(crate) gpa: u64,
    host: u64,
    global: bool,
}

/// Where a block lies: in a page, and in the next one if its only instruction
/// runs on into it.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    page: CodePage,
    next: Option<CodePage>,
}

impl Place {
    pub(crate) fn pages(&self) -> impl Iterator<Item = CodePage> {
        std::iter::once(self.page).chain(self.next)
    }
    pub(crate) fn global(&self) -> bool {
        self.pages().all(|p| p.global)
    }
}

impl SoftVcpu {
    /// The translation at RIP, made if there is none, entered into the jump
    /// cache and linked to.
    pub(crate) fn block_at_rip(&mut self, link: Option<OpenLink>) -> Result<Found, Stop> {
        let rip = self.ctx_mut().cpu.rip;
        let (mut mode, bank, allowed) = mode_of(&self.ctx_mut().cpu);
        let narrow = self.local.narrow_at.take() == Some(rip);
        if narrow {
            mode |= NARROW;
        }
        let Some(page) = self.code_page(rip, bank)? else {
            return Ok(Found::Nothing);
        };
        let Some(place) = self.block_place(page, rip, bank, allowed) else {
            return Ok(Found::Nothing);
        };
        let key = Key {
            gpa: page.gpa | (rip & PAGE_MASK),
            rip,
            mode,
            next: place.next.map_or(Key::ONE_PAGE, |p| p.gpa),
        };
        let vm = self.vm.clone();
        let mut code = vm.code.lock();
        let user = bank == Bank::User;
        let found = code.find(&key, user);
        if found.is_none() {
            if code.is_full() {
                drop(code);
                self.drop_translations(false);
                return Ok(Found::LookAgain);
            }
            if let Some(new) = place.pages().find(|p| !self.is_tracked(p.gpa)) {
                drop(code);
                self.track_code(new.gpa);
                return Ok(Found::LookAgain);
            }
        }
        let made = found
            .or_else(|| self.translate(&mut code, key, place, (bank, allowed), link.is_some()));
        if let Some(room) = code.take_wanted() {
            self.vm.ahead.requests().ask(room);
        }
        let Some(block) = made else {
            return Ok(Found::Nothing);
        };
        if user && link.is_none() && !narrow {
            self.offer_targets(&mut code, &key, block);
        }
        let linkable = |l: &OpenLink| {
            l.generation == code.generation() && (!l.crosses || self.maps_now(rip, page.gpa))
        };
        if let Some(link) = link.filter(linkable) {
            code.link(link.id, block);
        }
        let address = code.address(block);
        drop(code);
        if !narrow {
            self.remember_jump(bank, place, address);
        }
        Ok(Found::Code(address))
    }

    /// The page of code at `la`; none if it is not RAM.
    fn code_page(&self, la: u64, bank: Bank) -> Result<Option<CodePage>, Stop> {
        if !canonical48(la) {
            return Err(Exception::GP0.into());
        }
        let need = Need {
            write: false,
            exec: true,
            user: bank == Bank::User,
            implicit: false,
        };
        let ctx = self.ctx_mut();
        let page = ctx.tlb.resolve(&ctx.cpu, &self.map, la, need)?;
        Ok(page.host.map(|host| CodePage {
            gpa: page.gpa,
            host,
            global: page.global,
        }))
    }

    /// Where the block at `rip` lies. None if its second page cannot be
    /// fetched from: the interpreter finds out why.
    fn block_place(&self, page: CodePage, rip: u64, bank: Bank, allowed: Allowed) -> Option<Place> {
        let offset = rip & PAGE_MASK;
        let left = PAGE_SIZE - offset;
        if left >= LONGEST_INSTRUCTION as u64 {
            return Some(Place { page, next: None });
        }
        let mut bytes = [0; LONGEST_INSTRUCTION];
        let bytes = &mut bytes[..left as usize];
        // SAFETY: `host` is a whole mapped page of a slot.
        unsafe { softmmu::host_read(page.host + offset, bytes) };
        if !runs_over(bytes, allowed.wide) {
            return Some(Place { page, next: None });
        }
        let next = rip.wrapping_add(left);
        if !allowed.wide && next >> 32 != 0 {
            return None;
        }
        let next = self.code_page(next, bank).ok()??;
        Some(Place {
            page,
            next: Some(next),
        })
    }

    /// Writes to the page are noticed.
    fn is_tracked(&self, gpa: u64) -> bool {
        self.map.page(gpa).is_some_and(|page| page.has_code())
    }

    /// Translates what is at `place`. Its bytes are read under the cache's
    /// lock: a write that this does not see drops the translation once it has
    /// the lock.
    fn translate(
        &mut self,
        code: &mut CodeCache,
        key: Key,
        place: Place,
        (bank, allowed): (Bank, Allowed),
        linked: bool,
    ) -> Option<u32> {
        let bytes = &mut *self.local.code_bytes;
        let (mut len, mut from) = (0, (key.gpa & PAGE_MASK) as usize);
        for page in place.pages() {
            let read = from..(from + LONGEST_BLOCK).min(PAGE);
            let host = page.host + from as u64;
            // SAFETY: `host` lies in a whole mapped page of a slot.
            unsafe { softmmu::host_read(host, &mut bytes[len..][read]) };
            (len, from) = (len + PAGE, 0);
        }
        #[cfg(test)]
        crate::lockstep::sabotage(bytes);
        code.translate(&Request {
            key,
            source: Source {
                page: &bytes[..len],
                base: key.rip & !PAGE_MASK,
                copyable: &self.copyable,
                allowed,
                most: self.vm.options.stress.longest_block(),
                alone: code.alone,
                stops: &code.stops.clone(),
            },
            bank: bank as usize,
            user: bank == Bank::User,
            narrow: key.mode & NARROW != 0,
            linked,
        })
    }

    /// A process that comes to a page first is offered where others jumped to
    /// in it: the page is the same, so are its translations.
    fn offer_targets(&mut self, code: &mut CodeCache, key: &Key, block: u32) {
        code.note_target(block);
        let ctx = self.ctx_mut();
        let now = Now::new(&ctx.cpu, &ctx.tlb, &self.map);
        let cache = self.local.jumps.in_mode(key.mode, &now);
        code.offer_targets(key, cache);
    }

    /// True if the page tables, not just the TLB, map `la` to the page: all
    /// vCPUs will use a link made because of it, and a vCPU that flushed its
    /// TLB must not follow one made from an older mapping.
    fn maps_now(&self, la: u64, gpa: u64) -> bool {
        let ctx = self.ctx_mut();
        Now::new(&ctx.cpu, &ctx.tlb, &self.map).kernel(la, gpa)
    }

    /// From now on writes to the page are noticed. The vCPU does not run
    /// meanwhile: it must look at its requests afterwards.
    fn track_code(&mut self, gpa: u64) {
        let Some(page) = self.map.page(gpa) else {
            return;
        };
        page.set_code(true);
        self.ctx_mut().tlb.write_protect(gpa);
        self.shared.stop();
        self.vm.ask_and_wait(self.index, |f| f.write(gpa));
        self.vm.world_stop.start(&self.shared);
    }

    /// Drops all translations if the cache is full, or `anyway`.
    pub(crate) fn drop_translations(&mut self, anyway: bool) {
        self.local.jumps.clear();
        self.shared.stop();
        self.vm.make_room(self.index, anyway);
        self.vm.world_stop.start(&self.shared);
    }
}
