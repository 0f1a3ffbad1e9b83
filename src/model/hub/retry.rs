//! When a failed attempt is followed by another one, and after which wait.

use super::Limits;
use super::failure::Failure;
use rand::RngExt;
use std::time::{Duration, SystemTime};
use ureq::http::{HeaderMap, header};

/// The attempts at one request.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    limits: &'a Limits,
    /// Attempts so far.
    pub made: u32,
    /// Failures since a good part of a file came.
    failed: u32,
}

impl<'a> Attempts<'a> {
    /// The first one begins.
    pub fn new(limits: &'a Limits) -> Self {
        Self { limits, made: 1, failed: 0 }
    }

    /// Forgives the failures so far: the server does bring the file, if in pieces.
    pub fn forgive(&mut self) {
        self.failed = 0;
    }

    /// Waits until the next attempt may begin. `url` is what the user is told about.
    ///
    /// # Errors
    /// The failure itself when another attempt would not help, or after the last one; [`Failure::Pause`] for a server
    /// that asks for too long a wait.
    pub fn wait_after(&mut self, failure: Failure, url: &str) -> Result<(), Failure> {
        self.failed += 1;
        if !failure.may_pass() || self.failed >= self.limits.attempts {
            return Err(failure);
        }
        let (status, asked) = match failure {
            Failure::Status { status, retry_after, .. } => (status, retry_after),
            _ => (0, None),
        };
        if let Some(asked) = asked.filter(|asked| *asked > self.limits.longest_wait) {
            return Err(Failure::Pause { status, asked, longest: self.limits.longest_wait });
        }
        let wait = pause(self.limits, self.failed, asked, rand::rng().random());
        let shown = humantime::format_duration(Duration::from_millis(wait.as_millis() as u64));
        tracing::warn!("{url}: {failure}; trying again in {shown}");
        std::thread::sleep(wait);
        self.made += 1;
        Ok(())
    }
}

/// The wait after `failed` failures: doubling, at least half of it, the rest by chance (`chance` in 0..1), so that many
/// clients do not come back at once. What a server asked for is waited for in full.
fn pause(limits: &Limits, failed: u32, asked: Option<Duration>, chance: f64) -> Duration {
    let doubled = limits.first_wait.saturating_mul(2_u32.saturating_pow(failed.saturating_sub(1)));
    let own = doubled.min(limits.longest_wait);
    match asked {
        Some(asked) => asked.saturating_add(limits.first_wait.min(own).mul_f64(chance)),
        None => own.mul_f64(0.5 + 0.5 * chance),
    }
}

/// What the header `Retry-After` asks for: seconds, or a date, which is compared with the server's own clock where the
/// answer tells it. `None` without the header, or with one that is neither.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let asked = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(asked).ok()?;
    let now = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(now);
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(header::HeaderName, &'static str)], now: SystemTime) -> Option<Duration> {
        let values = headers.iter().map(|(name, value)| (name.clone(), header::HeaderValue::from_static(value)));
        retry_after(&values.collect(), now)
    }

    #[test]
    fn waits_double_with_chance_and_have_an_upper_limit() {
        let seconds = Duration::from_secs;
        let limits = Limits { first_wait: seconds(2), longest_wait: seconds(10), ..Limits::default() };
        let waits: Vec<Duration> = (1..5).map(|failed| pause(&limits, failed, None, 0.0)).collect();
        assert_eq!(waits, [seconds(1), seconds(2), seconds(4), seconds(5)]);
        assert_eq!(pause(&limits, 3, None, 0.5), seconds(6));
        assert_eq!(pause(&limits, u32::MAX, None, 1.0), seconds(10));
        assert_eq!(pause(&limits, 1, Some(seconds(7)), 0.0), seconds(7));
        assert_eq!(pause(&limits, 3, Some(seconds(7)), 0.5), seconds(8));
    }

    #[test]
    fn seconds_and_dates_of_retry_after() {
        let seconds = Duration::from_secs;
        // RFC 9110's example date, in seconds since 1970.
        let date = (header::RETRY_AFTER, "Fri, 31 Dec 1999 23:59:59 GMT");
        let now = SystemTime::UNIX_EPOCH + seconds(946_684_799 - 90);
        assert_eq!(asked(&[], now), None);
        assert_eq!(asked(&[(header::RETRY_AFTER, " 120 ")], now), Some(seconds(120)));
        assert_eq!(asked(&[(header::RETRY_AFTER, "soon")], now), None);
        assert_eq!(asked(&[(header::RETRY_AFTER, "-1")], now), None);
        assert_eq!(asked(std::slice::from_ref(&date), now), Some(seconds(90)));
        assert_eq!(asked(std::slice::from_ref(&date), now + seconds(500)), Some(seconds(0)), "a date that is over");
        // A clock that is wrong here does not matter.
        let at = (header::DATE, "Fri, 31 Dec 1999 23:59:00 GMT");
        assert_eq!(asked(&[date, at], SystemTime::UNIX_EPOCH), Some(seconds(59)));
    }
}
