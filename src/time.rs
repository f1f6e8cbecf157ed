//! Points in time, in a format for people and for jq.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde::Serialize;
use serde::ser::Serializer;

/// A point in time: milliseconds since 1970 on a monotonic clock that starts with the wall clock's time at the start of
/// this program. Durations between two of them do not depend on steps of the wall clock. It is printed as the current
/// wall clock counts, in RFC 3339 and UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

/// The start of this program, on both clocks.
static START: LazyLock<(u64, Instant)> = LazyLock::new(|| (wall_clock(), Instant::now()));

/// How far the wall clock is ahead of the monotonic one, in milliseconds.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// Drift of the clocks below which [`AHEAD`] stays unchanged, in milliseconds, so that a point in time is mostly
/// printed in the same way.
const MAX_DRIFT_MS: u64 = 500;

/// The wall clock, in milliseconds since 1970.
fn wall_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// How far the wall clock is ahead, in milliseconds; `known` is the value before.
fn ahead(known: i64, monotonic: u64, wall: u64) -> i64 {
    let now = wall.cast_signed().saturating_sub(monotonic.cast_signed());
    if now.abs_diff(known) < MAX_DRIFT_MS { known } else { now }
}

/// Updates [`AHEAD`] and returns it.
fn correction() -> i64 {
    let now = ahead(AHEAD.load(Ordering::Relaxed), Time::now().0, wall_clock());
    AHEAD.store(now, Ordering::Relaxed);
    now
}

impl Time {
    /// The current time.
    pub fn now() -> Self {
        let (wall, start) = *START;
        Self(wall.saturating_add(Self::from_millis(start.elapsed().as_millis()).0))
    }

    /// The wall clock, to the millisecond.
    pub fn of_wall_clock() -> impl fmt::Display {
        WallClockMs(wall_clock())
    }

    fn from_millis(ms: u128) -> Self {
        Self(u64::try_from(ms).unwrap_or(u64::MAX))
    }

    /// A point in time from seconds since 1970.
    pub fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1000))
    }

    /// Seconds since 1970 on the wall clock, for Prometheus.
    #[allow(clippy::cast_precision_loss)] // Exact for the next 285,000 years.
    pub fn as_secs(self) -> f64 {
        self.as_wall_clock().0 as f64 / 1000.0
    }

    /// The point in time of an [`Instant`].
    pub fn of(instant: Instant) -> Self {
        Self(Self::now().0.saturating_sub(Self::from_millis(instant.elapsed().as_millis()).0))
    }

    /// In seconds, for people: `2026-11-21 20:13:56`.
    pub fn short(self) -> String {
        let text = self.to_string();
        text.get(..19).map_or(text.clone(), |text| text.replace('T', " "))
    }

    /// How long before `now` it is; zero if it is later.
    pub fn ago(self, now: Self) -> Duration {
        Duration::from_millis(now.0.saturating_sub(self.0))
    }

    /// The point in time `ago` earlier, truncated to the second, so that two reports of one event give the same.
    pub fn before(self, ago: Duration) -> Self {
        Self(self.0.saturating_sub(Self::from_millis(ago.as_millis()).0) / 1000 * 1000)
    }
}

/// Milliseconds since 1970 on the wall clock.
struct WallClockMs(u64);

impl Time {
    fn as_wall_clock(self) -> WallClockMs {
        // 0 stands for never.
        WallClockMs(if self.0 == 0 { 0 } else { self.0.saturating_add_signed(correction()) })
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_wall_clock().fmt(f)
    }
}

impl fmt::Display for WallClockMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()) {
            Some(timestamp) => write!(f, "{timestamp:.3}"),
            None => f.write_str("never"),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Parses what [`Time`] prints: `2026-11-21T20:13:56.123Z`. jiff's parser accepts all of RFC 9557 and is large.
pub fn parse(text: &str) -> Option<Time> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers =
        |text: &str, by: [char; 2]| text.split(by).map(|n| n.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
    let ([year, month, day], [hour, minute, second, ms]) =
        (&numbers(date, ['-'; 2])?[..], &numbers(time, [':', '.'])?[..])
    else {
        return None;
    };
    // The year starts in March here, so that the leap day is its last day (Howard Hinnant, "chrono-compatible low-level
    // date algorithms").
    let (year, month) = if *month > 2 { (*year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day.checked_sub(1)?;
    let seconds = (days.checked_sub(719_468)? * 24 + hour) * 3600 + minute * 60 + second;
    Some(Time((seconds * 1000 + ms).saturating_sub_signed(correction())))
}

/// Formats a duration for people: `3 s`, `5 min`, `2 h 5 min`, `3 d 4 h`.
pub fn span(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..120 => format!("{s} s"),
        120..7200 => format!("{} min", s / 60),
        7200..172_800 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86400, s % 86400 / 3600),
    }
}

/// Only tests deserialize a status: the samples of the page.
#[cfg(test)]
impl<'de> serde::Deserialize<'de> for Time {
    fn deserialize<D: serde::de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| serde::de::Error::custom(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_time_is_parsed_back() {
        let time = Time(1_795_292_036_123);
        assert_eq!(
            (time.to_string().as_str(), time.short().as_str()),
            ("2026-11-21T20:13:56.123Z", "2026-11-21 20:13:56")
        );
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2026-11-21T20:13:56.123Z\"");
        for ms in
            [0, 1, 951_782_399_999, 951_782_400_000, 951_868_800_000, 1_795_292_036_123, 4_107_542_400_000]
        {
            assert_eq!(parse(&Time(ms).to_string()), Some(Time(ms)), "{}", Time(ms));
        }
        for wrong in [
            "",
            "Z",
            "2026-11-21",
            "2026-11-21T20:13:56Z",
            "2026-11-21T20:13:56.123",
            "x-1-1T1:1:1.1Z",
            "1-0-0T0:0:0.0Z",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert_eq!(time.before(Duration::from_millis(200)).to_string(), "2026-11-21T20:13:55.000Z");
    }

    #[test]
    fn a_step_of_the_wall_clock_changes_printed_times_and_no_duration() {
        const DAY: u64 = 86_400_000;
        let (monotonic, wall) = (100 * DAY, 100 * DAY);
        assert_eq!(ahead(0, monotonic, wall + 499), 0, "a drift");
        assert_eq!(ahead(0, monotonic, wall - 499), 0);
        assert_eq!(ahead(0, monotonic, wall + DAY), DAY.cast_signed());
        assert_eq!(ahead(0, monotonic, wall - DAY), -DAY.cast_signed());
        assert_eq!(ahead(DAY.cast_signed(), monotonic, wall), 0, "a step back");
        assert_eq!(ahead(0, monotonic, 0), -(100 * DAY).cast_signed());
        let (before, now) = (Time::now(), Instant::now());
        std::thread::sleep(Duration::from_millis(2));
        assert!(Time::of(now) >= before && before.ago(Time::now()) >= Duration::from_millis(2));
    }

    #[test]
    fn durations_are_formatted() {
        for (s, text) in
            [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7500, "2 h 5 min"), (273_600, "3 d 4 h")]
        {
            assert_eq!(span(Duration::from_secs(s)), text);
        }
    }
}
