//! What a probe asks, and the keys that say it more closely: `method`, `status`, `contains`, `headers`, `path`, `password_env`,
//! `username`. Each is judged by itself; that it belongs to the question is judged when both are known.

use std::ops::Range;

use toml::de::DeValue;

use super::{SUN_PATH, Value, Walk, describe};
use crate::engine::spec::{Address, Check, FastCgiCheck, HttpCheck, Method, RedisCheck, Statuses};

/// Final statuses of HTTP; interim ones (1xx) are never an answer. RFC 9110, section 15.
const STATUSES: std::ops::RangeInclusive<u16> = 200..=599;
/// Text that is longer is no mark of an answer but the answer.
const LONGEST_TEXT: usize = 1024;
/// All header fields together: servers refuse requests with larger heads.
const LONGEST_HEADERS: usize = 4096;
/// Fields that frame the message, which is firstmate's business.
const OWN_FIELDS: [&str; 5] = ["connection", "content-length", "transfer-encoding", "upgrade", "te"];

/// The keys beside the question, as far as they could be read, each with its name and place.
#[derive(Debug, Default)]
pub(super) struct Details {
    method: Option<Method>,
    status: Option<Statuses>,
    contains: Option<String>,
    headers: Option<Vec<(String, String)>>,
    path: Option<String>,
    password_env: Option<String>,
    username: Option<String>,
    places: Vec<(&'static str, Range<usize>)>,
}

impl Details {
    fn place(&self, name: &str) -> Option<Range<usize>> {
        self.places.iter().find(|(known, _)| *known == name).map(|(_, span)| span.clone())
    }
}

impl Walk<'_> {
    pub(super) fn http_check(&mut self, value: &Value<'_>) -> Option<Check> {
        let url = self.string(value, "an address such as \"http://127.0.0.1:8080/healthz\"")?;
        if url.starts_with("https:") {
            self.error_help(value.span(), "a probe does not speak TLS", "probe http inside the container, or use exec with curl");
            return None;
        }
        if let Some(rest) = url.strip_prefix("http://unix:").or_else(|| url.strip_prefix("unix:")) {
            let (socket, path) = rest.split_once(':').unwrap_or((rest, "/"));
            let at = self.socket(value, socket)?;
            let path = self.request_path(value, if path.is_empty() { "/" } else { path })?;
            return Some(http(at, path));
        }
        let Some(rest) = url.strip_prefix("http://") else {
            let mend = match is_socket(url) {
                true => "write \"http://127.0.0.1:8080/healthz\", or \"http://unix:/run/app.sock:/healthz\"",
                false => "write \"http://127.0.0.1:8080/healthz\"",
            };
            self.error_help(value.span(), format!("`{url}` does not begin with http://"), mend);
            return None;
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at_checked(at).unwrap_or((rest, "")),
            None => (rest, "/"),
        };
        let path = self.request_path(value, path)?;
        let (host, port) = self.host_and_port(value, authority, Some(80))?;
        Some(http(Address::Tcp { host, port }, path))
    }

    pub(super) fn tcp_check(&mut self, value: &Value<'_>) -> Option<Check> {
        let text = self.string(value, "an address such as \"127.0.0.1:6379\"")?;
        if is_socket(text) {
            self.error_help(value.span(), format!("`{text}` is no host and port"), "for a Unix socket write unix = \"/run/app.sock\"");
            return None;
        }
        let (host, port) = self.host_and_port(value, text, None)?;
        Some(Check::Tcp { host, port })
    }

    pub(super) fn unix_check(&mut self, value: &Value<'_>) -> Option<Check> {
        let text = self.filled(value, "the path of a socket such as \"/run/app.sock\"")?;
        match self.socket(value, text.strip_prefix("unix:").unwrap_or(text))? {
            Address::Unix(path) => Some(Check::Unix(path)),
            Address::Tcp { .. } => None,
        }
    }

    pub(super) fn redis_check(&mut self, value: &Value<'_>) -> Option<Check> {
        let at = self.address(value, "127.0.0.1:6379", "/run/redis/redis.sock")?;
        Some(Check::Redis(RedisCheck { at, password_env: None, username: None }))
    }

    pub(super) fn fastcgi_check(&mut self, value: &Value<'_>) -> Option<Check> {
        let at = self.address(value, "127.0.0.1:9000", "/run/php/php-fpm.sock")?;
        let (path, contains) = ("/ping".to_owned(), "pong".to_owned());
        Some(Check::FastCgi(FastCgiCheck { at, path, status: Statuses::default(), contains }))
    }

