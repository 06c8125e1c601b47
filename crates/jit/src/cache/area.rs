//! Parts of the linear address space whose mappings changed.

use super::Map;

/// The addresses that one page of some size holds, or all.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    la: u64,
    shift: u8,
}

impl Area {
    /// Every address.
    pub const ALL: Self = Self { la: 0, shift: 64 };

    /// The page of `1 << shift` bytes around `la`.
    pub fn page(la: u64, shift: u8) -> Self {
        Self { la, shift }
    }

    fn contains(self, la: u64) -> bool {
        let differing = self.la ^ la;
        differing.checked_shr(self.shift.into()).unwrap_or(0) == 0
    }

    /// What `map`, which is by number of 4 KiB page, has in the area, with the
    /// pages' addresses.
    pub(super) fn of<T>(
        self,
        map: &mut Map<u64, T>,
    ) -> Box<dyn Iterator<Item = (u64, &mut T)> + '_> {
        if self.shift <= 12 {
            let found = map.get_mut(&(self.la >> 12));
            return Box::new(found.map(|v| (self.la & !0xfff, v)).into_iter());
        }
        let all = map.iter_mut().map(|(page, v)| (page << 12, v));
        Box::new(all.filter(move |(la, _)| self.contains(*la)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_has_the_pages_inside_it() {
        let mut map: Map<u64, u8> = Map::default();
        for page in [0x1ff, 0x200, 0x201, 0x3ff, 0x400, u64::MAX >> 12] {
            map.insert(page, 0);
        }
        let mut pages = |area: Area| {
            let mut pages: Vec<u64> = area.of(&mut map).map(|(la, _)| la >> 12).collect();
            pages.sort_unstable();
            pages
        };
        assert_eq!(pages(Area::page(0x20_1234, 12)), [0x201]);
        assert_eq!(pages(Area::page(0x20_2000, 12)), []);
        assert_eq!(pages(Area::page(0x23_4567, 21)), [0x200, 0x201, 0x3ff]);
        assert_eq!(pages(Area::ALL).len(), 6);
    }
}
