//! Guest RAM that the host gets back while the guest runs.
#![cfg_attr(test, allow(unsafe_code, reason = "mincore"))]

use super::{DeviceWrites, GuestRam, Mapping};
use crate::layout::RamRange;
use hv::Vm;
use std::io;
use std::sync::{Arc, Weak};
use virtio::WriteObserver;
use virtio::balloon::Reclaim;

/// Gives pages of a machine's RAM back.
struct Pages {
    mapping: Arc<Mapping>,
    ranges: Vec<RamRange>,
    observer: Arc<dyn WriteObserver>,
}

impl GuestRam {
    /// For devices through which the guest gives pages back; `vm` hears of
    /// them.
    pub fn reclaim(&self, vm: Weak<dyn Vm>) -> Arc<dyn Reclaim> {
        let _mapping = self.mapping.clone();
        Arc::new(self.pages(Arc::new(DeviceWrites { vm, _mapping })))
    }

    fn pages(&self, observer: Arc<dyn WriteObserver>) -> Pages {
        Pages {
            mapping: self.mapping.clone(),
            ranges: self.ranges.clone(),
            observer,
        }
    }
}

impl Reclaim for Pages {
    fn discard(&self, gpa: u64, len: u64) -> io::Result<()> {
        let end = gpa.checked_add(len);
        let range = self
            .ranges
            .iter()
            .find(|r| gpa >= r.gpa && end.is_some_and(|end| end <= r.gpa + r.size));
        let range = range.ok_or_else(|| io::Error::other("not in one piece of RAM"))?;
        let offset = (range.offset + (gpa - range.gpa)) as usize;
        self.mapping.discard(offset, len as usize)?;
        // The bytes changed: no translation of the old ones may stay.
        self.observer.written(gpa, len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;
    use crate::memory::MemoryBackend;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u64, u64)>>);

    impl WriteObserver for Log {
        fn written(&self, gpa: u64, len: u64) {
            self.0.lock().unwrap().push((gpa, len));
        }
    }

    /// Bytes of `ram`'s mapping that the host holds, by mincore(2).
    fn resident(ram: &GuestRam) -> usize {
        let pages = ram.mapping.len.div_ceil(4096);
        let mut map = vec![0u8; pages];
        let base = ram.mapping.base.as_ptr().cast();
        // SAFETY: one byte for each page of the mapping.
        let result = unsafe { libc::mincore(base, ram.mapping.len, map.as_mut_ptr()) };
        assert_eq!(result, 0);
        map.iter().filter(|&&b| b & 1 != 0).count() * 4096
    }

    #[test]
    fn discarded_pages_are_the_hosts_and_read_as_zero() {
        let layout = Layout::new(16 << 20, 39, &crate::boards::PC).unwrap();
        discarded(GuestRam::new(&layout).unwrap());
        // A seam in what is discarded, from shared to private.
        let half = MemoryBackend::anonymous("half", 5 << 20);
        let shared = MemoryBackend {
            share: true,
            ..half.clone()
        };
        let rest = MemoryBackend {
            size: 11 << 20,
            ..half
        };
        let parts = [shared.into(), rest.into()];
        discarded(GuestRam::of(&layout, &parts).unwrap());
    }

    fn discarded(ram: GuestRam) {
        let log = Arc::new(Log::default());
        let reclaim = ram.pages(log.clone());
        ram.write(2 << 20, &vec![7; 8 << 20]).unwrap();
        let before = resident(&ram);
        assert!(before >= 8 << 20, "{before}");
        reclaim.discard(3 << 20, 4 << 20).unwrap();
        assert!(resident(&ram) <= before - (4 << 20));
        let byte = |gpa| {
            let mut byte = [0];
            ram.read(gpa, &mut byte).unwrap();
            byte[0]
        };
        let edges = [(3 << 20) - 1, 3 << 20, (7 << 20) - 1, 7 << 20];
        assert_eq!(edges.map(byte), [7, 0, 0, 7]);
        ram.write(4 << 20, &[9]).unwrap();
        assert_eq!(byte(4 << 20), 9);
        for (gpa, len) in [
            (0xa_0000, 4096),
            (15 << 20, 2 << 20),
            (u64::MAX - 4095, 4096),
        ] {
            assert!(reclaim.discard(gpa, len).is_err(), "{gpa:#x}");
        }
        assert_eq!(*log.0.lock().unwrap(), [(3 << 20, 4 << 20)]);
    }
}
