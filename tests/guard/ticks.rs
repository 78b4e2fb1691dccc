//! A hundred thousand looks of the engine's guard at the real counters, on virtual time, with every allocation counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;

use firstmate::config::{Inputs, load};
use firstmate::engine::event::{Action, Event, Notice, RunId};
use firstmate::engine::memory::{Accounts, Rss, Usage};
use firstmate::engine::{Engine, MemoryAction, MemoryEvent, MemoryNotice, Timestamp};
use firstmate::linux::memory::limit::{Files, Watch};

use super::stage::Directory;

/// The system's allocator, and how often this thread has called it.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    /// Bytes that are allocated now.
    static HELD: Cell<i64> = const { Cell::new(0) };
}

fn hold(more: usize, less: usize) {
    HELD.set(HELD.get() + i64::try_from(more).unwrap_or(i64::MAX) - i64::try_from(less).unwrap_or(i64::MAX));
}

// SAFETY: everything is passed on as it is; the counter is a plain cell of the thread, which allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        hold(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        hold(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        hold(size, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const LOOKS: u32 = 100_000;

#[test]
fn a_hundred_thousand_looks_allocate_nothing() {
    let directory = Directory::new();
    let file = directory.0.join("firstmate.toml");
    let services: String = (1..=30).map(|number| format!("[services.s{number}]\ncommand = \"sleep infinity\"\n")).collect();
    std::fs::write(&file, services).unwrap();
    let spec = load(&file, &Inputs::default()).unwrap().spec;
    // What is used now is 40 % of the limit, and so much that what others on the machine take meanwhile hardly counts.
    let used = Watch::new(Files::default(), Some(1 << 50)).counters().read(0).unwrap().hard;
    let mut watch = Watch::new(Files::default(), Some(used.max(4 << 30) / 2 * 5));

    let mut now = Timestamp::ZERO;
    let mut engine = Engine::new(spec, 1, now);
    let (mut out, mut events) = (Vec::with_capacity(64), VecDeque::with_capacity(64));
    events.push_back(Event::Memory(MemoryEvent::Limit(watch.limit().cloned())));
    let mut up = Vec::new();
    let (mut looks, mut surveys, mut calls, mut held) = (0_u32, 0_u32, 0, 0);
    while looks < LOOKS {
        if events.is_empty() {
            now = engine.next_deadline().expect("the guard wants to look again").max(now);
            events.push_back(Event::Tick);
        }
        // The first thousand fill what is kept.
        if looks == 1000 {
            held = HELD.get();
        }
        let event = events.pop_front().unwrap();
        let is_survey = matches!(event, Event::Memory(MemoryEvent::Accounted(_)));
        let before = CALLS.get();
        engine.step(now, event, &mut out);
        if looks > 1000 && !is_survey {
            calls += CALLS.get() - before;
        }
        for action in out.drain(..) {
            match action {
                Action::Spawn { run } => {
                    up.push(run);
                    events.extend([Event::Spawned { run, pid: 1 }, Event::Executed { run }]);
                }
                Action::Memory(MemoryAction::Read { stat_above }) => {
                    looks += 1;
                    let before = CALLS.get();
                    let reading = watch.counters().read(stat_above).ok();
                    calls += if looks > 1000 { CALLS.get() - before } else { 0 };
                    events.push_back(Event::Memory(MemoryEvent::Read(reading)));
                }
                Action::Memory(MemoryAction::Account) => {
                    surveys += 1;
                    events.push_back(Event::Memory(MemoryEvent::Accounted(Box::new(accounts(&up)))));
                }
                // Told once for each service, when its processes are first looked at for long enough.
                Action::Notice(Notice::Memory(MemoryNotice::Method { .. })) => {}
                Action::Notice(Notice::Memory(notice)) => assert!(looks < 1000, "{notice:?}"),
                Action::Notice(_) => {}
                Action::Define { .. }
                | Action::Forget { .. }
                | Action::Signal { .. }
                | Action::KillTree { .. }
                | Action::Probe { .. }
                | Action::CancelProbes { .. }
                | Action::Send { .. }
                | Action::Memory(_)
                | Action::Exit { .. } => panic!("not in a container where little is used: {action:?}"),
            }
        }
    }
    let grown = HELD.get() - held;
    println!("GUARD item=6 case=ticks looks={LOOKS} surveys={surveys} allocations={calls} grown_bytes={grown}");
    assert_eq!(calls, 0, "allocations in {LOOKS} looks");
    assert!(grown <= 0, "{grown} bytes more are held after {LOOKS} looks");
}

/// Each run has 10 MiB.
fn accounts(up: &[RunId]) -> Accounts {
    let rss = Rss { anon: 10 << 20, largest: 10 << 20, kernel: 64 << 10, processes: 1, ..Rss::default() };
    let usage = |&run: &RunId| Usage { run, rss: Some(rss), cgroup: None, snapshot: false, top: Vec::new() };
    Accounts { runs: up.iter().map(usage).collect(), others: Some(Rss::default()), tmpfs: Vec::new() }
}