    /// `127.0.0.1:6379`, `/run/redis.sock`, `unix:run/redis.sock`, `@redis`.
    fn address(&mut self, value: &Value<'_>, port: &str, path: &str) -> Option<Address> {
        let text = self.filled(value, &format!("an address such as \"{port}\" or \"{path}\""))?;
        if let Some((scheme, _)) = text.split_once("://") {
            let message = format!("`{scheme}://` is not part of the address");
            self.error_help(value.span(), message, format!("write \"{port}\" or \"{path}\""));
            return None;
        }
        if is_socket(text) {
            return self.socket(value, text.strip_prefix("unix:").unwrap_or(text));
        }
        let (host, port) = self.host_and_port(value, text, None)?;
        Some(Address::Tcp { host, port })
    }

    /// A path as written, which becomes absolute when the directory of the main file is known.
    fn socket(&mut self, value: &Value<'_>, path: &str) -> Option<Address> {
        if path.is_empty() {
            self.error_help(value.span(), "the address has no path of a socket", "write \"/run/app.sock\"");
        } else if path == "@" {
            self.error_help(value.span(), "an abstract socket needs a name", "write \"@app\"");
        } else if path.len() > SUN_PATH {
            self.error(value.span(), format!("the path of a socket cannot be longer than {SUN_PATH} bytes"));
        } else {
            return Some(Address::Unix(path.to_owned()));
        }
        None
    }

    /// The target of a request.
    fn request_path(&mut self, value: &Value<'_>, path: &str) -> Option<String> {
        if path.contains('#') || path.chars().any(|c| !c.is_ascii_graphic()) {
            self.error_help(
                value.span(),
                "the path of the address holds a character that cannot be asked for",
                "write blanks and such as %20, and leave out `#`",
            );
            return None;
        }
        Some(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
    }

    /// One of the keys beside the question.
    pub(super) fn probe_detail(&mut self, name: &str, span: Range<usize>, value: &Value<'_>, details: &mut Details) {
        let known = match name {
            "method" => {
                details.method = self.choice(value, "method", &[("GET", Method::Get), ("HEAD", Method::Head)]);
                "method"
            }
            "status" => {
                details.status = self.statuses(value);
                "status"
            }
            "contains" => {
                details.contains = self.short(value, "the text that must be in the answer");
                "contains"
            }
            "headers" => {
                details.headers = self.headers(value);
                "headers"
            }
            "path" => {
                let path = self.filled(value, "a path such as \"/ping\"").map(str::to_owned);
                details.path = path.and_then(|path| self.request_path(value, &path));
                "path"
            }
            "password_env" => {
                details.password_env = self.variable(value);
                "password_env"
            }
            "username" => {
                details.username = self.short(value, "the name of a user");
                "username"
            }
            _ => return,
        };
        details.places.push((known, span));
    }

    fn short(&mut self, value: &Value<'_>, what: &str) -> Option<String> {
        let text = self.filled(value, what)?;
        if text.len() > LONGEST_TEXT {
            self.error(value.span(), format!("{what} cannot be longer than {LONGEST_TEXT} bytes"));
            return None;
        }
        Some(text.to_owned())
    }

    fn variable(&mut self, value: &Value<'_>) -> Option<String> {
        let name = self.filled(value, "the name of an environment variable such as \"REDIS_PASSWORD\"")?;
        if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Some(name.to_owned());
        }
        // Whoever wrote the password here does not want to read it in a log.
        let diagnostic = self.source.error(value.span(), "this is no name of an environment variable").hidden();
        self.problems.push(diagnostic.help("put the password into a variable of the service, and its name here"));
        None
    }

    /// `200`, `"200-299"`, `[200, "300-399"]`.
    fn statuses(&mut self, value: &Value<'_>) -> Option<Statuses> {
        let Some(array) = value.get_ref().as_array() else {
            return self.status_range(value).map(|range| Statuses(vec![range]));
        };
        if array.is_empty() {
            self.error_help(value.span(), "no status would ever pass", "write 200 or \"200-399\"");
            return None;
        }
        let count = array.iter().count();
        let ranges: Vec<(u16, u16)> = array.iter().filter_map(|item| self.status_range(item)).collect();
        (ranges.len() == count).then_some(Statuses(ranges))
    }

