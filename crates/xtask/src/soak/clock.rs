//! The guest's clock under load.

use super::record;
use crate::bench::guest_versions;
use crate::vitals::clock::{LIMIT_US, Sample, drift};
use anyhow::Result;
use std::time::Duration;

/// Compares the clocks each minute, or more often in a short run.
pub(super) fn run(minutes: usize) -> Result<bool> {
    let commit = record::commit();
    let length = Duration::from_secs(60 * minutes as u64);
    let pause = Duration::from_secs(if minutes < 5 { 10 } else { 60 });
    let show = |s: &Sample| {
        println!(
            "{:6.0} s: drift {:8.1} us, within {:.1} us",
            s.seconds, s.drift_us, s.error_us
        );
    };
    let (good, measured) = match drift("soft", length, pause, show) {
        Ok(samples) => judge(&samples),
        Err(why) => (false, format!("{why:#}")),
    };
    println!("{measured}");
    let what = format!("{minutes} minutes of guest clock under load");
    record::append(&commit, &what, good, &measured, &guest_versions()?)?;
    Ok(good)
}

fn judge(samples: &[Sample]) -> (bool, String) {
    let worst = samples.iter().map(|s| s.drift_us.abs()).fold(0.0, f64::max);
    let Some(last) = samples.last() else {
        return (false, "no comparison".into());
    };
    let limit = LIMIT_US * (last.seconds / 600.0).max(1.0);
    let measured = format!(
        "drift {:.0} us after {:.0} s, at most {worst:.0} us; half round trip {:.0} us; \
         no complaint of the guest's kernel",
        last.drift_us, last.seconds, last.error_us
    );
    (worst < limit, measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drift_above_the_limit_fails() {
        let sample = |seconds, drift_us| Sample {
            seconds,
            drift_us,
            error_us: 100.0,
        };
        assert!(judge(&[sample(300.0, -999.0), sample(600.0, 5.0)]).0);
        assert!(!judge(&[sample(300.0, -1001.0), sample(600.0, 5.0)]).0);
        assert!(judge(&[sample(1200.0, 1500.0)]).0);
        assert!(!judge(&[]).0);
    }
}
