//! The guest's clock against the host's: a program in the guest answers each
//! byte on the serial port with its time; the shortest of many round trips
//! bounds the offset, as in NTP (RFC 5905, section 8).

use super::{Machine, PATIENCE, PROMPT, guest, kernel_log, power_off};
use crate::expect::Session;
use anyhow::{Context, Result, bail};
use guestimg::Flavour;
use std::time::{Duration, Instant};

/// Round trips per comparison: at least so many,
const TRIPS: usize = 60;
/// and at most so many while the best is longer than [`GOOD_NS`] there and
/// back, as on a busy host.
const MOST_TRIPS: usize = 600;
const GOOD_NS: f64 = 800_000.0;
/// Between two: a console's writer lets bytes gather that follow others at once.
const BETWEEN: Duration = Duration::from_millis(1);
/// Allowed drift in 10 minutes.
pub(crate) const LIMIT_US: f64 = 1000.0;
/// Length of the test that is not a soak test.
const SHORT: Duration = Duration::from_secs(30);
/// Busy guest: pure computing, and processes, pipes and memory.
const LOAD: &str = "while :; do :; done & \
    while :; do dd if=/dev/zero bs=64k count=64 2>/dev/null | md5sum; done >/dev/null &\r";
/// What a kernel says about a clock it does not trust.
const COMPLAINTS: [&str; 5] = [
    "unstable",
    "lost ticks",
    "Lost ",
    "timekeeping watchdog",
    "skewed",
];

/// One comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Since the first one.
    pub(crate) seconds: f64,
    /// Guest minus host since boot, less that of the first one.
    pub(crate) drift_us: f64,
    /// Half the shortest round trips, this one's and the first one's.
    pub(crate) error_us: f64,
}

/// A boot whose clock is compared every `pause` for `length`.
pub(crate) fn drift(
    accel: &str,
    length: Duration,
    pause: Duration,
    each: impl FnMut(&Sample),
) -> Result<Vec<Sample>> {
    let mut session = Session::start(&mut guest(Machine::Trapeze(accel), Flavour::Cloud)?)?;
    session.expect(PROMPT, PATIENCE)?;
    let samples = under_load(&mut session, length, pause, each)?;
    power_off(&mut session)?;
    Ok(samples)
}

/// Half a minute, in which the drift must be below what adds up to the
/// allowed one, as far as can be told.
pub(super) fn short(session: &mut Session) -> Result<String> {
    let samples = under_load(session, SHORT, SHORT / 3, |_| {})?;
    let worst = samples.iter().map(|s| s.drift_us.abs() - s.error_us);
    let worst = worst.fold(0.0, f64::max);
    let last = samples.last().context("no comparison")?;
    let text = format!(
        "clock {:.0} us off after {:.0} s, known to {:.0} us",
        last.drift_us, last.seconds, last.error_us
    );
    match worst < LIMIT_US * last.seconds / 600.0 {
        true => Ok(text),
        false => bail!("{text}: more than {LIMIT_US} us in 10 minutes"),
    }
}

/// Loads the guest, compares the clocks, ends the load; from prompt to prompt.
/// An error if the guest's kernel complains about its clocks.
fn under_load(
    session: &mut Session,
    length: Duration,
    pause: Duration,
    mut each: impl FnMut(&Sample),
) -> Result<Vec<Sample>> {
    session.send("cat /sys/devices/system/clocksource/clocksource0/current_clocksource\r")?;
    session.expect("\nkvm-clock", PATIENCE)?;
    session.expect(PROMPT, PATIENCE)?;
    session.send(LOAD)?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("stty raw -echo; clock; stty sane; echo clock ended $?\r")?;
    session.expect("CLOCK-READY", PATIENCE)?;
    session.expect("\n", PATIENCE)?;
    let samples = compare(session, length, pause, &mut each)?;
    session.send("q")?;
    session.expect("clock ended 0", PATIENCE)?;
    session.expect(PROMPT, PATIENCE)?;
    session.send("kill %1 %2\r")?;
    session.expect(PROMPT, PATIENCE)?;
    let log = kernel_log(session)?;
    let complains = |l: &&str| COMPLAINTS.iter().any(|c| l.contains(c));
    match log.lines().find(complains) {
        Some(line) => bail!("the guest's kernel complains: {}", line.trim_end()),
        None => Ok(samples),
    }
}

fn compare(
    session: &mut Session,
    length: Duration,
    pause: Duration,
    each: &mut impl FnMut(&Sample),
) -> Result<Vec<Sample>> {
    let start = Instant::now();
    let (first, first_error) = offset(session, start)?;
    let mut samples: Vec<Sample> = Vec::new();
    while samples
        .last()
        .is_none_or(|s| s.seconds < length.as_secs_f64())
    {
        std::thread::sleep(pause);
        let (offset, error) = offset(session, start)?;
        let sample = Sample {
            seconds: start.elapsed().as_secs_f64(),
            drift_us: (offset - first) / 1e3,
            error_us: (error + first_error) / 1e3,
        };
        each(&sample);
        samples.push(sample);
    }
    Ok(samples)
}

/// Guest's time minus ns since `start`, and how wrong that can be.
fn offset(session: &mut Session, start: Instant) -> Result<(f64, f64)> {
    let mut best: Option<(f64, f64)> = None;
    let good = |best: Option<(f64, f64)>| best.is_some_and(|(_, e)| e * 2.0 < GOOD_NS);
    for trip in 0..MOST_TRIPS {
        if trip >= TRIPS && good(best) {
            break;
        }
        std::thread::sleep(BETWEEN);
        let sent = start.elapsed();
        session.send("?")?;
        session.expect(".", PATIENCE)?;
        let came = start.elapsed();
        let text = session.expect("\n", PATIENCE)?;
        let guest: u64 = text
            .trim()
            .parse()
            .with_context(|| format!("time '{text}'"))?;
        let error = (came - sent).as_nanos() as f64 / 2.0;
        if best.is_none_or(|(_, e)| error < e) {
            best = Some((guest as f64 - sent.as_nanos() as f64 - error, error));
        }
    }
    best.context("no round trip")
}
