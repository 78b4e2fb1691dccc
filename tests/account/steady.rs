//! A pass that is made again and again costs no more, and takes no more memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use crate::ground::{Ground, apart};
use crate::stage::{actor, until};

/// Bytes in use.
static USED: AtomicI64 = AtomicI64::new(0);

struct Counting;

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        USED.fetch_add(i64::try_from(layout.size()).unwrap_or(0), Ordering::Relaxed);
        // SAFETY: as asked.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        USED.fetch_sub(i64::try_from(layout.size()).unwrap_or(0), Ordering::Relaxed);
        // SAFETY: as asked.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn look(ground: &mut Ground) {
    let accounts = ground.account();
    assert_eq!(accounts.runs.len(), 20);
    assert!(accounts.runs.iter().all(|usage| usage.rss.is_some_and(|rss| rss.processes == 10)));
}

/// 200 processes in 20 runs, each leader with nine children.
fn check_steady(how: &str) {
    let mut ground = Ground::new(true);
    for service in 0..20 {
        ground.start(service, &actor(&format!("{}sleep", "child sleep end ".repeat(9))));
    }
    until("all are there", || (ground.census().members().len() == 200).then_some(()));
    let mut took = Vec::with_capacity(200);
    for _ in 0..10 {
        look(&mut ground);
    }
    let before = USED.load(Ordering::Relaxed);
    for _ in 0..200 {
        let start = Instant::now();
        look(&mut ground);
        took.push(start.elapsed());
    }
    assert_eq!(USED.load(Ordering::Relaxed), before, "nothing is kept");
    took.sort();
    println!("200 processes {how}: median {:?}, least {:?}, most {:?}", took[100], took[0], took[199]);
    ground.clear();
}

/// Where nobody else's processes come and go.
#[test]
fn two_hundred_processes_are_accounted_for_again_and_again() {
    apart("", 1, || check_steady("as PID 1"));
    apart("", 2, || check_steady("elsewhere"));
}
