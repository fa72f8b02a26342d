//! Message ids and timestamps.
//!
//! In: what the clock says, read by the caller once a turn. Out: a UUIDv7 and a timestamp for each message, and the text
//! of a timestamp. Every shard owns one [`Stamper`]; since a room has one home shard, its ids and timestamps rise in the
//! order of its messages. Nothing here reads a clock.

use std::ops::Range;

use bytes::{BufMut, BytesMut};
use rand::{Rng, SeedableRng, rngs::StdRng};
use uuid::{Builder, Uuid};

use crate::store::Micros;

const MICROS_A_MILLISECOND: u64 = 1_000;
const MICROS_A_SECOND: u64 = 1_000_000;
const SECONDS_A_DAY: u64 = 86_400;

/// The last microsecond of the year 9999, the last that RFC 3339 can write.
const MICROS_MAX: u64 = 253_402_300_799_999_999;

/// The length of a timestamp's text.
pub const RFC_3339_BYTES: usize = "2024-01-01T12:00:00.123456Z".len();

/// Gives every message of a shard an id and a time, each greater than the last.
#[derive(Debug)]
pub struct Stamper {
    last: Micros,
    random: StdRng,
}

impl Stamper {
    /// A stamper with random bits of its own, seeded by the operating system.
    pub fn new() -> Stamper {
        Stamper { last: 0, random: rand::make_rng() }
    }

    /// A stamper whose first timestamp is above `last`, though the clock may have been set back.
    pub fn after(last: Micros) -> Stamper {
        Stamper { last, ..Stamper::new() }
    }

    /// A stamper whose random bits repeat, for tests.
    pub fn seeded(seed: u64) -> Stamper {
        Stamper { last: 0, random: StdRng::seed_from_u64(seed) }
    }

    /// The id and the timestamp of one message. When the clock stands still or goes back, time goes on by one
    /// microsecond a message.
    pub fn stamp(&mut self, now: Micros) -> (Uuid, Micros) {
        self.last = now.max(self.last.saturating_add(1));
        (self.id(self.last as u64), self.last)
    }

    /// A UUIDv7 (RFC 9562 section 5.7) that sorts as its timestamp does: the twelve bits after the milliseconds hold the
    /// fraction of the millisecond (section 6.2, method 3), the other 62 are random.
    fn id(&mut self, micros: u64) -> Uuid {
        let millis = micros / MICROS_A_MILLISECOND;
        // 4,096 steps a millisecond keep any two of its 1,000 microseconds apart.
        let fraction = (micros % MICROS_A_MILLISECOND) * 4096 / MICROS_A_MILLISECOND;
        let mut tail = [0; 10];
        tail[..2].copy_from_slice(&(fraction as u16).to_be_bytes());
        tail[2..].copy_from_slice(&self.random.next_u64().to_be_bytes());
        Builder::from_unix_timestamp_millis(millis, &tail).into_uuid()
    }
}

impl Default for Stamper {
    fn default() -> Self {
        Stamper::new()
    }
}

/// Writes `timestamp` as RFC 3339 in UTC with six fractional digits, [`RFC_3339_BYTES`] long. What lies before 1970 or
/// after the year 9999 is written as the nearest moment that does not.
pub fn put_rfc3339(out: &mut BytesMut, timestamp: Micros) {
    let micros = u64::try_from(timestamp).unwrap_or(0).min(MICROS_MAX);
    let seconds = micros / MICROS_A_SECOND;
    let (year, month, day) = civil(seconds / SECONDS_A_DAY);
    let of_day = seconds % SECONDS_A_DAY;

    let mut text = *b"0000-00-00T00:00:00.000000Z";
    put_digits(&mut text[0..4], year);
    put_digits(&mut text[5..7], month);
    put_digits(&mut text[8..10], day);
    put_digits(&mut text[11..13], of_day / 3600);
    put_digits(&mut text[14..16], of_day / 60 % 60);
    put_digits(&mut text[17..19], of_day % 60);
    put_digits(&mut text[20..26], micros % MICROS_A_SECOND);
    out.put_slice(&text);
}

/// Writes the last digits of `number`, as many as there is place for.
fn put_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Reads what [`put_rfc3339`] writes. `None` for any other text, the same moment in another form of RFC 3339 included.
pub fn read_rfc3339(text: &str) -> Option<Micros> {
    let number = |place: Range<usize>| {
        let digits = text.get(place).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<u64>().ok()
    };
    let day = day(number(0..4)?, number(5..7)?, number(8..10)?)?;
    let seconds = day * SECONDS_A_DAY + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    let timestamp = Micros::try_from(seconds * MICROS_A_SECOND + number(20..26)?).ok()?;
    // Whatever was not looked at, such as a 30th of February, is not what would be written.
    let mut written = BytesMut::with_capacity(RFC_3339_BYTES);
    put_rfc3339(&mut written, timestamp);
    (written == text.as_bytes()).then_some(timestamp)
}

/// From 0000-03-01, where a cycle of four centuries begins, to 1970-01-01.
const DAYS_BEFORE_1970: u64 = 719_468;

/// The inverse of [`civil`], for a date that there is; `None` for one before 1970.
fn day(year: u64, month: u64, day_of_month: u64) -> Option<u64> {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let before_the_year = 365 * year + year / 4 - year / 100 + year / 400;
    (before_the_year + (153 * month + 2) / 5 + day_of_month).checked_sub(1 + DAYS_BEFORE_1970)
}

