//! Who holds how much: bounds from what each process holds and what the cgroup counts, and the best estimate between them.
//!
//! A process's own view counts every page it maps, so the sum over a service's processes is too high where pages are shared: it is an
//! upper bound. The cgroup counts every page once, for all together: what the others can hold at most, taken from that, is a lower bound.
//! With one service that shares pages the two meet. What MADV_FREE gave back is still in every process's view, so it is taken off the lower bounds.
//! tmpfs that nobody maps is in no process's view and is never anybody's.

use super::float;
use crate::engine::memory::{Accounts, Parts, Pss, Rss, Usage};
use crate::engine::status::MemoryMethod;

/// What a run holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Share {
    /// At least.
    pub(in crate::engine) low: u64,
    /// At most.
    pub(in crate::engine) high: u64,
    /// Most likely.
    pub(in crate::engine) estimate: u64,
    /// How that is known.
    pub(in crate::engine) method: MemoryMethod,
}

impl Share {
    /// Whether the bounds are so near to each other that nothing more needs to be known.
    pub(super) const fn is_exact(&self) -> bool {
        let spread = self.high.saturating_sub(self.low);
        spread <= 4 << 20 || spread <= self.high / 20
    }
}

/// A proportional set size that was measured a while ago, and what the run's processes added up to then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) pss: Pss,
    pub(super) sum: u64,
}

/// What all hold, beside the runs' own shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rest {
    /// In tmpfs or shared memory that no process maps: at least.
    pub(super) unmapped: u64,
    /// Of processes that belong to no run; 0 when that is not known.
    pub(super) others: u64,
}

/// The sum of what a run's processes hold, as they see it.
pub(super) const fn sum(rss: &Rss) -> u64 {
    rss.anon.saturating_add(rss.shmem).saturating_add(rss.swap)
}

/// Fills `shares`, one for each of `accounts.runs`; `None` where nothing is known.
pub(super) fn divide(
    accounts: &Accounts,
    parts: Option<Parts>,
    mut measured: impl FnMut(&Usage) -> Option<Measured>,
    shares: &mut Vec<Option<Share>>,
) -> Rest {
    shares.clear();
    let everyone_known = accounts.others.is_some() && accounts.runs.iter().all(|usage| usage.rss.is_some());
    let all = || accounts.runs.iter().filter_map(|usage| usage.rss.as_ref()).chain(accounts.others.as_ref());
    let Some(parts) = parts else {
        // No counter to compare with: what a process sees is an upper bound and nothing else.
        for usage in &accounts.runs {
            let share = usage.rss.as_ref().map(|rss| {
                let high = sum(rss).saturating_add(rss.kernel);
                Share { low: 0, high, estimate: high, method: MemoryMethod::Rss }
            });
            shares.push(refine(share, usage, measured(usage)));
        }
        return Rest { unmapped: 0, others: accounts.others.as_ref().map_or(0, sum) };
    };
    let anon_real = parts.unreclaimable.saturating_sub(parts.shmem);
    let lazy = parts.anon.saturating_sub(anon_real);
    let total = parts.unreclaimable.saturating_add(parts.swap);
    let least = |rss: &Rss| rss.largest.saturating_sub(lazy);
    let least_of_all: u64 = all().map(least).fold(0, u64::saturating_add);
    let anon_of_all: u64 = all().map(|rss| rss.anon.saturating_add(rss.swap)).fold(0, u64::saturating_add);
    let mapped: u64 = all().map(|rss| rss.shmem).fold(0, u64::saturating_add);
    // Only when all are seen: an unseen process may map it.
    let unmapped = if everyone_known { parts.shmem.saturating_sub(mapped) } else { 0 };
    let bounds = |rss: &Rss| {
        let own = rss.anon.saturating_add(rss.swap).saturating_add(rss.shmem.min(parts.shmem));
        let left = total.saturating_sub(unmapped).saturating_sub(least_of_all.saturating_sub(least(rss)));
        let high = own.min(left.max(least(rss)));
        let by_others = if everyone_known {
            let others = anon_of_all.saturating_sub(rss.anon.saturating_add(rss.swap));
            anon_real.saturating_add(parts.swap).saturating_sub(others)
        } else {
            0
        };
        let low = least(rss).max(by_others).min(high);
        (low, high)
    };
    let (lows, highs) =
        all().map(bounds).fold((0_u64, 0_u64), |(lows, highs), (low, high)| (lows.saturating_add(low), highs.saturating_add(high)));
    // What there is, shared out between the bounds.
    let wanted = float(total.saturating_sub(unmapped).saturating_sub(lows));
    let theta = if highs > lows { (wanted / float(highs.saturating_sub(lows))).clamp(0.0, 1.0) } else { 0.0 };
    let between = |low: u64, high: u64| low.saturating_add(super::bytes(float(high.saturating_sub(low)) * theta));
    for usage in &accounts.runs {
        let share = usage.rss.as_ref().map(|rss| {
            let (low, high) = bounds(rss);
            Share {
                low: low.saturating_add(rss.kernel),
                high: high.saturating_add(rss.kernel),
                estimate: between(low, high).saturating_add(rss.kernel),
                method: MemoryMethod::Interval,
            }
        });
        shares.push(refine(share, usage, measured(usage)));
    }
    let others = accounts.others.as_ref().map_or(0, |rss| {
        let (low, high) = bounds(rss);
        between(low, high)
    });
    Rest { unmapped, others }
}