    fn status_range(&mut self, value: &Value<'_>) -> Option<(u16, u16)> {
        const EXPECTED: &str = "a status such as 200, or a range such as \"200-299\"";
        let text = match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => {
                self.mismatch(value, EXPECTED);
                return None;
            }
        };
        let (from, to) = text.split_once('-').unwrap_or((&text, &text));
        let number = |text: &str| {
            let text = text.trim();
            (text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse::<u16>().ok()).flatten()
        };
        match (number(from), number(to)) {
            (Some(from), Some(to)) if STATUSES.contains(&from) && STATUSES.contains(&to) => {
                if from > to {
                    self.error_help(value.span(), format!("the range {from}-{to} is empty"), format!("write \"{to}-{from}\""));
                    return None;
                }
                Some((from, to))
            }
            (Some(_), Some(_)) => {
                self.error(value.span(), format!("a status must be from {} to {}", STATUSES.start(), STATUSES.end()));
                None
            }
            (_, _) => {
                self.error(value.span(), format!("expected {EXPECTED}"));
                None
            }
        }
    }

    /// Names are tokens, values are text without control characters; RFC 9110, section 5.
    fn headers(&mut self, value: &Value<'_>) -> Option<Vec<(String, String)>> {
        let table = self.table(value, "a table such as { Host = \"example.com\" }")?;
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut complete = true;
        for (key, value) in table.iter() {
            let name = key.get_ref().as_ref();
            let is_token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
            let problem = if !is_token {
                Some((key.span(), format!("`{name}` is no name of a header"), "use letters, digits and `-`"))
            } else if OWN_FIELDS.contains(&name.to_ascii_lowercase().as_str()) {
                Some((key.span(), format!("firstmate sets the header `{name}` itself"), "remove it"))
            } else if headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                Some((key.span(), format!("the header `{name}` is there twice"), "keep one of them"))
            } else {
                match value.get_ref().as_str() {
                    None => Some((
                        value.span(),
                        format!("expected text for the header `{name}`, found {}", describe(value.get_ref())),
                        "put it in double quotes",
                    )),
                    Some(text) if text.chars().any(|c| c.is_control() && c != '\t') => {
                        let message = format!("the value of the header `{name}` holds a line end or another control character");
                        Some((value.span(), message, "write it on one line; firstmate adds the line end"))
                    }
                    Some(text) => {
                        headers.push((name.to_owned(), text.trim().to_owned()));
                        None
                    }
                }
            };
            if let Some((span, message, help)) = problem {
                self.error_help(span, message, help);
                complete = false;
            }
        }
        let bytes = headers.iter().fold(0usize, |sum, (name, text)| sum.saturating_add(name.len()).saturating_add(text.len()));
        if bytes > LONGEST_HEADERS {
            self.error(value.span(), format!("headers cannot be longer than {LONGEST_HEADERS} bytes"));
            return None;
        }
        complete.then_some(headers)
    }

    /// Joins the question with what was said beside it.
    pub(super) fn apply_details(&mut self, check: &mut Check, details: Details) {
        let (name, known): (&str, &[&str]) = match check {
            Check::Http(_) => ("an http", &["method", "status", "contains", "headers"]),
            Check::Redis(_) => ("a redis", &["password_env", "username"]),
            Check::FastCgi(_) => ("a fastcgi", &["path", "status", "contains"]),
            Check::Tcp { .. } => ("a tcp", &[]),
            Check::Unix(_) => ("a unix", &[]),
            Check::Exec(_) => ("an exec", &[]),
        };
        for (key, span) in &details.places {
            if !known.contains(key) {
                let help = match (*key, &*check) {
                    ("path", Check::Http(_)) => "write the path behind the address".to_owned(),
                    (_, _) if known.is_empty() => "remove it".to_owned(),
                    (_, _) => format!("keys that work beside it: {}", known.join(", ")),
                };
                self.error_help(span.clone(), format!("{name} probe has no `{key}`"), help);
            }
        }
        if let (Check::Http(_), Some(Method::Head), Some(span)) = (&*check, details.method, details.place("contains")) {
            self.error_help(span, "an answer to HEAD has no body that could contain something", "ask with GET, or leave out contains");
        }
        if let (Check::Redis(_), Some(span), None) = (&*check, details.place("username"), details.place("password_env")) {
            self.error_help(span, "a user name without a password logs nobody in", "add password_env");
        }
        match check {
            Check::Http(check) => {
                check.method = details.method.unwrap_or_default();
                check.status = details.status.unwrap_or_default();
                check.contains = details.contains.unwrap_or_default();
                check.headers = details.headers.unwrap_or_default();
            }
            Check::Redis(check) => {
                check.password_env = details.password_env;
                check.username = details.username;
            }
            Check::FastCgi(check) => {
                check.status = details.status.unwrap_or_default();
                if let Some(path) = details.path {
                    check.path = path;
                }
                if let Some(contains) = details.contains {
                    check.contains = contains;
                }
            }
            Check::Tcp { .. } | Check::Unix(_) | Check::Exec(_) => {}
        }
    }
}

fn http(at: Address, path: String) -> Check {
    let (method, status, contains, headers) = (Method::default(), Statuses::default(), String::new(), Vec::new());
    Check::Http(HttpCheck { at, path, method, status, contains, headers })
}

