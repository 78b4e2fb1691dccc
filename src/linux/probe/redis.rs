//! Redis, Valkey and their kin: PING in the protocol they call RESP (redis.io, "Redis serialization protocol specification").
//!
//! `+PONG` passes. So do `-NOAUTH` and `-NOPERM`: a server that asks who is there is up, and whoever wants to know more gives a password.
//! Every other error is told in the server's own words: LOADING while it reads its data, MASTERDOWN on a replica without its master, BUSY
//! while a script runs, MISCONF when it cannot save.

use super::{Place, exchange, quoted};

/// A line that is longer is no answer to PING.
const MAX_LINE: usize = 1024;

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// `None`: the default user.
    pub username: Option<String>,
    /// Any bytes.
    pub password: Vec<u8>,
}

/// Without the password.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

pub(super) async fn ask(place: &Place, login: Option<&Login>) -> Result<(), String> {
    exchange(place, &request(login), |what| format!("PING: {what}"), |answer, _| verdict(answer, login.is_some())).await
}

/// Commands are arrays of bulk strings.
fn request(login: Option<&Login>) -> Vec<u8> {
    let mut request = Vec::new();
    let mut command = |words: &[&[u8]]| {
        request.extend(format!("*{}\r\n", words.len()).bytes());
        for word in words {
            request.extend(format!("${}\r\n", word.len()).bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
    };
    match login {
        Some(Login { username: Some(username), password }) => command(&[b"AUTH", username.as_bytes(), password]),
        Some(Login { username: None, password }) => command(&[b"AUTH", password]),
        None => {}
    }
    command(&[b"PING"]);
    request
}

/// `None` until every reply is there.
fn verdict(answer: &[u8], logged_in: bool) -> Result<Option<()>, String> {
    let Some((first, rest)) = reply(answer)? else { return Ok(None) };
    let (auth, ping) = match (logged_in, first) {
        (false, ping) => (None, ping),
        // A server that has closed its door says so once and hangs up.
        (true, Err(why)) if rest.is_empty() && ["DENIED", "ERR max"].iter().any(|start| why.starts_with(start)) => (None, Err(why)),
        (true, auth) => match reply(rest)? {
            Some((ping, _)) => (Some(auth), ping),
            None => return Ok(None),
        },
    };
    match (ping, auth) {
        (Ok(pong), _) if pong == "PONG" => Ok(Some(())),
        (Err(_), Some(Err(why))) => Err(format!("AUTH: {why}")),
        (Err(why), _) if why.starts_with("NOAUTH") || why.starts_with("NOPERM") => Ok(Some(())),
        (Err(why), _) => Err(format!("PING: {why}")),
        (Ok(other), _) => Err(format!("PING: answered with {other}")),
    }
}

type Reply = Result<String, String>;

/// The first reply, and what is behind it: simple strings and errors are all that AUTH and PING are answered with.
fn reply(answer: &[u8]) -> Result<Option<(Reply, &[u8])>, String> {
    const STRANGER: &str = "what answers does not speak the protocol of Redis";
    let Some((&kind, line)) = answer.split_first() else { return Ok(None) };
    if !matches!(kind, b'+' | b'-') {
        return Err(STRANGER.to_owned());
    }
    let Some(end) = line.windows(2).position(|bytes| bytes == b"\r\n") else {
        return if line.len() > MAX_LINE { Err(STRANGER.to_owned()) } else { Ok(None) };
    };
    let (line, rest) = line.split_at_checked(end).unwrap_or((line, &[]));
    let rest = rest.get(2..).unwrap_or_default();
    let text = quoted(line);
    Ok(Some((if kind == b'+' { Ok(text) } else { Err(text) }, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays() {
        assert_eq!(request(None), b"*1\r\n$4\r\nPING\r\n");
        let login = Login { username: Some("probe".to_owned()), password: b"a b\r\n".to_vec() };
        assert_eq!(request(Some(&login)), b"*3\r\n$4\r\nAUTH\r\n$5\r\nprobe\r\n$5\r\na b\r\n\r\n*1\r\n$4\r\nPING\r\n");
        let login = Login { username: None, password: b"x".to_vec() };
        assert!(request(Some(&login)).starts_with(b"*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n*1\r\n"));
        assert!(!format!("{login:?}").contains("120"), "the password is shown");
    }

    #[test]
    fn what_passes_and_what_does_not() {
        let loading = "-LOADING Redis is loading the dataset in memory\r\n";
        let down = "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n";
        let noauth = "-NOAUTH Authentication required.\r\n";
        let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
        for (answer, login, expected) in [
            ("+PONG\r\n", false, Ok(Some(()))),
            ("+PONG\r", false, Ok(None)),
            ("", false, Ok(None)),
            (loading, false, Err("PING: LOADING Redis is loading")),
            (down, false, Err("PING: MASTERDOWN Link with MASTER is down")),
            ("-BUSY Redis is busy running a script.\r\n", false, Err("PING: BUSY Redis is busy")),
            ("-ERR max number of clients reached\r\n", false, Err("PING: ERR max number")),
            (noauth, false, Ok(Some(()))),
            ("-NOPERM this user has no permissions to run the 'ping' command\r\n", false, Ok(Some(()))),
            ("+OK\r\n+PONG\r\n", true, Ok(Some(()))),
            ("+OK\r\n", true, Ok(None)),
            (&format!("+OK\r\n{loading}"), true, Err("PING: LOADING")),
            (&format!("{wrong}{noauth}"), true, Err("AUTH: WRONGPASS")),
            // A server without a password does not mind being given one.
            ("-ERR AUTH <password> called without any password configured for the default user.\r\n+PONG\r\n", true, Ok(Some(()))),
            ("-ERR max number of clients reached\r\n", true, Err("PING: ERR max number")),
            ("-DENIED Redis is running in protected mode\r\n", true, Err("PING: DENIED")),
            ("HTTP/1.1 400 Bad Request\r\n", false, Err("does not speak the protocol of Redis")),
            ("+HELLO\r\n", false, Err("PING: answered with HELLO")),
        ] {
            match (verdict(answer.as_bytes(), login), expected) {
                (Err(why), Err(part)) => assert!(why.contains(part), "{answer}: {why}"),
                (is, Ok(ought)) => assert_eq!(is, Ok(ought), "{answer}"),
                (is, Err(part)) => panic!("{answer}: {is:?} instead of {part}"),
            }
        }
        assert!(verdict(&[b'+'; 2000], false).is_err());
    }
}
