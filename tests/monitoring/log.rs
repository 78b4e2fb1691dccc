//! The `log` check: whoever reads firstmate's output goes away.

use crate::firstmate::{Firstmate, until};

#[test]
fn a_log_that_nobody_reads_any_more_is_not_ready() {
    // It writes on and on, so that the loss is noticed.
    let mut firstmate = Firstmate::unread("[services.chatty]\ncommand = \"while :; do echo x; sleep 0.05; done\"\n");
    firstmate.wait_until_ready();
    drop(firstmate.output.take());
    let answer = until("the log is known to be broken", || {
        let answer = firstmate.get("/readyz");
        if answer.starts_with("HTTP/1.1 503 ") { Ok(answer) } else { Err(answer) }
    });
    let reason = "standard output cannot be written: Broken pipe; restart the container to have its log again";
    assert!(answer.contains(&format!("\n[-]log not ready: {reason}\n[+]chatty ok\n")), "{answer}");
    assert!(firstmate.get("/readyz?exclude=log").ends_with("\r\n\r\nok"));
    assert!(firstmate.get("/livez").ends_with("\r\n\r\nok"));
    let metrics = firstmate.body("/metrics", "");
    assert!(metrics.contains("\nfirstmate_ready 0\n"), "{metrics}");
}
