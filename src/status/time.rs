//! Points in time, as people and jq read them.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde::Serialize;
use serde::ser::Serializer;

/// Milliseconds since 1970 by a clock that goes steadily: what the wall clock said when this program was started, and the time since
/// then. Spans between two of them are true whatever becomes of the wall clock. It is written by the wall clock as that goes now, as
/// RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

/// The same moment by both clocks.
static START: LazyLock<(u64, Instant)> = LazyLock::new(|| (wall_clock(), Instant::now()));

/// How far the wall clock is ahead of the steady one, in milliseconds.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// So far apart they may go before it is taken in, so that the same moment is mostly written in the same way.
const APART_MS: u64 = 500;

/// Milliseconds since 1970.
fn wall_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// How far the wall clock is ahead now, if it was `known` before.
fn ahead(known: i64, steady: u64, wall: u64) -> i64 {
    let now = wall.cast_signed().saturating_sub(steady.cast_signed());
    if now.abs_diff(known) < APART_MS { known } else { now }
}

/// [`AHEAD`], as it is now.
fn correction() -> i64 {
    let now = ahead(AHEAD.load(Ordering::Relaxed), Time::now().0, wall_clock());
    AHEAD.store(now, Ordering::Relaxed);
    now
}

impl Time {
    /// Now.
    pub fn now() -> Self {
        let (wall, steady) = *START;
        Self(wall.saturating_add(Self::from_millis(steady.elapsed().as_millis()).0))
    }

    /// What the wall clock says now, to the millisecond.
    pub fn of_wall_clock() -> impl fmt::Display {
        Written(wall_clock())
    }

    fn from_millis(ms: u128) -> Self {
        Self(u64::try_from(ms).unwrap_or(u64::MAX))
    }

    /// Seconds since 1970.
    pub fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1000))
    }

    /// Seconds since 1970, for Prometheus.
    #[allow(clippy::cast_precision_loss)] // Exact for the next 285,000 years.
    pub fn as_secs(self) -> f64 {
        self.written().0 as f64 / 1000.0
    }

    /// That moment of the steady clock.
    pub fn of(instant: Instant) -> Self {
        Self(Self::now().0.saturating_sub(Self::from_millis(instant.elapsed().as_millis()).0))
    }

    /// To the second, as people read it.
    pub fn short(self) -> String {
        let text = self.to_string();
        text.get(..19).map_or(text.clone(), |text| text.replace('T', " "))
    }

    /// How long ago it is; nothing if it is to come.
    pub fn ago(self, now: Self) -> Duration {
        Duration::from_millis(now.0.saturating_sub(self.0))
    }

    /// So much earlier, to the second, so that the same moment told of twice is the same.
    pub fn before(self, ago: Duration) -> Self {
        Self(self.0.saturating_sub(Self::from_millis(ago.as_millis()).0) / 1000 * 1000)
    }
}

/// Milliseconds since 1970 by the wall clock.
struct Written(u64);

impl Time {
    fn written(self) -> Written {
        // 1970 stands for never.
        Written(if self.0 == 0 { 0 } else { self.0.saturating_add_signed(correction()) })
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written().fmt(f)
    }
}

impl fmt::Display for Written {
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

/// Reads what [`Time`] writes: `2026-11-21T20:13:56.123Z`. jiff's parser takes everything that RFC 9557 has, and much room.
pub fn parse(text: &str) -> Option<Time> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers =
        |text: &str, by: [char; 2]| text.split(by).map(|n| n.parse::<u64>().ok()).collect::<Option<Vec<_>>>();
    let ([year, month, day], [hour, minute, second, ms]) =
        (&numbers(date, ['-'; 2])?[..], &numbers(time, [':', '.'])?[..])
    else {
        return None;
    };
    // Days from March on, so that the leap day is the last (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let (year, month) = if *month > 2 { (*year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day.checked_sub(1)?;
    let seconds = (days.checked_sub(719_468)? * 24 + hour) * 3600 + minute * 60 + second;
    Some(Time((seconds * 1000 + ms).saturating_sub_signed(correction())))
}

/// A span as people say it: `3 s`, `5 min`, `2 h 5 min`, `3 d 4 h`.
pub fn span(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..120 => format!("{s} s"),
        120..7200 => format!("{} min", s / 60),
        7200..172_800 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86400, s % 86400 / 3600),
    }
}

/// The samples of the page are read in tests alone.
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
    fn a_time_is_read_as_it_is_written() {
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
    fn a_step_of_the_wall_clock_changes_what_is_written_and_no_span() {
        const DAY: u64 = 86_400_000;
        let (steady, wall) = (100 * DAY, 100 * DAY);
        assert_eq!(ahead(0, steady, wall + 499), 0, "it drifts");
        assert_eq!(ahead(0, steady, wall - 499), 0);
        assert_eq!(ahead(0, steady, wall + DAY), DAY.cast_signed());
        assert_eq!(ahead(0, steady, wall - DAY), -DAY.cast_signed());
        assert_eq!(ahead(DAY.cast_signed(), steady, wall), 0, "and back");
        assert_eq!(ahead(0, steady, 0), -(100 * DAY).cast_signed());
        let (before, now) = (Time::now(), Instant::now());
        std::thread::sleep(Duration::from_millis(2));
        assert!(Time::of(now) >= before && before.ago(Time::now()) >= Duration::from_millis(2));
    }

    #[test]
    fn spans() {
        for (s, words) in
            [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7500, "2 h 5 min"), (273_600, "3 d 4 h")]
        {
            assert_eq!(span(Duration::from_secs(s)), words);
        }
    }
}
