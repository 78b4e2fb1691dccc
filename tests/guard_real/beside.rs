//! Item 2: a leaker beside the real programs. It is chosen, they keep their pids, and nobody who asks them notices.

use super::ground::{MIB, Place, report};
use super::load::Load;
use super::native::sandbox::until;
use super::stack::{Wish, crew};

/// Without a guard the kernel kills somebody, and the harness sees whom. So what the other tests do not see was not there.
#[test]
fn without_a_guard_the_kernel_kills_and_the_harness_sees_it() {
    let more = "
[memory]
restart_above = \"off\"
[services.leaker]
command = \"./leaker leak rate=400 when=go\"
";
    let ground = Wish::new("bare", Place::Native, more).start();
    let crew = crew(&ground);
    let load = Load::start(&ground, 3, "/");
    load.wait_for(200);
    let before = ground.memory();
    assert!(before.hard > 256 * MIB, "{before:?}");
    ground.touch("go");
    // The leaker begins anew as often as it is killed, so that in the end it is not the only one.
    let (kills, missing) = until("the kernel kills somebody", || {
        let (now, missing) = (ground.memory(), ground.missing(&crew));
        if now.oom_kills > 0 && !missing.is_empty() { Ok((now.oom_kills, missing)) } else { Err(format!("{now:?}")) }
    });
    let counted = load.finish();
    report(
        2,
        "no-guard",
        &ground,
        &format!("runs=1 oom={kills} answered={} lost={} gone={}", counted.answered, counted.lost, missing.join(",")),
    );
}