/// A host and a port hold no slash.
fn is_socket(text: &str) -> bool {
    text.starts_with("unix:") || text.starts_with('@') || text.contains('/')
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::check_toml;

    fn check(probe: &str) -> Check {
        let text = format!("[services.a]\ncommand = 'x'\nready = {{ {probe} }}\n");
        let spec = check_toml(Path::new("/srv/firstmate.toml"), text.as_bytes()).unwrap_or_else(|problems| panic!("{probe}: {problems:?}"));
        spec.services.first().and_then(|service| service.ready.probe()).unwrap().check.clone()
    }

    fn port(port: u16) -> Address {
        Address::Tcp { host: "127.0.0.1".to_owned(), port }
    }

    fn unix(path: &str) -> Address {
        Address::Unix(path.to_owned())
    }

    #[test]
    fn sockets_are_paths_or_abstract_names() {
        for (text, path) in [("/run/a.sock", "/run/a.sock"), ("run/a.sock", "/srv/run/a.sock"), ("unix:a", "/srv/a"), ("@a", "@a")] {
            assert_eq!(check(&format!("unix = '{text}'")), Check::Unix(path.to_owned()), "{text}");
        }
        for (text, at) in [
            ("127.0.0.1:6379", port(6379)),
            ("/run/a.sock", unix("/run/a.sock")),
            ("run/a.sock", unix("/srv/run/a.sock")),
            ("unix:a.sock", unix("/srv/a.sock")),
            ("unix:@a", unix("@a")),
            ("@a", unix("@a")),
        ] {
            let redis = RedisCheck { at: at.clone(), password_env: None, username: None };
            assert_eq!(check(&format!("redis = '{text}'")), Check::Redis(redis), "{text}");
            assert!(matches!(check(&format!("fastcgi = '{text}'")), Check::FastCgi(check) if check.at == at), "{text}");
        }
    }

    #[test]
    fn http_goes_to_ports_and_sockets() {
        for (text, at, path) in [
            ("http://127.0.0.1:81/x?y", port(81), "/x?y"),
            ("http://127.0.0.1", port(80), "/"),
            ("http://unix:/run/a.sock:/healthz", unix("/run/a.sock"), "/healthz"),
            ("http://unix:/run/a.sock", unix("/run/a.sock"), "/"),
            ("unix:a.sock:/x:y", unix("/srv/a.sock"), "/x:y"),
            ("http://unix:@a:/", unix("@a"), "/"),
        ] {
            assert_eq!(check(&format!("http = '{text}'")), http(at, path.to_owned()), "{text}");
        }
    }

    #[test]
    fn every_key_beside_the_question_reaches_it() {
        let headers = [("Host", "example.com"), ("X-A", "b")].map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        assert_eq!(
            check(
                "http = 'http://127.0.0.1/', method = 'HEAD', status = [200, '300-399', '401'], headers = { Host = 'example.com', X-A = ' b ' }"
            ),
            Check::Http(HttpCheck {
                at: port(80),
                path: "/".to_owned(),
                method: Method::Head,
                status: Statuses(vec![(200, 200), (300, 399), (401, 401)]),
                contains: String::new(),
                headers,
            })
        );
        assert!(matches!(
            check("http = 'http://127.0.0.1/', contains = 'ok', status = '200-204'"),
            Check::Http(HttpCheck { contains, status, .. }) if contains == "ok" && status == Statuses(vec![(200, 204)])
        ));
        let login = RedisCheck { at: unix("@r"), password_env: Some("PW".to_owned()), username: Some("probe".to_owned()) };
        assert_eq!(check("redis = '@r', password_env = 'PW', username = 'probe'"), Check::Redis(login));
        let other = |path: &str, status: Statuses, contains: &str| {
            Check::FastCgi(FastCgiCheck { at: port(9000), path: path.to_owned(), status, contains: contains.to_owned() })
        };
        assert_eq!(check("fastcgi = '127.0.0.1:9000'"), other("/ping", Statuses::default(), "pong"));
        let changed = "fastcgi = '127.0.0.1:9000', path = 'fpm-ping', status = 200, contains = 'alive'";
        assert_eq!(check(changed), other("/fpm-ping", Statuses(vec![(200, 200)]), "alive"));
    }

    #[test]
    fn secrets_are_not_shown() {
        for probe in [
            "redis = '@r', password_env = 'hunter2!'",
            "http = 'http://a/', headers = { Authorization = \"hunter2!\\r\\nX: y\" }",
            "redis = '@r', headers = { Authorization = 'hunter2!' }",
        ] {
            let text = format!("[services.a]\ncommand = 'x'\nready = {{ {probe} }}\n");
            let problems = check_toml(Path::new("a.toml"), text.as_bytes()).unwrap_err();
            let shown: String = problems.iter().map(|problem| problem.render(false)).collect();
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