/// The Gregorian year, month and day of a day counted from 1970-01-01.
///
/// Years are taken to begin in March: then the leap day is the last of its year, and the months from March on have
/// 31, 30, 31, 30, 31 days over and over, which is 153 days in five months.
fn civil(day: u64) -> (u64, u64, u64) {
    const DAYS_A_CENTURY: u64 = 36_524;
    const DAYS_IN_FOUR_CENTURIES: u64 = 4 * DAYS_A_CENTURY + 1;
    const DAYS_IN_FOUR_YEARS: u64 = 1_461;

    let day = day + DAYS_BEFORE_1970;
    let (cycle, day) = (day / DAYS_IN_FOUR_CENTURIES, day % DAYS_IN_FOUR_CENTURIES);
    // The last day of a cycle is the leap day of a fourth century, and not the first of a fifth.
    let century = (day / DAYS_A_CENTURY).min(3);
    let day = day - century * DAYS_A_CENTURY;
    let (leap, day) = (day / DAYS_IN_FOUR_YEARS, day % DAYS_IN_FOUR_YEARS);
    let year = (day / 365).min(3);
    let day = day - year * 365;

    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let year = 400 * cycle + 100 * century + 4 * leap + year;
    if month < 10 { (year, month + 3, day_of_month) } else { (year + 1, month - 9, day_of_month) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Micros = 1_704_110_400_123_456;

    fn text(timestamp: Micros) -> String {
        let mut out = BytesMut::new();
        put_rfc3339(&mut out, timestamp);
        String::from_utf8(out.to_vec()).expect("ASCII")
    }

    #[test]
    fn ids_and_timestamps_rise_whatever_the_clock_does() {
        let mut stamper = Stamper::seeded(7);
        let mut last = (Uuid::nil(), 0);
        let clock = [NOON, NOON, NOON - 5_000_000, NOON - 1, NOON + 999, NOON + 1000, NOON + 1000, 0, -1, NOON + 2000];
        for now in clock.into_iter().cycle().take(10_000) {
            let stamped = stamper.stamp(now);
            assert!(stamped.0 > last.0 && stamped.1 > last.1, "{stamped:?} after {last:?}");
            assert!(stamped.1 >= now);
            last = stamped;
        }
        assert!(last.1 < NOON + 20_000, "time runs ahead by a microsecond a message at most");
    }

    #[test]
    fn a_run_goes_on_where_the_last_one_was() {
        let (before, mut stamper) = (Stamper::new().stamp(NOON), Stamper::after(NOON));
        let after = stamper.stamp(NOON - 3_600_000_000);
        assert!(after.0 > before.0 && after.1 > before.1);
    }

    #[test]
    fn ids_are_uuid_v7_of_their_timestamp() {
        let (id, timestamp) = Stamper::seeded(7).stamp(NOON);
        assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
        let bits = id.as_u128();
        assert_eq!(timestamp, NOON);
        assert_eq!(bits >> 80, 1_704_110_400_123);
        assert_eq!((bits >> 64) & 0xfff, 456 * 4096 / 1000);
        assert_ne!(Stamper::new().stamp(NOON).0, Stamper::new().stamp(NOON).0, "62 random bits differ");
    }

    #[test]
    fn timestamps_are_written_as_rfc_3339() {
        for (timestamp, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (-1, "1970-01-01T00:00:00.000000Z"),
            (Micros::MIN, "1970-01-01T00:00:00.000000Z"),
            (1, "1970-01-01T00:00:00.000001Z"),
            (NOON, "2024-01-01T12:00:00.123456Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (951_868_799_999_999, "2000-02-29T23:59:59.999999Z"),
            (951_868_800_000_000, "2000-03-01T00:00:00.000000Z"),
            (4_107_542_399_000_000, "2100-02-28T23:59:59.000000Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
            (253_402_300_800_000_000, "9999-12-31T23:59:59.999999Z"),
            (Micros::MAX, "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(text(timestamp), expected, "{timestamp}");
            let written = timestamp.clamp(0, MICROS_MAX as Micros);
            assert_eq!(read_rfc3339(expected), Some(written), "{expected}");
        }
    }

    #[test]
    fn nothing_else_is_read_as_a_timestamp() {
        for text in [
            "",
            "2024-01-01T12:00:00Z",
            "2024-01-01T12:00:00.123Z",
            "2024-01-01T12:00:00.123456+00:00",
            "2024-01-01 12:00:00.123456Z",
            "2024-01-01T12:00:00.123456Z ",
            "2024-01-01T12:00:00.+23456Z",
            "2023-02-29T12:00:00.123456Z",
            "2024-00-01T12:00:00.123456Z",
            "2024-13-01T12:00:00.123456Z",
            "2024-01-00T12:00:00.123456Z",
            "2024-01-01T24:00:00.123456Z",
            "2024-01-01T12:00:60.123456Z",
            "1969-12-31T23:59:59.999999Z",
            "0000-01-01T00:00:00.000000Z",
            "\u{e9}024-01-01T12:00:00.123456Z",
        ] {
            assert_eq!(read_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_until_9999_follows_the_day_before_it() {
        let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let mut expected = (1970, 1, 1);
        for day in 0..=MICROS_MAX / MICROS_A_SECOND / SECONDS_A_DAY {
            assert_eq!(civil(day), expected, "day {day}");
            assert_eq!(super::day(expected.0, expected.1, expected.2), Some(day));
            let (year, month, of_month) = expected;
            let days = match month {
                2 => 28 + u64::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, of_month) {
                (12, 31) => (year + 1, 1, 1),
                (_, last) if last == days => (year, month + 1, 1),
                _ => (year, month, of_month + 1),
            };
        }
        assert_eq!(expected, (10_000, 1, 1));
    }
}
