use super::Lines;

pub(super) const fn lines(limit: u64) -> Lines {
    Lines {
        limit,
        machine: false,
        growth_max: 4_000_000_000,
        restart: limit / 100 * 75,
        rearm: limit / 100 * 70,
        hard: limit / 100 * 92,
        emergency: limit / 100 * 95,
    }
}
