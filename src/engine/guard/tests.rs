use super::*;

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

/// The kernel's refusal is believed for minutes, the meter's other work is not.
#[test]
fn what_could_not_be_measured_just_then_is_asked_again_soon() {
    const MIB: u64 = 1 << 20;
    let instance = InstanceId { service: ServiceId(0), number: 1 };
    let run = RunId { instance, run: 1 };
    let began = Timestamp::from_nanos(1);
    for (answer, again) in [(Measurement::NotNow, MEASURE_AGAIN), (Measurement::Refused, TRY_AGAIN)] {
        let mut guard = Guard::new(Memory::default(), std::iter::once((instance, ServiceMemory::default())), began);
        let track = guard.tracks.first_mut().unwrap();
        track.run = 1;
        track.share = Some(Share { low: 0, high: 100 * MIB, estimate: 50 * MIB, method: MemoryMethod::Interval });
        track.sum = Some(100 * MIB);
        track.asked = Some((began, 100 * MIB));
        guard.on_measured(began, run, answer);
        assert!(!guard.wants_measure(began.after(again / 2), 0), "{answer:?}");
        assert!(guard.wants_measure(began.after(again), 0), "{answer:?}");
    }
}
