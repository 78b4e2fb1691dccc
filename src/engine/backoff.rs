//! Restart backoff: how long an instance waits before its next run.
//!
//! The n-th delay in a row is `initial * factor^n`, at most `max`, then moved by at most `jitter` of itself in either direction, so
//! that copies that died together do not come back together. A run of at least `reset_after` begins anew, with no delay at all.
//! Invariant: `base * (1 - jitter) <= delay <= base * (1 + jitter)`, where `base` is the delay before jitter.

use std::time::Duration;

use super::spec::Backoff;

/// A small deterministic generator (splitmix64): the same seed gives the same history.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly spread over -1 to 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    fn signed_unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 / (1_u64 << 53) as f64).mul_add(2.0, -1.0)
    }
}

impl Backoff {
    /// The delay after `attempts` earlier ones in a row, before jitter.
    #[must_use]
    pub fn base_delay(&self, attempts: u32) -> Duration {
        let ceiling = self.max.as_secs_f64();
        let power = self.factor.max(1.0).powi(i32::try_from(attempts.min(1_000)).unwrap_or(1_000));
        let seconds = (self.initial.as_secs_f64() * power).min(ceiling);
        // NaN (0 s times an infinite power) means no delay was asked for.
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
    }

    pub(super) fn delay(&self, attempts: u32, rng: &mut Rng) -> Duration {
        let base = self.base_delay(attempts);
        let jitter = self.jitter.clamp(0.0, 1.0) * rng.signed_unit();
        Duration::try_from_secs_f64(base.as_secs_f64() * (1.0 + jitter)).unwrap_or(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_ceiling() {
        let backoff = Backoff { jitter: 0.0, ..Backoff::default() };
        let delays: Vec<u64> = (0..9).map(|n| u64::try_from(backoff.delay(n, &mut Rng::new(1)).as_millis()).unwrap_or(u64::MAX)).collect();
        assert_eq!(delays, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn jitter_stays_within_its_share_and_uses_all_of_it() {
        let backoff = Backoff { jitter: 0.1, ..Backoff::default() };
        let mut rng = Rng::new(7);
        let delays: Vec<f64> = (0..2_000).map(|_| backoff.delay(1, &mut rng).as_secs_f64()).collect();
        assert!(delays.iter().all(|d| (0.9..=1.1).contains(d)));
        assert!(delays.iter().any(|d| *d < 0.92) && delays.iter().any(|d| *d > 1.08));
    }

    #[test]
    fn extremes_neither_overflow_nor_panic() {
        let backoff = Backoff { initial: Duration::MAX, factor: f64::MAX, max: Duration::MAX, jitter: 1.0, reset_after: Duration::ZERO };
        let mut rng = Rng::new(0);
        for attempts in [0, 1, 1_000, u32::MAX] {
            let _ = backoff.delay(attempts, &mut rng);
        }
        let none = Backoff { initial: Duration::ZERO, factor: f64::INFINITY, ..backoff };
        assert_eq!(none.delay(3, &mut rng), Duration::ZERO);
    }
}
