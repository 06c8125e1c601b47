use super::*;
use crate::testing::{BUFFERS, PATIENCE, Rig, USED, WRITE};
use parking_lot::Mutex;
use vm_memory::{Bytes, GuestAddress};

/// Remembers what it is given.
#[derive(Default)]
struct Reclaimed(Mutex<Vec<(u64, u64)>>);

impl Reclaim for Reclaimed {
    fn discard(&self, gpa: u64, len: u64) -> io::Result<()> {
        self.0.lock().push((gpa, len));
        Ok(())
    }
}

struct Guest {
    rig: Rig,
    host: Arc<Host>,
    reclaimed: Arc<Reclaimed>,
}

impl Guest {
    fn new(options: Options) -> Self {
        let (host, reclaimed) = <(Arc<Host>, Arc<Reclaimed>)>::default();
        let balloon = Balloon::new(host.clone(), reclaimed.clone(), options);
        Self {
            rig: Rig::new(Arc::new(balloon)),
            host,
            reclaimed,
        }
    }

    /// A driver that uses queue `index` only, as the rig's first queue.
    fn start(&self, index: u16, features: u64) {
        self.rig.start_queue(index, features);
    }

    fn taken(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut *self.reclaimed.0.lock())
    }

    fn list(&self, pages: &[u32]) -> (u64, u32, u16) {
        let bytes: Vec<u8> = pages.iter().flat_map(|p| p.to_le_bytes()).collect();
        let at = GuestAddress(BUFFERS);
        self.rig.memory.write_slice(&bytes, at).unwrap();
        (BUFFERS, bytes.len() as u32, 0)
    }
}

const REPORTS: Options = Options {
    deflate_on_oom: true,
    free_page_reporting: true,
};

#[test]
fn options_are_features_and_queues() {
    let features = |options| {
        let guest = Guest::new(options);
        let low = guest.rig.read(0x04, 4) & 0xff;
        (low, guest.rig.read(0x12, 2))
    };
    assert_eq!(features(Options::default()), (0x12, 3));
    assert_eq!(features(REPORTS), (0x36, 4));
}

#[test]
fn inflated_pages_are_given_back_in_runs() {
    let guest = Guest::new(Options::default());
    guest.start(queue::INFLATE, 0);
    let list = guest.list(&[7, 3, 5, 4, 4, 0x10_0000, 0xffff_ffff]);
    assert_eq!(guest.rig.serve(&[list]), 0);
    let last = 0xffff_ffff * PAGE;
    let runs = [(3 * PAGE, 3 * PAGE), (7 * PAGE, PAGE), (4 << 30, PAGE)];
    assert_eq!(guest.taken(), [&runs[..], &[(last, PAGE)]].concat());
    // Half a number at the end is none.
    guest.rig.serve(&[(BUFFERS, 6, 0)]);
    assert_eq!(guest.taken(), [(7 * PAGE, PAGE)]);
}

#[test]
fn a_list_without_end_is_refused() {
    let guest = Guest::new(Options::default());
    guest.start(queue::INFLATE, 0);
    guest.rig.submit(&[(BUFFERS, 0x1_0004, 0)]);
    guest.rig.wait_vector(0);
    assert_eq!(guest.rig.status() & 0x40, 0x40);
    assert_eq!(guest.taken(), []);
}

#[test]
fn reported_pages_are_given_back_whole() {
    let guest = Guest::new(REPORTS);
    guest.start(queue::REPORTING, feature::PAGE_REPORTING);
    let high = (4 << 30) + 0x8000;
    guest.rig.serve(&[
        (0x2_0800, 0x2800, WRITE),
        (high, 0x1000, WRITE),
        (0x3_0010, 0x1800, WRITE),
    ]);
    assert_eq!(guest.taken(), [(0x2_1000, 0x2000), (high, 0x1000)]);
    // Pages whose contents matter stay.
    guest.rig.write(0x200c, 4, 0xaa);
    guest.rig.serve(&[(0x2_0000, 0x1000, WRITE)]);
    assert_eq!(guest.taken(), []);
}

#[test]
fn the_target_is_an_interrupt_and_the_answer_is_waited_for() {
    let guest = Guest::new(Options::default());
    guest.start(queue::INFLATE, 0);
    guest.host.set_target(256);
    guest.rig.wait_vector(0);
    assert_eq!(guest.rig.read(0x2000, 4), 256);
    guest.rig.write(0x2000, 4, 1);
    assert_eq!(guest.rig.read(0x2000, 4), 256, "read-only");
    guest.rig.write(0x2004, 4, 256);
    assert!(guest.host.wait(PATIENCE));
    assert_eq!(guest.host.pages(), 256);
    guest.rig.set_status(0);
    assert_eq!((guest.host.pages(), guest.host.target()), (0, 256));
}

#[test]
fn statistics_come_when_they_are_asked_for() {
    let guest = Guest::new(Options::default());
    assert!(!guest.host.poll_statistics(), "no driver");
    guest.start(queue::STATS, feature::STATS_QUEUE);
    let put = |records: &[(u16, u64)]| {
        let record = |&(tag, value): &(u16, u64)| {
            [&tag.to_le_bytes()[..], &value.to_le_bytes()[..]].concat()
        };
        let bytes: Vec<u8> = records.iter().flat_map(record).collect();
        let at = GuestAddress(BUFFERS);
        guest.rig.memory.write_slice(&bytes, at).unwrap();
        guest.rig.submit(&[(BUFFERS, bytes.len() as u32, 0)]);
    };
    // The driver's first buffer stays with the device.
    put(&[(5, 1 << 30), (4, 7), (99, 1)]);
    let free = || guest.host.statistics()[4];
    assert!(guest.host.wait_for_report(0, PATIENCE));
    let (name, value) = ("stat-free-memory", Some(7));
    assert_eq!(free(), Statistic { name, value });
    let used = || -> u16 { guest.rig.memory.read_obj(GuestAddress(USED + 2)).unwrap() };
    assert_eq!(used(), 0);
    assert!(guest.host.poll_statistics());
    guest.rig.wait_used(1);
    put(&[(4, 9)]);
    assert!(guest.host.wait_for_report(1, PATIENCE));
    assert_eq!(free().value, Some(9));
    assert_eq!(guest.host.statistics()[5].value, None);
}

#[test]
fn a_saved_balloon_has_no_buffer_in_flight() {
    let guest = Guest::new(Options::default());
    guest.start(queue::STATS, feature::STATS_QUEUE);
    guest.rig.submit(&[(BUFFERS, 10, 0)]);
    assert!(guest.host.wait_for_report(0, PATIENCE));
    guest.host.set_target(5);
    let mut image = Image::default();
    let saved = devices::Stateful::save(&*guest.rig.function, "b", &mut image);
    saved.unwrap();
    guest.rig.wait_used(1);
    let fresh = Guest::new(Options::default());
    devices::Stateful::restore(&*fresh.rig.function, "b", &mut image).unwrap();
    assert_eq!(fresh.host.target(), 5);
    // A reset gives nothing back.
    guest.rig.set_status(0);
}