/// What is measured is better than what is reckoned, as far as it is still true.
fn refine(share: Option<Share>, usage: &Usage, measured: Option<Measured>) -> Option<Share> {
    if let Some(bytes) = usage.cgroup {
        return Some(Share { low: bytes, high: bytes, estimate: bytes, method: MemoryMethod::Cgroup });
    }
    let mut share = share?;
    let (Some(measured), Some(rss)) = (measured, &usage.rss) else { return Some(share) };
    let now = sum(rss);
    let grown = now.saturating_sub(measured.sum);
    let shrunk = measured.sum.saturating_sub(now);
    let low = measured.pss.bytes.saturating_sub(shrunk).max(share.low);
    let high = measured.pss.bytes.saturating_add(grown).min(share.high).max(low);
    // Whatever it has grown by since is most likely its own.
    share = Share { low, high, estimate: high, method: measured.pss.method };
    Some(share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{InstanceId, RunId, ServiceId};

    const MIB: u64 = 1 << 20;

    fn usage(service: usize, rss: Option<Rss>) -> Usage {
        let run = RunId { instance: InstanceId { service: ServiceId(service), number: 1 }, run: 1 };
        Usage { run, rss, cgroup: None, snapshot: false, top: Vec::new() }
    }

    fn rss(anon: u64, largest: u64, processes: u32) -> Rss {
        Rss { anon: anon * MIB, largest: largest * MIB, processes, ..Rss::default() }
    }

    fn parts(anon: u64) -> Parts {
        Parts { anon: anon * MIB, unreclaimable: anon * MIB, ..Parts::default() }
    }

    fn shares(accounts: &Accounts, parts: Option<Parts>) -> (Vec<Option<Share>>, Rest) {
        let mut shares = Vec::new();
        let rest = divide(accounts, parts, |_| None, &mut shares);
        (shares, rest)
    }

    fn accounts(runs: Vec<Usage>) -> Accounts {
        Accounts { runs, others: Some(Rss::default()), tmpfs: Vec::new() }
    }

    /// As measured on Linux 6.18: 21 processes that share 300 MB beside one of 150 MB; naive sums are 1262 and 150.
    #[test]
    fn one_prefork_service_beside_a_plain_one_is_known_exactly() {
        let (shares, _) = shares(&accounts(vec![usage(0, Some(rss(1_262, 62, 21))), usage(1, Some(rss(150, 150, 1)))]), Some(parts(450)));
        for (share, is) in shares.iter().zip([300, 150]) {
            let share = share.unwrap();
            assert_eq!((share.low / MIB, share.high / MIB, share.estimate / MIB), (is, is, is));
            assert!(share.is_exact());
        }
    }

    #[test]
    fn a_snapshot_child_does_not_double_its_parent() {
        let (shares, _) = shares(&accounts(vec![usage(0, Some(rss(1_097, 550, 2)))]), Some(parts(550)));
        assert_eq!(shares[0].unwrap().estimate / MIB, 550);
        assert_eq!(shares[0].unwrap().high / MIB, 550);
    }

    #[test]
    fn what_was_given_back_is_nobodys() {
        let given_back = Parts { anon: 208 * MIB, unreclaimable: 9 * MIB, ..Parts::default() };
        let (shares, _) = shares(&accounts(vec![usage(0, Some(rss(208, 208, 1)))]), Some(given_back));
        assert!(shares[0].unwrap().low <= 9 * MIB, "{:?}", shares[0]);
        assert!(shares[0].unwrap().estimate <= 9 * MIB, "{:?}", shares[0]);
    }

    #[test]
    fn tmpfs_that_nobody_maps_is_nobodys() {
        let tmpfs = Parts { anon: 20 * MIB, shmem: 150 * MIB, unreclaimable: 170 * MIB, swap: 0 };
        let (shares, rest) = shares(&accounts(vec![usage(0, Some(rss(12, 12, 1))), usage(1, Some(rss(8, 8, 1)))]), Some(tmpfs));
        assert_eq!(rest.unmapped / MIB, 150);
        assert_eq!(shares.iter().map(|share| share.unwrap().estimate / MIB).collect::<Vec<_>>(), [12, 8]);
    }

    #[test]
    fn with_somebody_unseen_nobody_is_charged_with_what_is_left_over() {
        let runs = vec![usage(0, Some(rss(100, 50, 4))), usage(1, None)];
        let (shares, _) = shares(&Accounts { runs, others: None, tmpfs: Vec::new() }, Some(parts(400)));
        assert_eq!(shares[0].unwrap().low / MIB, 50);
        assert_eq!(shares[0].unwrap().high / MIB, 100);
        assert_eq!(shares[1], None);
    }

    #[test]
    fn without_a_counter_nothing_is_a_lower_bound() {
        let (shares, _) = shares(&accounts(vec![usage(0, Some(rss(100, 100, 1)))]), None);
        let share = shares[0].unwrap();
        assert_eq!((share.low, share.high / MIB, share.method), (0, 100, MemoryMethod::Rss));
    }

    #[test]
    fn a_measurement_holds_as_far_as_nothing_has_changed_since() {
        let accounts = accounts(vec![usage(0, Some(rss(1_200, 60, 20))), usage(1, Some(rss(900, 50, 20)))]);
        let mut out = Vec::new();
        let pss = Pss { bytes: 300 * MIB, method: MemoryMethod::Pss };
        divide(
            &accounts,
            Some(parts(500)),
            |usage| (usage.run.instance.service.0 == 0).then_some(Measured { pss, sum: 1_190 * MIB }),
            &mut out,
        );
        let share = out[0].unwrap();
        assert_eq!((share.low / MIB, share.high / MIB, share.method), (300, 310, MemoryMethod::Pss));
    }

    #[test]
    fn bounds_are_in_order_whatever_the_numbers() {
        let numbers = [0, 1, MIB, 1 << 40, u64::MAX];
        for anon in numbers {
            for largest in numbers {
                for all in numbers {
                    for shmem in numbers {
                        let rss = Rss { anon, largest, shmem, kernel: largest, swap: anon, processes: 2 };
                        let parts = Parts { anon: all, shmem, unreclaimable: largest, swap: shmem };
                        let (shares, _) = shares(&accounts(vec![usage(0, Some(rss)), usage(1, Some(rss))]), Some(parts));
                        for share in shares {
                            let share = share.unwrap();
                            assert!(share.low <= share.estimate && share.estimate <= share.high, "{share:?}");
                        }
                    }
                }
            }
        }
    }
}
