//! `capabilities` and `no_new_privs`: what /proc/PID/status says of real services, under a firstmate that has every capability and under ones that do not.

use crate::harness::{Container, Setup};

/// CHOWN and NET_BIND_SERVICE.
const TWO: &str = "0000000000000401";
const NONE: &str = "0000000000000000";

/// A service that tells its five sets and whether it may gain rights.
fn tells(name: &str, keys: &str) -> String {
    format!(
        "[services.{name}]\ncommand = '{{actor}} print-status CapInh print-status CapPrm print-status CapEff print-status CapBnd print-status CapAmb print-status NoNewPrivs sleep'\nrestart = 'never'\nessential = false\n{keys}\n"
    )
}

/// Inheritable, permitted, effective, bounding, ambient, no_new_privs.
#[track_caller]
fn told(container: &Container, name: &str) -> Vec<String> {
    let instance = format!("{name}.1");
    container.line_from(0, &format!("{instance} tells all"), |line| line.name == instance && line.text.contains("NoNewPrivs"));
    let value = |line: String| line.split_whitespace().last().unwrap().to_owned();
    container.said_by(&instance).into_iter().map(value).collect()
}

/// firstmate is started by setpriv(1), with less than everything; the first words are setpriv's.
fn reduced(config: &str, by: &[&str]) -> Container {
    let setup = Setup::new(config);
    // Other users may not reach the target directory.
    std::fs::copy(env!("CARGO_BIN_EXE_firstmate"), setup.dir().join("firstmate")).unwrap();
    let rest = ["{dir}/firstmate", "start", "-f", "{dir}/firstmate.toml", "--socket", "@firstmate", "--http", "off"];
    let words: Vec<&str> = ["--", "setpriv"].iter().chain(by).chain(&rest).copied().collect();
    setup.arguments(&words).start()
}

#[test]
fn a_service_has_exactly_what_it_is_to_keep() {
    let nobody = "user = 65534\ngroup = 65534";
    let two = "capabilities = ['NET_BIND_SERVICE', 'cap_chown', 'CHOWN']";
    let config = [
        tells("root", two),
        tells("other", &format!("{two}\n{nobody}")),
        tells("bare", "capabilities = []\nno_new_privs = true"),
        tells("bareother", &format!("capabilities = []\n{nobody}")),
        tells("closed", &format!("{two}\n{nobody}\nno_new_privs = true")),
        tells("plain", ""),
        tells("plainother", nobody),
        // Also what it executes itself.
        tells("shell", &format!("{two}\n{nobody}")).replace("command = '{actor}", "command = 'true; {actor}"),
    ];
    let container = Setup::new(&config.concat()).start();
    assert_eq!(told(&container, "root"), [TWO, TWO, TWO, TWO, NONE, "0"]);
    assert_eq!(told(&container, "other"), [TWO, TWO, TWO, TWO, TWO, "0"]);
    assert_eq!(told(&container, "bare"), [NONE, NONE, NONE, NONE, NONE, "1"]);
    assert_eq!(told(&container, "bareother"), [NONE, NONE, NONE, NONE, NONE, "0"]);
    assert_eq!(told(&container, "closed"), [TWO, TWO, TWO, TWO, TWO, "1"]);
    assert_eq!(told(&container, "shell"), [TWO, TWO, TWO, TWO, TWO, "0"]);
    // Without the keys nothing is touched: root keeps all, another user loses what it would lose.
    let plain = told(&container, "plain");
    assert_ne!(plain[2], TWO);
    assert_eq!((&plain[1], &plain[3], plain[5].as_str()), (&plain[2], &plain[2], "0"), "{plain:?}");
    let other = told(&container, "plainother");
    assert_eq!((other[1].as_str(), other[2].as_str(), &other[3]), (NONE, NONE, &plain[3]), "{other:?}");
    assert_eq!(container.stop(), 0);
}

#[test]
fn a_probe_has_the_rights_of_its_service() {
    let container = Setup::new(
        "
        [services.web]
        command = '{actor} print up sleep'
        capabilities = ['CHOWN']
        no_new_privs = true
        user = 65534
        group = 65534
        ready = { exec = 'grep -q CapEff:.*0000000000000001$ /proc/self/status && grep -q NoNewPrivs:.*1 /proc/self/status' }
        ",
    )
    .start();
    container.until_ready("web.1");
}

#[test]
fn what_firstmate_lacks_nobody_keeps() {
    let config =
        [tells("wants", "capabilities = ['CHOWN', 'NET_ADMIN']"), tells("content", "capabilities = ['NET_BIND_SERVICE', 'CHOWN']")];
    let container = reduced(&config.concat(), &["--bounding-set", "-net_admin"]);
    assert_eq!(told(&container, "content"), [TWO, TWO, TWO, TWO, NONE, "0"]);
    container.told(
        "cannot start wants.1: keeping capability NET_ADMIN: EPERM (operation not permitted); firstmate itself does not have it: start it as root and \
         the container with `--cap-add`, or take it out of `capabilities`",
    );
}

#[test]
fn without_setpcap_the_bounding_set_stays_where_nothing_can_be_gained() {
    let config = [
        tells("open", "capabilities = ['CHOWN', 'NET_BIND_SERVICE']"),
        tells("closed", "capabilities = ['CHOWN', 'NET_BIND_SERVICE']\nno_new_privs = true"),
    ];
    let container = reduced(&config.concat(), &["--bounding-set", "-setpcap"]);
    container.told("cannot start open.1: taking from its bounding set DAC_OVERRIDE: EPERM (operation not permitted); firstmate needs CAP_SETPCAP for it");
    let sets = told(&container, "closed");
    assert_eq!((sets[0].as_str(), sets[1].as_str(), sets[2].as_str(), sets[5].as_str()), (TWO, TWO, TWO, "1"), "{sets:?}");
    assert_ne!(sets[3], TWO, "the bounding set could not be reduced");
}

#[test]
fn another_user_without_any_capability_runs_everything_that_wants_none() {
    let config = [tells("empty", "capabilities = []"), tells("plain", ""), tells("wants", "capabilities = ['KILL']")];
    let by = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "-all", "--bounding-set", "-all", "--no-new-privs"];
    let container = reduced(&config.concat(), &by);
    for name in ["empty", "plain"] {
        assert_eq!(told(&container, name), [NONE, NONE, NONE, NONE, NONE, "1"], "{name}");
    }
    container.told("cannot start wants.1: keeping capability KILL: EPERM");
}

#[test]
fn another_user_with_ambient_capabilities_hands_them_on() {
    let config = [tells("keeps", "capabilities = ['NET_BIND_SERVICE', 'CHOWN']"), tells("drops", "capabilities = []\nno_new_privs = true")];
    let two = "-all,+net_bind_service,+chown";
    let by = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", two, "--ambient-caps", two, "--bounding-set", two];
    let container = reduced(&config.concat(), &by);
    assert_eq!(told(&container, "keeps"), [TWO, TWO, TWO, TWO, TWO, "0"]);
    assert_eq!(told(&container, "drops"), [NONE, NONE, NONE, TWO, NONE, "1"]);
}
