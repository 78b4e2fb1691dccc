//! Which format of `/metrics` a client wants: content negotiation by `Accept` (RFC 9110, section 12.5.1), as far as there is a choice.

use hyper::header::{ACCEPT, HeaderMap};

use super::verbs::MetricsFormat;

/// OpenMetrics only for those that ask for it by name, and do not like plain text better; in doubt the older format, which everybody reads.
pub(super) fn metrics_format(headers: &HeaderMap) -> MetricsFormat {
    // Of ranges that fit, the most specific decides, whatever its weight: `text/plain;q=0.1, */*` wants no plain text.
    let (mut open, mut plain) = (0, (0, 0));
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let mut weight = 1000;
        let mut version = None;
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            if name.eq_ignore_ascii_case("q") {
                weight = thousandths(value);
            } else if name.eq_ignore_ascii_case("version") {
                version = Some(value.trim_matches('"'));
            }
        }
        match (kind.as_str(), version) {
            ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => open = open.max(weight),
            ("text/plain", None | Some("0.0.4")) => plain = plain.max((3, weight)),
            ("text/*", _) => plain = plain.max((2, weight)),
            ("*/*", _) => plain = plain.max((1, weight)),
            _ => {}
        }
    }
    if open > 0 && open >= plain.1 { MetricsFormat::OpenMetrics } else { MetricsFormat::Prometheus }
}

/// A weight of 0 to 1 with at most three digits; what is none counts as 0.
fn thousandths(text: &str) -> u32 {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    if rest.len() > 3 || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    match whole {
        "1" => 1000,
        "0" => format!("{rest:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn chosen(accept: &[&'static str]) -> MetricsFormat {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, HeaderValue::from_static(value));
        }
        metrics_format(&headers)
    }

    #[test]
    fn openmetrics_is_for_those_that_ask_for_it() {
        for accept in [
            &["application/openmetrics-text"][..],
            &["Application/OpenMetrics-Text; version=1.0.0; charset=utf-8"],
            &["text/plain", "application/openmetrics-text"],
            &["text/plain;q=0.5,application/openmetrics-text;q=0.75"],
            // Prometheus 2.42 and 3.0.
            &["application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
               text/plain;version=0.0.4;q=0.5,*/*;q=0.1"],
            &["application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,\
               text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"],
        ] {
            assert_eq!(chosen(accept), MetricsFormat::OpenMetrics, "{accept:?}");
        }
        for accept in [
            &[][..],
            &["*/*"],
            &["text/plain"],
            &["text/html,application/xhtml+xml,*/*;q=0.8"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;version=2.0.0"],
            &["application/openmetrics-text;q=0.2,text/plain;version=0.0.4;q=0.3"],
            &["application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily"],
            &["application/openmetrics-text;q=7,,;;=,q"],
        ] {
            assert_eq!(chosen(accept), MetricsFormat::Prometheus, "{accept:?}");
        }
    }

    #[test]
    fn weights_are_thousandths() {
        for (text, weight) in
            [("1", 1000), ("1.000", 1000), ("0", 0), ("0.5", 500), ("0.05", 50), ("0.123", 123), ("0.1234", 0), ("x", 0), ("", 0)]
        {
            assert_eq!(thousandths(text), weight, "{text}");
        }
    }
}
