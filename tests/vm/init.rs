//! firstmate as the init of a whole machine, where its end is a kernel panic: the sternest place there is for PID 1.

use std::time::Duration;

use crate::machine::Machine;

const STACK: &str = r#"
[services.orphans]
type = "oneshot"
command = ["actor", "orphans", "20", "print", "orphans made"]

[services.web]
command = ["sh", "-c", "echo web=$(cat /proc/self/cgroup); echo cpus=$(nproc); exit 3"]
depends_on = { orphans = "completed" }
restart = "never"
"#;

/// In a cgroup with a limit, with its services in it too, and it ends with the code of the service that gave up.
#[test]
fn firstmate_is_pid_1_of_a_machine() {
    let machine = Machine::new().memory_mib(256).cpus(1).arguments("nosmp").patience(Duration::from_secs(60)).program_as_init();
    let output = machine.text("/stack.toml", STACK).run(
        "section stack
        group limited 64M
        echo $$ >$CG/limited/cgroup.procs
        exec firstmate start -f /stack.toml --http off --socket /run/firstmate.sock",
    );
    let said = output.section("stack");
    for line in ["orphans made", "web=0::/limited", "cpus=1"] {
        assert!(said.contains(line), "{line} is missing\n{output}");
    }
    assert_eq!(output.init_status(), 3 << 8, "{output}");
    assert!(!output.kernel().contains("Out of memory"), "{output}");
}
